"""The whole decoder as one differentiable function of the adapter's live tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from grail.data.batches import PaddedBatch
from grail.model.lean import layer as one_layer
from grail.model.lean.attention import Heads, Places, places
from grail.model.lean.eligible import ADAPTER, obstacle
from grail.model.lean.layer import LayerFactors
from grail.model.lean.layout import Layout, lay_out
from grail.model.lean.weights import Factors, Layer, Part, Projection, factors, fuse

ATTRIBUTE = "grail_lean"
"""Where a PeftModel carries its lean decoder, so that whoever holds the model finds it."""

Sink = Callable[[str, torch.Tensor], None]


@dataclass(frozen=True, slots=True)
class Watch:
    """Someone who wants each example's own gradients: rows are grouped by `draws`."""

    draws: int
    sink: Sink


@dataclass(slots=True)
class LeanDecoder:
    """Fused layers of one PeftModel. `watch` is set while per-example gradients are asked for."""

    base: Any = field(repr=False)
    layers: list[Layer] = field(repr=False)
    heads: Heads
    watch: Watch | None = None

    @property
    def parts(self) -> list[Part]:
        """Every adapted module, in the order of the forward pass."""
        return [part for layer in self.layers for projection in layer.projections for part in projection.parts]

    def adapted(self) -> bool | None:
        """Whether the adapter is on; None when it is neither on nor off as a whole (or merged into the base)."""
        states = {
            None if part.module.merged or part.module.active_adapters != [ADAPTER] else not part.module.disable_adapters
            for part in self.parts
        }
        return states.pop() if len(states) == 1 else None

    def observed(self) -> bool:
        """Whether someone has put hooks on the decoder's modules, or a forward pass of their own (activation
        checkpointing does), which only the general path calls."""
        network = self.base.model
        blocks = (block for layer in network.layers for block in (layer, layer.self_attn, layer.mlp))
        return any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in (network, *blocks))

    def completion_hidden(self, batch: PaddedBatch) -> torch.Tensor | None:
        """Last hidden states (L, H) at the positions that predict `batch.labels`; differentiable with respect to the
        adapter. None when the adapter's state or someone's hooks have to be served by the general path."""
        adapted = self.adapted()
        if adapted is None or self.observed():
            return None
        watch = self.watch
        layout = lay_out(batch, watch.draws if watch else None)
        parameters = [parameter for part in self.parts for parameter in (part.a, part.b)] if adapted else []
        if parameters and torch.is_grad_enabled():
            hidden: torch.Tensor = _Decode.apply(self, layout, watch, *parameters)  # type: ignore[no-untyped-call]
            return hidden
        with torch.no_grad():
            return self.read(self.run(layout, adapted=adapted, keep=False), layout)

    @contextmanager
    def watched(self, draws: int, sink: Sink) -> Iterator[None]:
        """While open, backward passes hand `sink(name, gradients)` the gradients (N, out, in), fp32, of each example
        of each adapter tensor, and leave none in the parameters."""
        before, self.watch = self.watch, Watch(draws, sink)
        try:
            yield
        finally:
            self.watch = before

    def run(self, layout: Layout, *, adapted: bool, keep: bool) -> Pass:
        """Through all layers."""
        network = self.base.model
        x = network.embed_tokens.weight.detach()[layout.tokens]
        at = places(layout, self.heads, network.rotary_emb.inv_freq, x.dtype)
        all_factors: list[LayerFactors] = []
        kept = []
        for layer in self.layers:
            of_layer = [factors(projection, x.dtype) if adapted else None for projection in layer.projections]
            chosen = (of_layer[0], of_layer[1], of_layer[2], of_layer[3])
            x, needed = one_layer.forward(x, layer, chosen, at, self.base.config.rms_norm_eps)
            if keep:
                all_factors.append(chosen)
                kept.append(needed)
        return Pass(x, at, all_factors, kept)

    def read(self, done: Pass, layout: Layout) -> torch.Tensor:
        """The normed states (L, H) of the tokens that predict labels."""
        last = self.base.model.norm
        return one_layer.norm(done.x[layout.read], last.weight.detach(), last.variance_epsilon)[0]


