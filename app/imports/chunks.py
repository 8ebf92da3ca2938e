"""Requests that are stored together, and the ids of those that are stored."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from app.requests.service import Asked

REQUESTS = 500
CHARS = 4_000_000
"""Text of one chunk, about: some requests are large."""
ID_BYTES = 16


@dataclass(slots=True)
class Chunk:
    """Requests to be stored together, and how many beside them were refused."""

    asked: list[Asked] = field(default_factory=list)
    refused: int = 0
    chars: int = 0

    def add(self, one: Asked) -> None:
        """Take a request in."""
        self.asked.append(one)
        self.chars += sum(len(entry.prompt) + len(entry.completion) for entry in one.entries)

    def refuse(self) -> None:
        """Count one that is wrong."""
        self.refused += 1

    @property
    def full(self) -> bool:
        """Whether it is to be stored now."""
        return len(self.asked) + self.refused >= REQUESTS or self.chars >= CHARS

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not self.asked and not self.refused


@dataclass(slots=True)
class StoredIds:
    """Ids of stored requests by served model, 16 bytes each."""

    packed: dict[uuid.UUID, bytearray] = field(default_factory=dict)

    def add(self, asked: Iterable[Asked]) -> None:
        """Note what was stored."""
        for one in asked:
            self.packed.setdefault(one.request.served_model_id, bytearray()).extend(one.request.id.bytes)

    def parts(self) -> Iterator[tuple[uuid.UUID, list[uuid.UUID]]]:
        """Served models in the order in which they are locked, each with some of its requests at a time."""
        for model_id, packed in sorted(self.packed.items()):
            for start in range(0, len(packed), ID_BYTES * REQUESTS):
                part = bytes(packed[start : start + ID_BYTES * REQUESTS])
                yield model_id, [uuid.UUID(bytes=part[at : at + ID_BYTES]) for at in range(0, len(part), ID_BYTES)]
