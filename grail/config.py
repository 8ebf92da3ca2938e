"""Every setting of a run, validated where it is made. Standard library only: the service reads these for its policies.

Each class is frozen, names its units, and refuses what makes no sense with a message that lists what would.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grail.types import Example

SCORES = ("squared", "zscore")
REGIONS = ("localised", "random", "none")
MASK_RULES = ("conditioned",)
OBJECTIVES = ("calibrated", "ascent")
PRECISIONS = ("auto", "bf16", "fp32")
CHECKPOINTING = ("auto", "on", "off")

LEAST_STEPS = 30
"""Steps that even a single forget item gets: the optimiser needs some tens of updates to move an adapter at all."""
MOST_STEPS = 100_000


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(known)}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} is {value}: it must lie in {low:g}..{high:g}")


@dataclass(frozen=True, slots=True)
class UnlearnConfig:
    """How an adapter is changed (algorithm sections 2-4).

    `learning_rate`, `passes` and `examples_per_step` are tuned for a 135M model with a rank-16 adapter (what on which
    data: docs/benchmarks.md); larger models want a smaller rate. `steps` 0 means: as many as `passes` passes over
    the forget items need (see `planned_steps`), so that the defaults serve one item as they serve five hundred.
    `forget_weight` and `retain_weight` are positive; the objective owns its sign.
    """

    method: str = "grail"
    objective: str = "calibrated"
    score: str = "squared"
    regions: str = "localised"
    mask_rule: str = "conditioned"
    k_ur: float = 0.10  # share of entries per tensor in a set's top for OP-UR
    k_rr: float = 0.20  # the same for OP-RR
    draws: int = 3  # corruptions per example in localisation
    learning_rate: float = 2e-3
    passes: float = 5.0  # over the forget items of the domain that has most
    steps: int = 0  # exactly so many; 0: what `passes` need
    examples_per_step: int = 8
    forget_weight: float = 2.5
    retain_weight: float = 1.0
    warmup_share: float = 0.03
    max_gradient_norm: float = 1.0
    score_every_steps: int = 25
    max_forget_gap: float = 10.0  # percentage points above the reference that still count as forgetting, not scarring
    holdout_share: float = 0.10  # of each domain's retain items, held out for checkpoint selection; each is unprotected
    micro_batch: int = 12  # examples in one forward pass; halved when memory runs out
    precision: str = "auto"
    seed: int = 0
    activation_checkpointing: str = "auto"  # on, off, or once not even micro-batches of one example fit

    def __post_init__(self) -> None:
        _one_of("objective", self.objective, OBJECTIVES)
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

    def planned_steps(self, forget_items: Collection[int]) -> int:
        """How many steps a run takes at most: `steps`, or where that is 0 what `passes` need, within LEAST_STEPS ..
        MOST_STEPS. `forget_items` are counts, one a domain.

        Half of a step's examples are forget items, shared evenly by the domains, so that the largest domain decides:
        passes * largest * domains / (examples_per_step // 2).
        """
        if self.steps:
            return self.steps
        counts = [count for count in forget_items if count]
        drawn = len(counts) * max(counts, default=0)
        return min(max(math.ceil(self.passes * drawn / (self.examples_per_step // 2)), LEAST_STEPS), MOST_STEPS)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for digests, reports and rows."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class GateConfig:
    """The bounds a candidate must keep to be published. Shares are in percentage points, as the metrics are.

    `min_cus` and `min_rs` hold per domain and, on its own points, for each request (`min_request_cus`, lower since a
    request has few items). `max_forget_gap` bounds over-forgetting (US - US_ref); `max_ppl_ratio` bounds the forget
    set's perplexity to reference/ratio .. reference*ratio.
    """

    min_cus: float = 85.0
    min_rs: float = 85.0
    min_request_cus: float = 60.0
    min_request_rs: float = 60.0
    max_forget_gap: float = 20.0
    max_request_forget_gap: float = 35.0
    max_ppl_ratio: float = 10.0
    in_base_accuracy: float = 0.90  # a fact this well known without the adapter ends as `in_base`

    def __post_init__(self) -> None:
        for name in (
            "min_cus",
            "min_rs",
            "min_request_cus",
            "min_request_rs",
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
    """One run, whole: which network, which data, which settings. Made by the service's `worker.translate`."""

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
