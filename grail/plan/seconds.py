"""Seconds of each stage: products, weights read, passes handed over.

A product of a weight with a token costs 2 FLOP. The base is frozen: its backward pass carries the signal through every
weight (2 FLOP) but makes no gradient for it; only the adapter's entries pay for one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from grail.config import UnlearnConfig
from grail.plan.devices import Device
from grail.plan.shape import ModelShape, Workload

FORWARD_GAIN = 1.3
"""Passes without gradients hold larger batches and keep nothing: so much faster a product."""
FORWARD_ROWS = 64
"""Rows in one pass without gradients (grail.evaluate.MICRO_BATCH)."""
FORWARD_TOKENS = 4096
"""Tokens in one such pass (grail.metrics.likelihood.TOKENS_AT_ONCE)."""
NETWORKS = 3
"""Teacher-forced passes over every example: under the starting adapter, the reference and the candidate."""
ANSWER_SLACK = 12
"""Tokens that a free answer may be longer than the true one (grail.metrics.likelihood)."""
BACKWARD_DISPATCH = 2.0
"""A backward pass hands over about twice as many operations as its forward pass."""
OPTIMISER_PASSES = 24
"""Times that a step reads or writes each fp32 adapter entry: contributions, masks, clipping, AdamW."""
ASK_ONCE = {"calibrated", "hinge", "npo", "kl"}
"""Objectives that pass every example once through the reference or the original before the first step."""
REGION_SECONDS_PER_ENTRY = 5e-8
"""Two quantiles, two comparisons and a share of the overlaps for one adapter entry of one set, on one core: regions are
found on the processor, wherever gradients were computed."""
CORE_BYTES_PER_SECOND = 6e9
"""Plain reading and writing of memory by one core."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What tokens and passes cost on a device. `length` is the mean tokens of a row, `share` of them predicted."""

    shape: ModelShape
    entries: int
    length: float
    share: float
    device: Device
    weight_bytes: int
    checkpointing: bool

    @property
    def forward(self) -> float:
        """FLOP a token: projections and adapter, attention's two products, the output matrix where it is asked."""
        through = 2 * (self.shape.projected + self.entries)
        attention = 4 * self.shape.layers * self.shape.queries * self.length
        return through + attention + self.share * self.head

    @property
    def head(self) -> float:
        """FLOP of one predicted position's logits."""
        return 2 * self.shape.vocabulary * self.shape.hidden

    @property
    def training(self) -> float:
        """FLOP a token, forward and back: attention's products have two gradients each, the adapter's entries too; with
        checkpointing the layers' forward pass once more."""
        attention = 4 * self.shape.layers * self.shape.queries * self.length
        again = self.forward - self.share * self.head if self.checkpointing else 0.0
        return 2 * self.forward + attention + 2 * self.entries + again

    def seconds(self, flop: float, passes: float, *, back: bool = False) -> float:
        """`flop` spread over `passes` passes: products, reading the weights, handing the work over. `back`: with a
        backward pass.

        A GPU computes while the next operations are handed to it, so that the longer of the two counts; a processor
        does one after the other.
        """
        turns = 1 + back * (1 + self.checkpointing)
        rate = self.device.flop_per_second * (1.0 if back else FORWARD_GAIN)
        computing = flop / rate + passes * turns * self.weight_bytes / self.device.bytes_per_second
        turns_handed = 1 + back * (BACKWARD_DISPATCH + self.checkpointing)
        handing = passes * turns_handed * self.device.dispatch_seconds * self.shape.layers
        return max(computing, handing) if self.device.is_gpu else computing + handing


def stage_seconds(cost: Cost, load: Workload, config: UnlearnConfig) -> dict[str, float]:
    """Seconds of `localise`, `train`, `select`, `evaluate` and `answer`.

    With P projected weights, A adapter entries, L layers of q query widths, mean length T, V vocabulary and a share s
    of predicted tokens, a token costs
        forward   f = 2 (P + A) + 4 L q T + 2 s V h
        training  t = 2 f + 4 L q T + 2 A     (+ the layers' forward once more with checkpointing)
    and every pass reads all weights. A job passes
        localise  draws * trained tokens * t, then quantiles over A entries of each set
        train     steps * rows a step * T * t, once the reference where the objective asks it, and its output matrix
                  again in each step where the whole vocabulary is compared
        select    every score_every_steps: forget items and held-out retain items * f
        evaluate  NETWORKS * scored tokens * f
        answer    forget items under the reference, and with their probes under the candidate, token by token
    Half of a step's rows are forget items, half retain items (none where the method retains nothing), no more of either
    than there are. Steps are those of `UnlearnConfig.planned_steps`, leg by leg of the strategy; a run that stops early
    takes fewer.
    """
    forget = sum(load.forget_items)
    held = _held_out(load, config, forget)
    trained = load.items - held
    return {
        "localise": _localise(cost, load, config, trained) if config.regions != "none" else 0.0,
        "train": _train(cost, load, config, forget, trained - forget),
        "select": _select(cost, load, config, forget + held),
        "evaluate": cost.seconds(
            NETWORKS * load.scored_tokens * cost.forward, NETWORKS * _chunks(load.scored, cost.length)
        ),
        "answer": _answer(cost, load, forget),
    }


