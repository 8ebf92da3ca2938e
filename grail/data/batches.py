"""Micro-batches, and the order in which examples are drawn.

Every order comes from an explicit `torch.Generator`: the same seed gives the same batches, and its state resumes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import torch

from grail.data.tokenise import TokenisedExample

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """`input_ids` and `attention_mask` (B, T), padded on the right; `labels` (M,) are the label tokens of all rows in
    order, `rows` (M,) the row each belongs to, `positions` (M,) the time step whose logits predict it. `examples` are
    the rows' own, where the batch was made of whole examples."""

    input_ids: torch.Tensor = field(repr=False)
    attention_mask: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    rows: torch.Tensor = field(repr=False)
    positions: torch.Tensor = field(repr=False)
    examples: tuple[TokenisedExample, ...] = field(default=(), repr=False)

    @property
    def size(self) -> int:
        """Rows B."""
        return int(self.input_ids.shape[0])


def pad(examples: Sequence[TokenisedExample], pad_id: int, device: torch.device | str = "cpu") -> PaddedBatch:
    """Pad examples to the longest of them. Labels are found by position, so `pad_id` may equal eos."""
    width = max(len(example.input_ids) for example in examples)
    ids = torch.full((len(examples), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(examples), width), dtype=torch.long)
    labels: list[int] = []
    rows: list[int] = []
    positions: list[int] = []
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        ids[row, :length] = torch.tensor(example.input_ids)
        mask[row, :length] = 1
        labels.extend(example.input_ids[example.prompt_length :])
        rows.extend([row] * example.completion_length)
        positions.extend(range(example.prompt_length - 1, length - 1))
    return PaddedBatch(
        ids.to(device),
        mask.to(device),
        torch.tensor(labels, device=device),
        torch.tensor(rows, device=device),
        torch.tensor(positions, device=device),
        tuple(examples),
    )


def by_length(examples: Sequence[TokenisedExample], size: int) -> Iterator[list[TokenisedExample]]:
    """Chunks of at most `size` examples of similar length: little padding. The order is fixed by length, then id."""
    ordered = iter(sorted(examples, key=lambda example: (len(example.input_ids), example.id)))
    while chunk := list(islice(ordered, size)):
        yield chunk


@dataclass(slots=True)
class Cycle:
    """Draws from `items` without replacement, reshuffled each pass: a smaller set is repeated, none is dropped."""

    count: int
    generator: torch.Generator
    order: list[int] = field(default_factory=list)

    def take(self, amount: int) -> list[int]:
        """The next `amount` indices."""
        drawn: list[int] = []
        while len(drawn) < amount:
            if not self.order:
                self.order = torch.randperm(self.count, generator=self.generator).tolist()
            drawn.append(self.order.pop())
        return drawn

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same draws."""
        return {"order": list(self.order), "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.order = list(state["order"])
        self.generator.set_state(state["generator"])


def shares(total: int, parts: int) -> list[int]:
    """`total` split into `parts` whole shares that differ by at most one, larger ones first."""
    return [total // parts + (1 if part < total % parts else 0) for part in range(parts)]
