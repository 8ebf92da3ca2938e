"""One decoder layer over packed tokens (M, H), forward and backward by hand; gradients for the adapter alone.

    n1 = norm(x);  x2 = x + O attend(QKV n1);  n2 = norm(x2);  y = x2 + D (silu(G n2) * U n2)

and each projection is W x + B A x with W frozen. Backward, with g what flowed back to a projection's output:
u = g B flows into A's output; dA = u' x, dB = g' (A x), and g W + u A flows on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.model.lean.attention import Attended, Places, attend, attend_back
from grail.model.lean.weights import Factors, Layer, Projection

LayerFactors = tuple[Factors | None, Factors | None, Factors | None, Factors | None]
Harvest = Callable[[Projection, Factors, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Called for each adapted projection with (projection, factors, x (M, in), A x (M, R), u (M, R), g (M, out))."""


class Kept(NamedTuple):
    """What a layer's backward pass needs. `low_*` are A x of each projection, `scale_*` (M, 1) the norms' factors."""

    x: torch.Tensor
    scale_attention: torch.Tensor
    normed_attention: torch.Tensor
    low_qkv: torch.Tensor | None
    attended: Attended
    seen: torch.Tensor
    low_out: torch.Tensor | None
    middle: torch.Tensor
    scale_mlp: torch.Tensor
    normed_mlp: torch.Tensor
    low_gate_up: torch.Tensor | None
    gate_up: torch.Tensor
    gate: torch.Tensor
    low_down: torch.Tensor | None


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x / rms(x) * weight, and the factor 1 / rms (M, 1) in fp32. Source: arXiv 1910.07467, rounded as in Llama."""
    wide = x.float()
    factor = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True).add_(eps))
    return (wide * factor).to(x.dtype) * weight, factor


def norm_back(g: torch.Tensor, x: torch.Tensor, factor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gradient of `norm` with respect to x, fp32: factor (g w - n mean(g w n)) with n = x factor."""
    normed = x.float() * factor
    back = g.float() * weight.float()
    return back.addcmul_(normed, (back * normed).mean(dim=-1, keepdim=True), value=-1.0).mul_(factor)


def project(
    x: torch.Tensor, projection: Projection, factors: Factors | None, plus: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """W x + B A x (+ plus), and A x (M, R)."""
    whole = F.linear(x, projection.weight) if plus is None else torch.addmm(plus, x, projection.weight.t())
    if factors is None:
        return whole, None
    low = F.linear(x, factors.a)
    return whole.addmm_(low, factors.b.t()), low


def project_back(
    g: torch.Tensor,
    x: torch.Tensor,
    low: torch.Tensor | None,
    projection: Projection,
    factors: Factors | None,
    harvest: Harvest,
) -> torch.Tensor:
    """Hand the adapter's part to `harvest` and return what flows into x (M, in)."""
    back = torch.mm(g, projection.weight)
    if factors is None or low is None:
        return back
    into_a = torch.mm(g, factors.b)
    harvest(projection, factors, x, low, into_a, g)
    return back.addmm_(into_a, factors.a)


def forward(x: torch.Tensor, layer: Layer, factors: LayerFactors, at: Places, eps: float) -> tuple[torch.Tensor, Kept]:
    """The layer's output (M, H) and what its backward pass needs."""
    normed_attention, scale_attention = norm(x, layer.norm_attention, eps)
    qkv, low_qkv = project(normed_attention, layer.qkv, factors[0])
    seen, attended = attend(qkv, at)
    middle, low_out = project(seen, layer.out, factors[1], plus=x)
    normed_mlp, scale_mlp = norm(middle, layer.norm_mlp, eps)
    gate_up, low_gate_up = project(normed_mlp, layer.gate_up, factors[2])
    inner = gate_up.shape[1] // 2
    gate = F.silu(gate_up[:, :inner])
    out, low_down = project(gate * gate_up[:, inner:], layer.down, factors[3], plus=middle)
    kept = Kept(
        x, scale_attention, normed_attention, low_qkv, attended, seen, low_out, middle, scale_mlp, normed_mlp,
        low_gate_up, gate_up, gate, low_down,
    )  # fmt: skip
    return out, kept


def backward(
    g: torch.Tensor, kept: Kept, layer: Layer, factors: LayerFactors, at: Places, harvest: Harvest
) -> torch.Tensor:
    """What flows into the layer's input, from what flowed back to its output (M, H); g itself is overwritten."""
    inner = kept.gate.shape[1]
    gate_before, up = kept.gate_up[:, :inner], kept.gate_up[:, inner:]
    into_mlp = project_back(g, kept.gate * up, kept.low_down, layer.down, factors[3], harvest)
    split = torch.empty_like(kept.gate_up)
    torch.mul(into_mlp, kept.gate, out=split[:, inner:])
    torch.ops.aten.silu_backward.grad_input(into_mlp.mul_(up), gate_before, grad_input=split[:, :inner])
    into_norm = project_back(split, kept.normed_mlp, kept.low_gate_up, layer.gate_up, factors[2], harvest)
    g.add_(norm_back(into_norm, kept.middle, kept.scale_mlp, layer.norm_mlp))
    into_seen = project_back(g, kept.seen, kept.low_out, layer.out, factors[1], harvest)
    into_qkv = attend_back(into_seen, kept.attended, at)
    into_norm = project_back(into_qkv, kept.normed_attention, kept.low_qkv, layer.qkv, factors[0], harvest)
    return g.add_(norm_back(into_norm, kept.x, kept.scale_attention, layer.norm_attention))
