"""Where each token of a batch is computed: once where rows begin alike, never where it is padding.

A hidden state depends on the tokens up to its own (full causal attention): rows that begin with the same tokens have
the same states there. Such tokens are packed once. Attention alone sees rows: it reads packed tokens into a padded
(B, T) grid, where a padded place repeats token 0: finite, after every real query of its row, and so never looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from grail.data.batches import PaddedBatch


@dataclass(frozen=True, slots=True)
class Layout:
    """`tokens` and `positions` (M,) of the packed tokens; `grid` (B, T) the packed token at each place of a row; `home`
    (M,) the place of the grid whose query answers for a token; `copies` (2, C) the other places that hold a shared
    token, with that token; `read` (L,) the packed token whose state predicts each label; `bounds` the first packed
    token of each example and the end of the last."""

    tokens: torch.Tensor = field(repr=False)
    positions: torch.Tensor = field(repr=False)
    grid: torch.Tensor = field(repr=False)
    home: torch.Tensor = field(repr=False)
    copies: torch.Tensor = field(repr=False)
    read: torch.Tensor = field(repr=False)
    bounds: tuple[int, ...]


def lay_out(batch: PaddedBatch, draws: int | None) -> Layout:
    """Pack a batch. With `draws`, rows n*draws..(n+1)*draws-1 are of example n and share tokens among themselves only,
    so that an example's tokens stand together; without, any rows share. A row's tokens after the last that predicts a
    label are left out: nothing looks at them."""
    ids: list[list[int]] = batch.input_ids.tolist()
    rows, positions = batch.rows.tolist(), batch.positions.tolist()
    needed = [0] * len(ids)
    for row, position in zip(rows, positions, strict=True):
        needed[row] = max(needed[row], position + 1)
    texts = [text[:length] for text, length in zip(ids, needed, strict=True)]
    tokens: list[int] = []
    places: list[int] = []
    homes: list[tuple[int, int]] = []
    copies: list[tuple[int, int, int]] = []
    packed: list[list[int]] = [[] for _ in texts]
    bounds = [0]
    for group in _groups(texts, draws):
        before: int | None = None
        for row in group:
            shared = 0 if before is None else _common(texts[before], texts[row])
            packed[row] = packed[before][:shared] if before is not None else []
            copies.extend((row, place, token) for place, token in enumerate(packed[row]))
            for place in range(shared, len(texts[row])):
                packed[row].append(len(tokens))
                tokens.append(texts[row][place])
                places.append(place)
                homes.append((row, place))
            before = row
        bounds.append(len(tokens))
    width, where = max(needed), batch.input_ids.device
    grid = [row + [0] * (width - len(row)) for row in packed]
    return Layout(
        torch.tensor(tokens, device=where),
        torch.tensor(places, device=where),
        torch.tensor(grid, device=where),
        torch.tensor([row * width + place for row, place in homes], device=where),
        torch.tensor([(row * width + place, token) for row, place, token in copies], device=where).view(-1, 2).t(),
        torch.tensor([packed[row][position] for row, position in zip(rows, positions, strict=True)], device=where),
        tuple(bounds),
    )


def _groups(texts: list[list[int]], draws: int | None) -> list[list[int]]:
    """Rows that may share tokens, neighbours those that begin alike."""
    everything = range(len(texts))
    if draws is None:
        return [sorted(everything, key=lambda row: texts[row])]
    return [sorted(everything[at : at + draws], key=lambda row: texts[row]) for at in everything[::draws]]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
