"""Sizes: of a decoder, of an adapter on it, of the work that a batch brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTES_OF = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes a weight, as `config.json` names the kind that its file holds."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder with gated MLPs. `linears` maps a projection of ONE layer to (inputs, outputs).

    `queries` and `keys` are the widths of all query heads and of all key heads together; `stored_bytes` a weight takes
    in its file.
    """

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    tied_embeddings: bool
    linears: Mapping[str, tuple[int, int]]
    queries: int
    keys: int
    inner: int
    stored_bytes: int = 2

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
        return cls(
            config["num_hidden_layers"],
            hidden,
            heads,
            config["vocab_size"],
            bool(config.get("tie_word_embeddings", False)),
            linears,
            queries=head * heads,
            keys=keys,
            inner=inner,
            stored_bytes=BYTES_OF.get(str(config.get("dtype") or config.get("torch_dtype")), 2),
        )

    @property
    def projected(self) -> int:
        """Weights of the layers' projections: what an adapter sits on and what a quantised base shrinks."""
        return self.layers * sum(i * o for i, o in self.linears.values())

    @property
    def multiplied(self) -> int:
        """Weights that a predicted token is multiplied with: the layers' projections and the output matrix."""
        return self.projected + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights: `multiplied`, an untied input embedding, two norms a layer and a last one."""
        embedding = 0 if self.tied_embeddings else self.vocabulary * self.hidden
        return self.multiplied + embedding + (2 * self.layers + 1) * self.hidden

    def adapter_entries(self, rank: int, targets: list[str] | str | None = None) -> int:
        """Entries of LoRA's A (rank, in) and B (out, rank) over `targets`, all projections when that is no list."""
        chosen = self.linears if not isinstance(targets, list) else {n: self.linears.get(n, (0, 0)) for n in targets}
        return rank * self.layers * sum(i + o for i, o in chosen.values())


def _llama(hidden: int, heads: int, key_heads: int, inner: int, layers: int, vocabulary: int) -> ModelShape:
    return ModelShape.from_config(
        {
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "vocab_size": vocabulary,
        }
    )


NAMED_SHAPES: Mapping[str, ModelShape] = {
    "llama-7b": _llama(4096, 32, 32, 11008, 32, 32000),
    "llama-13b": _llama(5120, 40, 40, 13824, 40, 32000),
    "llama-70b": _llama(8192, 64, 8, 28672, 80, 32000),
    "llama-3-8b": _llama(4096, 32, 8, 14336, 32, 128256),
    "llama-3-70b": _llama(8192, 64, 8, 28672, 80, 128256),
}
"""Published sizes (Llama 2 and 3; the 70B ones and all of Llama 3 with grouped keys), for questions without weights."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a batch brings: `items` are trained on, `scored` counts items and probes. Tokens include prompts and eos.
    `forget_items` are counts of those among `items`, one a domain: they decide how many steps a run takes.
    `completion_share` of the tokens are predicted, the rest are prompts; where nobody counted it is 1, which
    overstates the output matrix's part."""

    items: int
    item_tokens: int
    scored: int
    scored_tokens: int
    longest_tokens: int
    forget_items: tuple[int, ...]
    completion_share: float = 1.0