def _held_out(load: Workload, config: UnlearnConfig, forget: int) -> int:
    """Retain items that checkpoints are chosen by; a domain with a single one trains on it."""
    retain = load.items - forget
    return math.ceil(config.holdout_share * retain) if retain > 1 else 0


def _chunks(rows: float, length: float) -> float:
    """Passes without gradients that `rows` rows need."""
    return math.ceil(rows / max(1.0, min(FORWARD_ROWS, FORWARD_TOKENS / max(length, 1.0))))


def _localise(cost: Cost, load: Workload, config: UnlearnConfig, trained: int) -> float:
    sets = 2 * max(1, sum(1 for count in load.forget_items if count))
    passes = math.ceil(trained / max(1, config.micro_batch // config.draws))
    flop = config.draws * trained * cost.length * (cost.training + 2 * cost.entries)
    regions = sets * cost.entries * REGION_SECONDS_PER_ENTRY if trained else 0.0
    return cost.seconds(flop, passes, back=True) + regions


def _legs(load: Workload, config: UnlearnConfig) -> list[tuple[int, ...]]:
    """Forget items of each domain, leg by leg: all domains at once, or one after the other. Which domains a strategy
    leaves out is not known here."""
    counts = tuple(count for count in load.forget_items if count)
    return [counts] if config.strategy == "combined" else [(count,) for count in counts]


def _steps(load: Workload, config: UnlearnConfig) -> int:
    """Of all legs together."""
    return sum(config.planned_steps(leg) for leg in _legs(load, config))


def _train(cost: Cost, load: Workload, config: UnlearnConfig, forget: int, retain: int) -> float:
    legs, steps = _legs(load, config), _steps(load, config)
    rows = config.forget_examples_per_step
    sides = (min(rows, forget // max(len(legs), 1)), min(config.examples_per_step - rows, retain))
    passes = sum(math.ceil(rows / config.micro_batch) for rows in sides)
    flop = steps * sum(sides) * cost.length * cost.training
    seconds = 0.0
    for name, each, of in ((config.objective, sides[0], forget), (config.retain_objective, sides[1], retain)):
        if name in ASK_ONCE:
            seconds += cost.seconds(of * cost.length * cost.forward, math.ceil(of / config.micro_batch))
        if name == "kl" or (name == "calibrated" and config.options["over"] == "vocabulary"):
            flop += steps * each * cost.length * cost.share * cost.head
    on = cost.device.bytes_per_second if cost.device.is_gpu else CORE_BYTES_PER_SECOND
    optimiser = steps * cost.entries * 4 * OPTIMISER_PASSES / on if sum(sides) else 0.0
    return cost.seconds(flop, steps * passes, back=True) + optimiser + seconds


def _select(cost: Cost, load: Workload, config: UnlearnConfig, seen: int) -> float:
    legs = _legs(load, config)
    checkpoints = sum(math.ceil(config.planned_steps(leg) / config.score_every_steps) for leg in legs)
    seen = math.ceil(seen / max(len(legs), 1))
    flop = checkpoints * seen * cost.length * cost.forward
    return cost.seconds(flop, checkpoints * _chunks(seen, cost.length))


def _answer(cost: Cost, load: Workload, forget: int) -> float:
    """Greedy answers: each token of a chunk is one pass. What the starting adapter says of a fact that it knows is read
    off its teacher-forced pass, and so is what the candidate has kept."""
    probed = forget * load.scored / max(load.items, 1)
    tokens = cost.length * cost.share + ANSWER_SLACK
    width = cost.length + ANSWER_SLACK
    seconds = 0.0
    for rows in (forget, probed):
        asked = rows * cost.length * (1 - cost.share) * (cost.forward - cost.share * cost.head)
        said = rows * tokens * (cost.forward + (1 - cost.share) * cost.head)
        seconds += cost.seconds(asked + said, _chunks(rows, width) * tokens)
    return seconds
