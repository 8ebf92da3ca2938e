"""Every setting of a run, validated where it is made. Standard library only: the service reads these for its policies.

Each class is frozen, names its units, and refuses what makes no sense with a message that lists what would.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grail.catalogue import FORGET, METHOD, RETAIN, Declaration, declaration, names
from grail.types import Example, Kind, Role, Segment

METHODS = names(METHOD)
OBJECTIVES = names(FORGET)
RETAIN_OBJECTIVES = (*names(RETAIN), "none")
RETAIN_SOURCES = ("domains", "general")
SCORES = ("squared", "zscore")
REGIONS = ("localised", "random", "none")
MASK_RULES = ("conditioned", "frozen", "published")
PRECISIONS = ("auto", "bf16", "fp32")
CHECKPOINTING = ("auto", "on", "off")

GENERAL = "general"
"""The domain of general instruction data, which out-of-distribution methods retain instead of the requests' domains."""

STRATEGY = re.compile(r"combined|[a-z][a-z0-9_-]*(>[a-z][a-z0-9_-]*)*")

LEAST_STEPS = 60
"""Steps that even a single forget item gets: the optimiser needs some tens of updates to move an adapter at all."""
MOST_STEPS = 100_000


WORD = re.compile(r"[a-z][a-z0-9_>-]{0,39}")
"""What may be repeated in an error: no text of a person looks like this."""


class NothingNamed(ValueError):
    """The strategy names none of the domains that something is to be forgotten in."""


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {_shown(value)}: it must be one of {', '.join(known)}{_meant(value, known)}")


def _shown(value: str) -> str:
    """A word as it was given; anything else is not repeated, since errors go where texts must not."""
    return repr(value) if WORD.fullmatch(value) else "no word that is known"


