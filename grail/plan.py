"""Seconds and bytes of a job from first principles, before anything is computed. Standard library only.

A product of a weight with a token costs 2 FLOP. The base is frozen: its backward pass carries the signal through every
weight (2 FLOP) but makes no gradient for it; only the adapter's entries pay for one. Lengths are means over the
examples, so that padding is not counted: read the figures as "about this much", not as a promise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grail.config import UnlearnConfig

CORE_FLOP_PER_SECOND = 64e9
"""What training reaches on one x86-64 core with AVX-512: about a third of what a bf16 matrix product does."""
RUNTIME_BYTES = 400_000_000
"""Interpreter and learning stack before the first weight."""
FORWARD_GAIN = 2.0
"""Passes without gradients hold larger batches and keep nothing: about twice the rate of training."""
EVALUATIONS = 5
"""Teacher-forced passes over every example under the starting adapter, the reference and the candidate, and free
answers that cost about two more: what the starting adapter says is read off its own pass, the reference is asked what
was requested alone."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder with gated MLPs. `linears` maps a projection of ONE layer to (inputs, outputs)."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    tied_embeddings: bool
    linears: Mapping[str, tuple[int, int]]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read a `config.json` of the Llama kind. Raises KeyError for one that names its sizes otherwise."""
        hidden, heads, inner = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
        head = config.get("head_dim") or hidden // heads
        keys = head * (config.get("num_key_value_heads") or heads)
        linears = {
            "q_proj": (hidden, head * heads),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (head * heads, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }
        tied = bool(config.get("tie_word_embeddings", False))
        return cls(config["num_hidden_layers"], hidden, heads, config["vocab_size"], tied, linears)

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with: the layers' projections and the output matrix."""
        return self.layers * sum(i * o for i, o in self.linears.values()) + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights: `multiplied`, an untied input embedding, two norms a layer and a last one."""
        embedding = 0 if self.tied_embeddings else self.vocabulary * self.hidden
        return self.multiplied + embedding + (2 * self.layers + 1) * self.hidden

    def adapter_entries(self, rank: int, targets: list[str] | str | None = None) -> int:
        """Entries of LoRA's A (rank, in) and B (out, rank) over `targets`, all projections when that is no list."""
        chosen = self.linears if not isinstance(targets, list) else {n: self.linears.get(n, (0, 0)) for n in targets}
        return rank * self.layers * sum(i + o for i, o in chosen.values())


@dataclass(frozen=True, slots=True)
class Workload:
    """What a batch brings: `items` are trained on, `scored` counts items and probes. Tokens include prompts and eos.
    `forget_items` are counts of those among `items`, one a domain: they decide how many steps a run takes."""

    items: int
    item_tokens: int
    scored: int
    scored_tokens: int
    longest_tokens: int
    forget_items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """`stages` are the seconds of each stage, `seconds` their sum; `bytes` the peak of one process."""

    seconds: float
    bytes: int
    stages: Mapping[str, float]


def estimate(
    shape: ModelShape, adapter_entries: int, load: Workload, config: UnlearnConfig, flop_per_second: float
) -> Estimate:
    """What a job will take. `flop_per_second` is what the device reaches in training, not its data sheet's peak.

    With P weights multiplied, A adapter entries, L layers of width h and mean length T, a token costs
        forward   f = 2 (P + A) + 4 L h T           (the last term is attention: scores and their weighted sum)
        training  t = 2 f + 2 A                     (the signal back through everything, gradients for A only)
    and a job
        localise  draws * item tokens * t
        train     steps * rows a step * T * t       (+ forget items * T * f once under `calibrated`: the reference)
        select    steps / score_every_steps * item tokens * f / FORWARD_GAIN
        evaluate  EVALUATIONS * scored tokens * f / FORWARD_GAIN
    Half of a step's rows are forget items, half retain items, no more of either than there are. Steps are those of
    `UnlearnConfig.planned_steps`; a run that stops early takes fewer. Raises ValueError when `flop_per_second` is not
    above 0.
    """
    if not flop_per_second > 0:
        raise ValueError(f"flop_per_second is {flop_per_second}: it must be above 0")
    mean_item = load.item_tokens / max(load.items, 1)
    mean_scored = load.scored_tokens / max(load.scored, 1)
    forward = 2 * (shape.multiplied + adapter_entries) + 4 * shape.layers * shape.hidden * mean_scored
    training = 2 * forward + 2 * adapter_entries
    forget, steps = sum(load.forget_items), config.planned_steps(load.forget_items)
    half = config.examples_per_step // 2
    rows = min(half, forget) + min(config.examples_per_step - half, load.items - forget)
    reference = forget * mean_item * forward if config.objective == "calibrated" else 0.0
    flop = {
        "localise": config.draws * load.item_tokens * training if config.regions != "none" else 0.0,
        "train": steps * rows * mean_item * training + reference,
        "select": math.ceil(steps / config.score_every_steps) * load.item_tokens * forward / FORWARD_GAIN,
        "evaluate": EVALUATIONS * load.scored_tokens * forward / FORWARD_GAIN,
    }
    stages = {name: amount / flop_per_second for name, amount in flop.items()}
    return Estimate(math.fsum(stages.values()), peak_bytes(shape, adapter_entries, load, config), stages)


def peak_bytes(shape: ModelShape, adapter_entries: int, load: Workload, config: UnlearnConfig) -> int:
    """Peak memory of one process, while training on a micro-batch of b rows of the longest length T.

    weights P * w (w = 2 bytes in bf16, else 4); adapter A * 4 * 7 (value, two contributions, two moments, starting and
    kept copy) + A * 4 * 4 scores + 2 A masks; activations b T h L * 17 w + 2.5 w * heads * b T^2 L (Korthikanti et al.,
    arXiv 2205.05198, section 4.1); logits of the current and the reference network and one gradient, 12 b T V.
    """
    width = 2 if config.precision == "bf16" else 4
    rows, length = min(config.micro_batch, max(load.scored, 1)), load.longest_tokens
    activations = rows * length * shape.hidden * shape.layers * 17 * width
    attention = 5 * width * shape.heads * rows * length**2 * shape.layers // 2
    logits = 12 * rows * length * shape.vocabulary
    weights = shape.parameters * width
    return RUNTIME_BYTES + weights + adapter_entries * (4 * 7 + 4 * 4 + 2) + activations + attention + logits
