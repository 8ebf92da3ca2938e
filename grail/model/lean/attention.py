"""Rotary positions and causal attention over packed tokens, forward and backward, with grouped keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from grail.model.lean.layout import Layout


@dataclass(frozen=True, slots=True)
class Heads:
    """`queries` heads of `width` share `keys` heads of keys and values."""

    queries: int
    keys: int
    width: int

    @property
    def shared(self) -> int:
        """Query heads to one key head."""
        return self.queries // self.keys


@dataclass(frozen=True, slots=True)
class Places:
    """One batch's indices and tables. Rows of `width` numbers are moved, one a head: `q`, `k`, `v` read packed tokens
    into the grid (B, keys, shared, T) and (B, keys, T); `home_q`, `home_k` read back; `copy_k` (2, C) are further
    places of shared tokens, with the token. `cos`, `sin` (M, 1, width / 2); `mask` (shared * T, T) is 0 or -inf."""

    heads: Heads
    rows: int
    length: int
    q: torch.Tensor = field(repr=False)
    k: torch.Tensor = field(repr=False)
    v: torch.Tensor = field(repr=False)
    home_q: torch.Tensor = field(repr=False)
    home_k: torch.Tensor = field(repr=False)
    copy_k: torch.Tensor = field(repr=False)
    cos: torch.Tensor = field(repr=False)
    sin: torch.Tensor = field(repr=False)
    mask: torch.Tensor = field(repr=False)
    scale: float


def places(layout: Layout, heads: Heads, frequencies: torch.Tensor, dtype: torch.dtype) -> Places:
    """The tables of one batch. `frequencies` (width / 2,) are the rotary embedding's inverse frequencies."""
    rows, length = layout.grid.shape
    where = layout.grid.device
    query, key = torch.arange(heads.queries, device=where), torch.arange(heads.keys, device=where)
    both, everything = heads.queries + heads.keys, heads.queries + 2 * heads.keys
    grid = layout.grid[:, None, :]  # (B, 1, T)
    row, place = layout.home // length, layout.home % length
    other_row, other_place = layout.copies[0] // length, layout.copies[0] % length

    def in_grid(of: torch.Tensor, at: torch.Tensor, head: torch.Tensor, count: int) -> torch.Tensor:
        return ((of[:, None] * count + head) * length + at[:, None]).flatten()

    angle = layout.positions[:, None].float() * frequencies.float()  # (M, width / 2)
    causal = torch.full((length, length), float("-inf"), device=where, dtype=dtype).triu(1)
    return Places(
        heads,
        rows,
        length,
        (grid * both + query[:, None]).flatten(),
        (grid * both + heads.queries + key[:, None]).flatten(),
        (grid * everything + both + key[:, None]).flatten(),
        in_grid(row, place, query, heads.queries),
        in_grid(row, place, key, heads.keys),
        torch.stack(
            [
                in_grid(other_row, other_place, key, heads.keys),
                (layout.copies[1][:, None] * heads.keys + key).flatten(),
            ]
        ),
        angle.cos().to(dtype)[:, None],
        angle.sin().to(dtype)[:, None],
        causal.repeat(heads.shared, 1),
        heads.width**-0.5,
    )


class Attended(NamedTuple):
    """What the backward pass needs: q (B*keys, shared*T, width), k, v (B*keys, T, width), weights (.., shared*T, T)."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    weights: torch.Tensor


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor, *, back: bool = False) -> None:
    """Rotate pairs (i, i + width / 2) of x (M, heads, width) by each token's angle into `out`; `back` undoes it.

    Source: RoFormer (arXiv 2104.09864) in Llama's order of the pairs.
    """
    half = x.shape[-1] // 2
    left, right, sign = x[..., :half], x[..., half:], 1.0 if back else -1.0
    torch.mul(left, cos, out=out[..., :half]).addcmul_(right, sin, value=sign)
    torch.mul(right, cos, out=out[..., half:]).addcmul_(left, sin, value=-sign)


def attend(qkv: torch.Tensor, at: Places) -> tuple[torch.Tensor, Attended]:
    """softmax(q k' / sqrt(width) + mask) v in each row: qkv (M, (queries + 2 keys) * width) -> (M, queries * width)."""
    heads, tokens = at.heads, qkv.shape[0]
    grouped = at.rows * heads.keys
    split = qkv.view(tokens, -1, heads.width)
    turned = torch.empty_like(split[:, : heads.queries + heads.keys])
    rotate(split[:, : heads.queries + heads.keys], at.cos, at.sin, turned)
    turned = turned.view(-1, heads.width)
    q = turned.index_select(0, at.q).view(grouped, heads.shared * at.length, heads.width)
    k = turned.index_select(0, at.k).view(grouped, at.length, heads.width)
    v = qkv.view(-1, heads.width).index_select(0, at.v).view(grouped, at.length, heads.width)
    scores = torch.baddbmm(at.mask, q, k.transpose(1, 2), alpha=at.scale)
    weights = torch.softmax(scores, dim=-1)
    seen = torch.bmm(weights, v).view(-1, heads.width).index_select(0, at.home_q)
    return seen.view(tokens, heads.queries * heads.width), Attended(q, k, v, weights)


def attend_back(flowed_back: torch.Tensor, kept: Attended, at: Places) -> torch.Tensor:
    """Gradient of `attend`: (M, queries * width) -> (M, (queries + 2 keys) * width)."""
    heads, tokens = at.heads, flowed_back.shape[0]
    signal = flowed_back.new_zeros(at.rows * heads.queries * at.length, heads.width)
    signal.index_copy_(0, at.home_q, flowed_back.reshape(-1, heads.width))
    signal = signal.view_as(kept.q)
    dv = torch.bmm(kept.weights.transpose(1, 2), signal)
    dweights = torch.bmm(signal, kept.v.transpose(1, 2))
    dscores = torch._softmax_backward_data(dweights, kept.weights, -1, dweights.dtype).mul_(at.scale)
    dq = torch.bmm(dscores, kept.k).view(-1, heads.width).index_select(0, at.home_q)
    dk = _gather_back(torch.bmm(dscores.transpose(1, 2), kept.q), at)
    turned = torch.cat([dq.view(tokens, heads.queries, heads.width), dk], dim=1)
    out = flowed_back.new_empty(tokens, heads.queries + 2 * heads.keys, heads.width)
    rotate(turned, at.cos, at.sin, out[:, : heads.queries + heads.keys], back=True)
    out[:, heads.queries + heads.keys :] = _gather_back(dv, at)
    return out.view(tokens, -1)


def _gather_back(grid: torch.Tensor, at: Places) -> torch.Tensor:
    """Sum what came back to every place of a token: (B * keys, T, width) -> (M, keys, width)."""
    flat = grid.view(-1, at.heads.width)
    whole = flat.index_select(0, at.home_k)
    if at.copy_k.shape[1]:
        whole.index_add_(0, at.copy_k[1], flat.index_select(0, at.copy_k[0]))
    return whole.view(-1, at.heads.keys, at.heads.width)