def _meant(given: str, known: tuple[str, ...]) -> str:
    """The known name that `given` may have been meant to be, as the end of a sentence."""
    close = difflib.get_close_matches(given, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN, too
        raise ValueError(f"{name} is {value}: it must lie in {low:g}..{high:g}")


@dataclass(frozen=True, slots=True)
class UnlearnConfig:
    """How an adapter is changed (algorithm sections 2-5). `grail methods` lists what may be named here.

    What is left at "" or 0 is filled in when the object is made: from what `method` fixes and presets, then from what
    `objective` presets. So every config is whole, and what a report shows is what ran.

    Presets are tuned for a 135M model with a rank-16 adapter (what on which data: docs/benchmarks.md); larger models
    want a smaller rate. `steps` 0 means: as many as `passes` passes over the forget items need (see `planned_steps`),
    so that the defaults serve one item as they serve five hundred. `forget_weight` and `retain_weight` are positive;
    the objective owns its sign. `strategy` says which domains are unlearned together: `combined`, or names of domains
    with ">" between them, each a run of its own that starts from what the one before left. What is to be forgotten in a
    domain that it does not name is not trained on and ends as not forgotten.
    """

    method: str = "grail"
    objective: str = ""
    retain_objective: str = ""
    retain_source: str = ""
    score: str = "squared"
    regions: str = ""
    mask_rule: str = ""
    strategy: str = "combined"
    k_ur: float = 0.10  # share of entries per tensor in a set's top for OP-UR
    k_rr: float = 0.20  # the same for OP-RR
    draws: int = 3  # corruptions per example in localisation
    learning_rate: float = 0.0
    passes: float = 3.0  # over the forget items of the domain that has most
    steps: int = 0  # exactly so many; 0: what `passes` need
    examples_per_step: int = 4
    forget_weight: float = 0.0
    retain_weight: float = 0.0
    warmup_share: float = 0.03
    max_gradient_norm: float = 1.0
    score_every_steps: int = 25
    max_forget_gap: float = 10.0  # percentage points above the reference that still count as forgetting, not scarring
    holdout_share: float = 0.10  # of each domain's retain items, held out for checkpoint selection; each is unprotected
    micro_batch: int = 12  # examples in one forward pass; halved when memory runs out
    precision: str = "auto"
    seed: int = 0
    options: Mapping[str, float | str] = field(default_factory=dict)  # of the method and the objective: their files
    activation_checkpointing: str = "auto"  # on, off, or once not even micro-batches of one example fit

    def __post_init__(self) -> None:
        _one_of("method", self.method, METHODS)
        method = declaration(METHOD, self.method)
        self._settle(method.fixes)
        self._preset(method.presets)
        _one_of("objective", self.objective, OBJECTIVES)
        objective = declaration(FORGET, self.objective)
        self._preset(objective.presets)
        self._settle_options(method, objective)
        _one_of("retain_objective", self.retain_objective, RETAIN_OBJECTIVES)
        _one_of("retain_source", self.retain_source, RETAIN_SOURCES)
        if not STRATEGY.fullmatch(self.strategy):
            raise ValueError(
                f"strategy is {_shown(self.strategy)}: it must be combined, or domains with > between "
                "(privacy>copyright)"
            )
        _one_of("score", self.score, SCORES)
        _one_of("regions", self.regions, REGIONS)
        _one_of("mask_rule", self.mask_rule, MASK_RULES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("activation_checkpointing", self.activation_checkpointing, CHECKPOINTING)
        for name, low, high in (
            ("k_ur", 0.0, 1.0),
            ("k_rr", 0.0, 1.0),
            ("draws", 1, 64),
            ("learning_rate", 1e-9, 1.0),
            ("passes", 1e-3, 1e4),
            ("steps", 0, MOST_STEPS),
            ("examples_per_step", 2, 4096),
            ("forget_weight", 0.0, 1e3),
            ("retain_weight", 0.0, 1e3),
            ("warmup_share", 0.0, 0.5),
            ("max_gradient_norm", 1e-6, 1e6),
            ("score_every_steps", 1, 100_000),
            ("max_forget_gap", 0.0, 100.0),
            ("holdout_share", 0.0, 0.5),
            ("micro_batch", 1, 4096),
            ("seed", 0, 2**31 - 1),
        ):
            _within(name, getattr(self, name), low, high)

    def _settle(self, fixed: Mapping[str, Any]) -> None:
        """Take what the method fixes. Raises ValueError where something else was asked for."""
        for name, value in fixed.items():
            if getattr(self, name) not in ("", value):
                raise ValueError(
                    f"the method {self.method} fixes {name} to {value}: leave {name} out, or choose the method grail"
                )
            object.__setattr__(self, name, value)

    def _preset(self, presets: Mapping[str, Any]) -> None:
        """Take presets for what is still open."""
        for name, value in presets.items():
            if getattr(self, name) in ("", 0):
                object.__setattr__(self, name, value)

    def _settle_options(self, *declared: Declaration) -> None:
        """Fill in options left out. Raises ValueError for one that neither the method nor the objective has, or of
        another kind."""
        known = {name: value for source in declared for name, value in source.options.items()}
        for name, value in self.options.items():
            if name not in known:
                raise ValueError(
                    f"the method {self.method} with the objective {self.objective} has no such option; known: "
                    f"{', '.join(sorted(known)) or 'none'}"
                )
            if isinstance(value, str) is not isinstance(known[name], str):
                raise ValueError(f"the option {name} must be like {known[name]!r}")
            if not (WORD.fullmatch(value) if isinstance(value, str) else abs(value) <= sys.float_info.max):
                raise ValueError(f"the option {name} must be a finite number or a word, like {known[name]!r}")
            limits = next((source.limits[name] for source in declared if name in source.limits), None)
            if limits and isinstance(value, str):
                _one_of(f"the option {name}", value, limits)
            elif limits:
                _within(f"the option {name}", float(value), *limits)
        object.__setattr__(self, "options", {**known, **self.options})

    def changed(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The settings to build on when `asked` is to change: these, or when it names another method or objective those
        of `reopened`, without the options that only the present ones have."""
        if not {"method", "objective"} & set(asked):
            return self.as_dict()
        open_again = self.reopened()
        named = {name: asked[name] for name in ("method", "objective") if name in asked}
        try:
            known = UnlearnConfig(**{**open_again, "options": {}, **named}).options
        except (TypeError, ValueError):  # whoever builds on it is told
            return open_again
        options = {name: value for name, value in open_again["options"].items() if name in known}
        return {**open_again, "options": options}

    def reopened(self) -> dict[str, Any]:
        """The settings, with those open again that are only what the method or the objective fixed or preset."""
        settings = self.as_dict()
        for source in (declaration(METHOD, self.method), declaration(FORGET, self.objective)):
            for name, value in {**source.fixes, **source.presets}.items():
                if settings[name] == value:
                    settings[name] = type(value)()
            for name, value in source.options.items():
                if settings["options"].get(name) == value:
                    del settings["options"][name]
        return settings

    def number(self, option: str) -> float:
        """A numeric option of the method or the objective."""
        return float(self.options[option])

    def legs(self, domains: Collection[str]) -> list[tuple[str, ...]]:
        """The domains of each run in turn: all at once for `combined`; else one by one as `strategy` names them, those
        without examples left out. Raises NothingNamed when none is left."""
        if self.strategy == "combined":
            return [tuple(sorted(domains))]
        found: list[tuple[str, ...]] = [(name,) for name in self.strategy.split(">") if name in domains]
        if not found:
            raise NothingNamed(
                f"the strategy {self.strategy} names none of the domains that something is to be forgotten in: "
                f"{', '.join(sorted(domains))}"
            )
        return found

    @property
    def forget_examples_per_step(self) -> int:
        """Half of a step's examples, the larger one; all of them where the method retains nothing."""
        kept = self.examples_per_step // 2 if self.retain_objective != "none" else 0
        return self.examples_per_step - kept

    def planned_steps(self, forget_items: Collection[int]) -> int:
        """How many steps a run takes at most: `steps`, or where that is 0 what `passes` need, within LEAST_STEPS ..
        MOST_STEPS. `forget_items` are counts, one a domain.

        The forget items of a step are shared evenly by the domains, so that the largest domain decides:
        passes * largest * domains / forget_examples_per_step.
        """
        if self.steps:
            return self.steps
        counts = [count for count in forget_items if count]
        drawn = len(counts) * max(counts, default=0)
        return min(max(math.ceil(self.passes * drawn / self.forget_examples_per_step), LEAST_STEPS), MOST_STEPS)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for digests, reports and rows."""
        return {**asdict(self), "options": dict(self.options)}


@dataclass(frozen=True, slots=True)
class GateConfig:
    """The bounds a candidate must keep to be published. Shares are in percentage points, as the metrics are.

    `min_cus` and `min_rs` hold per domain and, on its own points, for each request (`min_request_cus`, lower since a
    request has few items); `min_earlier_cus` per domain, on what earlier runs erased. `max_forget_gap` bounds
    over-forgetting (US - US_ref); `max_ppl_ratio` the forget set's perplexity, to reference/ratio .. reference*ratio.
    """

    min_cus: float = 85.0
    min_rs: float = 85.0
    min_request_cus: float = 60.0
    min_request_rs: float = 60.0
    max_forget_gap: float = 20.0
    max_request_forget_gap: float = 35.0
    min_earlier_cus: float = 80.0
    max_ppl_ratio: float = 10.0
    in_base_accuracy: float = 0.90  # a fact this well known without the adapter ends as `in_base`

    def __post_init__(self) -> None:
        for name in (
            "min_cus",
            "min_rs",
            "min_request_cus",
            "min_request_rs",
            "min_earlier_cus",
            "max_forget_gap",
            "max_request_forget_gap",
        ):
            _within(name, getattr(self, name), 0.0, 100.0)
        _within("max_ppl_ratio", self.max_ppl_ratio, 1.0, 1e12)
        _within("in_base_accuracy", self.in_base_accuracy, 0.0, 1.0)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for digests, reports and rows."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One run, whole: which network, which data, which settings. Made by the service's `worker.translate`.

    Raises NothingNamed when the strategy passes over everything that is to be forgotten.
    """

    base_model: Path
    base_digest: str
    adapter: Path
    adapter_digest: str
    reference_adapter: Path | None
    reference_digest: str  # of the reference adapter; "adapter-off" without one
    prompt_template: str
    unlearn: UnlearnConfig
    gate: GateConfig
    examples: tuple[Example, ...] = field(repr=False)
    kind: Kind = Kind.UNLEARN
    ability_file: Path | None = None  # questions of the operator's own, for general ability
    ability_questions: int = 0  # how many of them are drawn

    def __post_init__(self) -> None:
        self.legs()

    def legs(self) -> list[tuple[str, ...]]:
        """The domains of each run in turn, of all in which something was asked to be forgotten; none without that."""
        asked = {e.domain for e in self.examples if e.segment is Segment.FORGET and e.role is Role.ITEM}
        return self.unlearn.legs(asked) if asked else []