@dataclass(slots=True)
class Pass:
    """A forward pass: the last layer's output (M, H), and each layer's factors and kept tensors."""

    x: torch.Tensor
    at: Places
    factors: list[LayerFactors]
    kept: list[one_layer.Kept]


class _Decode(torch.autograd.Function):
    """`completion_hidden` with its gradient; takes the adapter's tensors so that autograd knows what it depends on."""

    @staticmethod
    def forward(
        ctx: Any, lean: LeanDecoder, layout: Layout, watch: Watch | None, *_: torch.nn.Parameter
    ) -> torch.Tensor:
        ctx.lean, ctx.layout, ctx.watch = lean, layout, watch
        ctx.done = lean.run(layout, adapted=True, keep=True)
        return lean.read(ctx.done, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, flowed_back: torch.Tensor) -> tuple[Any, ...]:
        lean, layout, done = ctx.lean, ctx.layout, ctx.done
        if done is None:
            raise RuntimeError("the lean path keeps what a backward pass needs once: do the forward pass again")
        ctx.done = None
        last = lean.base.model.norm
        states = done.x[layout.read]
        factor = one_layer.norm(states, last.weight.detach(), last.variance_epsilon)[1]
        into = one_layer.norm_back(flowed_back, states, factor, last.weight.detach())  # (L, H) fp32
        g = torch.zeros(done.x.shape, dtype=into.dtype, device=into.device).index_add_(0, layout.read, into)
        g = g.to(done.x.dtype)
        gradients: dict[str, torch.Tensor] = {}
        harvest = _each(ctx.watch.sink, layout.bounds) if ctx.watch else _sum(gradients)
        for layer in reversed(lean.layers):
            g = one_layer.backward(g, done.kept.pop(), layer, done.factors.pop(), done.at, harvest)
        names = [name for part in lean.parts for name in (part.name_a, part.name_b)]
        return (None, None, None, *(gradients.get(name) for name in names))


def _sum(gradients: dict[str, torch.Tensor]) -> one_layer.Harvest:
    """Gradients of the sum over all tokens, fp32, by name."""

    def harvest(
        projection: Projection, of: Factors, x: torch.Tensor, low: torch.Tensor, u: torch.Tensor, g: torch.Tensor
    ) -> None:
        whole_a = torch.mm(u.t(), x)  # (R, in)
        for part, (start, end) in zip(projection.parts, of.ranks, strict=True):
            gradients[part.name_a] = whole_a[start:end].float()
            mine = torch.mm(g[:, part.start : part.stop].t(), low[:, start:end])
            gradients[part.name_b] = mine.float() * part.scale

    return harvest


def _each(sink: Sink, bounds: tuple[int, ...]) -> one_layer.Harvest:
    """Each example's own gradients: dW_n = sum over its tokens of signal x activation; its tokens stand together."""
    segments = [slice(start, end) for start, end in pairwise(bounds)]

    def products(signal: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
        out = signal.new_empty(len(segments), signal.shape[1], activation.shape[1])
        for place, segment in enumerate(segments):
            torch.mm(signal[segment].t(), activation[segment], out=out[place])
        return out  # (N, out, in)

    def harvest(
        projection: Projection, of: Factors, x: torch.Tensor, low: torch.Tensor, u: torch.Tensor, g: torch.Tensor
    ) -> None:
        whole_a = products(u, x)
        for part, (start, end) in zip(projection.parts, of.ranks, strict=True):
            sink(part.name_a, whole_a[:, start:end].float())
            sink(part.name_b, products(g[:, part.start : part.stop], low[:, start:end]).float().mul_(part.scale))

    return harvest


def attach(model: Any) -> str | None:
    """Give a PeftModel its lean decoder; returns the obstacle instead where there is one."""
    reason = obstacle(model)
    if reason is None:
        base = model.get_base_model()
        config = base.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, width)
        setattr(model, ATTRIBUTE, LeanDecoder(base, fuse(model), heads))
    return reason


def lean_of(model: Any) -> LeanDecoder | None:
    """The lean decoder of a PeftModel, or None where the general path serves."""
    found: LeanDecoder | None = getattr(model, ATTRIBUTE, None)
    return found
