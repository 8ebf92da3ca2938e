"""Fused weights: q, k, v in one matrix, gate and up in another; the modules keep views of their own rows.

A slice of rows of a row-major matrix is contiguous, so that transformers' own modules go on working on the same bytes
and nothing is held twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer

from grail.model.adapter import adapter_parameters
from grail.model.lean.eligible import ADAPTER, projections

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


@dataclass(frozen=True, slots=True)
class Part:
    """One adapted module inside a fused projection: its outputs are the columns `start`..`stop`. Names are those of
    its lora_A and lora_B."""

    module: Any
    start: int
    stop: int
    name_a: str
    name_b: str

    @property
    def a(self) -> torch.nn.Parameter:
        """The live lora_A (r, in)."""
        weight: torch.nn.Parameter = self.module.lora_A[ADAPTER].weight
        return weight

    @property
    def b(self) -> torch.nn.Parameter:
        """The live lora_B (out, r)."""
        weight: torch.nn.Parameter = self.module.lora_B[ADAPTER].weight
        return weight

    @property
    def scale(self) -> float:
        """What B A x is multiplied with."""
        return float(self.module.scaling[ADAPTER])


@dataclass(frozen=True, slots=True)
class Projection:
    """y = W x with W (out, in) frozen, and the adapted parts of y."""

    weight: torch.Tensor = field(repr=False)
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Factors:
    """The adapter of one projection as one pass uses it: `a` (R, in) all parts' A on one another, `b` (out, R) their
    scaled B on the diagonal, R the sum of ranks; `ranks` are each part's columns. In the base's precision."""

    a: torch.Tensor = field(repr=False)
    b: torch.Tensor = field(repr=False)
    ranks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. Norm weights (H,) are the modules' own."""

    qkv: Projection
    out: Projection
    gate_up: Projection
    down: Projection
    norm_attention: torch.Tensor = field(repr=False)
    norm_mlp: torch.Tensor = field(repr=False)

    @property
    def projections(self) -> tuple[Projection, Projection, Projection, Projection]:
        """In the order of the forward pass."""
        return self.qkv, self.out, self.gate_up, self.down


def factors(projection: Projection, dtype: torch.dtype) -> Factors | None:
    """A copy of the adapter's present tensors in the base's precision; None where nothing is adapted."""
    if not projection.parts:
        return None
    ranks, reached = [], 0
    for part in projection.parts:
        ranks.append((reached, reached + part.a.shape[0]))
        reached += part.a.shape[0]
    a = torch.cat([part.a.detach().to(dtype) for part in projection.parts])
    b = torch.zeros(projection.weight.shape[0], reached, dtype=dtype, device=projection.weight.device)
    for part, (low, high) in zip(projection.parts, ranks, strict=True):
        b[part.start : part.stop, low:high] = part.b.detach() * part.scale
    return Factors(a, b, tuple(ranks))


@torch.no_grad()
def fuse(model: Any) -> list[Layer]:
    """Fuse the weights of every layer of a PeftModel without an obstacle, one layer at a time."""
    names = {parameter: name for name, parameter in adapter_parameters(model).items()}
    return [_layer(layer, names) for layer in model.get_base_model().model.layers]


def _layer(layer: Any, names: dict[torch.nn.Parameter, str]) -> Layer:
    modules = dict(projections(layer))
    qkv, out, gate_up, down = (_projection([modules[name] for name in group], names) for group in GROUPS)
    norms = (layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach())
    return Layer(qkv, out, gate_up, down, *norms)


def _projection(modules: list[Any], names: dict[torch.nn.Parameter, str]) -> Projection:
    plain = [module.base_layer if isinstance(module, LoraLayer) else module for module in modules]
    weight = plain[0].weight.detach()
    if len(plain) > 1:
        weight = torch.cat([linear.weight.detach() for linear in plain])
    parts, reached = [], 0
    for module, linear in zip(modules, plain, strict=True):
        end = reached + linear.weight.shape[0]
        linear.weight.data = weight[reached:end]
        if isinstance(module, LoraLayer):
            pair = (names[side[ADAPTER].weight] for side in (module.lora_A, module.lora_B))
            parts.append(Part(module, reached, end, *pair))
        reached = end
    return Projection(weight, tuple(parts))
