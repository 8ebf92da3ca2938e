"""A request's items and probes as one flat list in their order, and the rules that need no database. Pure.

Faults name the place (`forget.3.probes.0`) and never repeat the text.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from app.requests.conflicts import content_digest
from app.requests.schemas import Item, Probe, ProbeKind, RequestCreate
from app.tables.content import Content
from app.texts import normalise
from grail.types import Role, Segment

ROLES = {ProbeKind.PARAPHRASE: Role.PARAPHRASE, ProbeKind.KEEP: Role.KEEP, ProbeKind.MEASURE: Role.MEASURE}
FORGOTTEN = (Role.ITEM, Role.PARAPHRASE)
"""Roles that say on the forget side what shall go. Other facts of the subject are merely measured there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One example to be. `parent` is the position of the item that a probe belongs to."""

    position: int
    place: str
    segment: Segment
    role: Role
    subject: str = dataclasses.field(repr=False)
    prompt: str = dataclasses.field(repr=False)
    completion: str = dataclasses.field(repr=False)
    facts: tuple[str, ...] = dataclasses.field(repr=False)
    digest: str
    parent: int | None = None

    def columns(self, ids: Sequence[uuid.UUID]) -> dict[str, Any]:
        """What its row says of its content and place. `ids` are those of all entries' rows, by position."""
        return {
            "id": ids[self.position],
            "parent_id": None if self.parent is None else ids[self.parent],
            "role": self.role,
            "position": self.position,
            "content": Content(self.subject, self.prompt, self.completion, self.facts),
            "content_digest": self.digest,
        }


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong and where."""

    field: str
    problem: str

    def as_dict(self) -> dict[str, str]:
        """For a problem document."""
        return {"field": self.field, "problem": self.problem}


def entries(payload: RequestCreate, default_subject: str) -> list[Entry]:
    """Items and probes, each item before its probes. Items without a subject get `default_subject`."""
    found: list[Entry] = []
    for segment, items in ((Segment.FORGET, payload.forget), (Segment.RETAIN, payload.retain)):
        for number, item in enumerate(items):
            place = f"{segment}.{number}"
            subject = item.subject or default_subject
            parent = _item(len(found), place, segment, subject, item)
            found.append(parent)
            for index, probe in enumerate(item.probes):
                found.append(_probe(len(found), f"{place}.probes.{index}", parent, probe))
    return found


def missing_facts(found: Iterable[Entry]) -> Iterator[Fault]:
    """Facts that do not occur in the completion or passage that they are said to give away."""
    for entry in found:
        text = normalise(entry.completion)
        for index, fact in enumerate(entry.facts):
            if normalise(fact) not in text:
                where = "completion" if entry.prompt else "passage"
                yield Fault(f"{entry.place}.facts.{index}", f"fact {index} does not occur in the {where}")


def duplicates(found: Iterable[Entry]) -> Iterator[Fault]:
    """Items that stand twice on the same side."""
    seen: dict[tuple[Segment, str], str] = {}
    for entry in found:
        if entry.role is Role.ITEM:
            first = seen.setdefault((entry.segment, entry.digest), entry.place)
            if first != entry.place:
                yield Fault(entry.place, f"the same as {first} (case, spaces and Unicode forms do not count)")


def contradictions(found: Sequence[Entry]) -> Iterator[tuple[Fault, str]]:
    """Forget items (or paraphrases of them) that are also to be kept, with the place of the other side."""
    kept: dict[str, str] = {}
    for entry in found:
        if entry.segment is Segment.RETAIN:
            kept.setdefault(entry.digest, entry.place)
    for entry in found:
        if entry.segment is Segment.FORGET and entry.role in FORGOTTEN and entry.digest in kept:
            other = kept[entry.digest]
            yield Fault(entry.place, f"the same as {other}, which is to be kept"), other


def too_long(found: Iterable[Entry], tokens: Iterable[int], context_tokens: int) -> Iterator[Fault]:
    """Entries that do not fit the model's context, with by how many tokens."""
    for entry, count in zip(found, tokens, strict=True):
        if count > context_tokens:
            yield Fault(entry.place, over_by(count, context_tokens))


def over_by(tokens: int, context_tokens: int) -> str:
    """How much too long a text is."""
    return f"{tokens} tokens, {tokens - context_tokens} more than the model's context of {context_tokens}"


def _item(position: int, place: str, segment: Segment, subject: str, item: Item) -> Entry:
    prompt, completion = item.text()
    digest = content_digest(prompt, completion)
    return Entry(position, place, segment, Role.ITEM, subject, prompt, completion, tuple(item.facts), digest)


def _probe(position: int, place: str, parent: Entry, probe: Probe) -> Entry:
    """Paraphrases share their item's side, what is to stay is retain, what is measured stands where its item does."""
    segment = Segment.RETAIN if probe.kind is ProbeKind.KEEP else parent.segment
    digest = content_digest(probe.prompt, probe.completion)
    return Entry(
        position,
        place,
        segment,
        ROLES[probe.kind],
        parent.subject,
        probe.prompt,
        probe.completion,
        tuple(probe.facts),
        digest,
        parent.position,
    )
