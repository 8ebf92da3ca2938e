"""Requests that are stored together."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.requests.service import Asked

REQUESTS = 500
CHARS = 4_000_000
"""Text of one chunk, about: some requests are large."""


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
