"""The nouns that the library and the service share. Standard library only, so that the service may read them.

Request text (`prompt`, `completion`, `facts`) is kept out of every `repr`: what shall be forgotten must not be logged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

Domain = str
"""A kind of knowledge with its own sets: `privacy`, `copyright`. The library holds for any number of domains >= 1."""


class Segment(StrEnum):
    """The two sides of a request: what shall go and what shall stay."""

    FORGET = "forget"
    RETAIN = "retain"


class Role(StrEnum):
    """What an example is used for. Only `item` is ever localised with or unlearned; the others are scored only."""

    ITEM = "item"
    PARAPHRASE = "paraphrase"  # the same fact asked in other words: shares its item's fate
    KEEP = "keep"  # another fact of the same subject that is to stay
    MEASURE = "measure"  # another fact of the same subject that is merely measured
    ERASED = "erased"  # erased by an earlier run: measured, to be still gone; held so where something is taught again


class Kind(StrEnum):
    """What a run is for."""

    UNLEARN = "unlearn"
    REINSTATE = "reinstate"  # teach again what was erased wrongly, with every other erasure left in force


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its completion, or a bare passage (`prompt` empty). Loss lies on completion and final eos.

    `subject` is what the bootstrap resamples by; `facts` are the words that give the fact away in a free answer (when
    empty, the whole completion is looked for); `parent` is the item that a probe belongs to; `request` the request that
    brought it, or None for the served model's standing retain set.
    """

    id: str
    domain: Domain
    segment: Segment
    subject: str
    prompt: str = field(repr=False)
    completion: str = field(repr=False)
    role: Role = Role.ITEM
    facts: tuple[str, ...] = field(default=(), repr=False)
    parent: str | None = None
    request: str | None = None

    def __post_init__(self) -> None:
        if not self.completion.strip():
            raise ValueError(f"example {self.id} has no completion: there is nothing to score or to forget")


@dataclass(frozen=True, slots=True)
class Progress:
    """What a long computation says while it runs. `share` is 0..1 within the stage; losses are mean NLL in nats."""

    stage: str
    share: float
    step: int = 0
    steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]
"""Called often by long computations; raising from it stops them (that is how a lost lease or a cancel takes effect)."""


class Interrupted(Exception):
    """Raised by a listener that wants the computation to stop here and to be gone on with later: training keeps a
    resume checkpoint of the step that it has just taken."""


def ignore_progress(_: Progress) -> None:
    """The default listener: says nothing."""
