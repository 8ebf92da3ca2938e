"""Append one canonical leaf per change, in the change's own transaction: ids, states, digests, numbers; never text."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit import repository
from app.events.journal import note, note_all
from app.ids import new_id
from app.tables.audit import Audit
from app.trust.canonical import canonical

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,199}")
"""Ids, states, digests, slugs, times: no spaces, so no sentence that a person wrote slips in."""

SAFE = 2**53 - 1
"""The largest whole number that JSON can be relied upon to hold."""

LeafValue = str | int | float | bool | None


class NotForTheTrail(ValueError):
    """A field that could hold what a person wrote. A programming error, found by tests."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf of the trail, and what its event says where it is about a request or a job."""

    event: str
    subject_id: str | None
    leaf: bytes
    at: datetime
    fields: Mapping[str, LeafValue]


def entry(event: str, subject_id: str | None = None, at: datetime | None = None, **fields: LeafValue) -> Entry:
    """A leaf about `subject_id`, not stored yet. Raises NotForTheTrail for a text value that is not a plain token."""
    for name, value in {"event": event, "subject_id": subject_id, **fields}.items():
        if isinstance(value, str) and not PLAIN.fullmatch(value):
            raise NotForTheTrail(f"the field {name} of {event} is not an id, state, digest or number")
    at = at or datetime.now(UTC)
    moment = at.isoformat(timespec="microseconds")
    leaf = plainly({"id": str(new_id()), "event": event, "subject_id": subject_id, "at": moment, "fields": fields})
    return Entry(event, subject_id, leaf, at, fields)


def plainly(leaf: Mapping[str, Any]) -> bytes:
    """What `canonical` gives, and raises: for a leaf without fractions Python's own JSON is the same, in a tenth of the
    time, since its names and texts are plain ASCII."""
    numbers = [value for value in leaf["fields"].values() if isinstance(value, int | float)]
    if any(isinstance(number, float) or abs(number) > SAFE for number in numbers):
        return canonical(leaf)
    return json.dumps(leaf, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def record(
    session: Session, event: str, *, subject_id: str | None = None, at: datetime | None = None, **fields: LeafValue
) -> None:
    """Append a leaf about `subject_id` and, where that is a request or a job, the event of the change.

    Raises NotForTheTrail for a text value that is not a plain token.
    """
    add(session, entry(event, subject_id, at, **fields))


def record_all(
    session: Session, event: str, request_ids: Sequence[uuid.UUID], model_id: uuid.UUID, **fields: LeafValue
) -> None:
    """The same change of many requests of one model: a leaf and an event for each, in their order, in two statements.

    Raises NotForTheTrail for a text value that is not a plain token.
    """
    if not request_ids:
        return
    at = datetime.now(UTC)
    leaves = [entry(event, str(request_id), at, **fields).leaf for request_id in request_ids]
    repository.append(session, event, [str(request_id) for request_id in request_ids], leaves)
    note_all(session, event, request_ids, model_id, at, fields)


def add(session: Session, made: Entry) -> Audit:
    """Append a leaf, and its event. The leaf's row, which has its id once the session is flushed."""
    row = Audit(event=made.event, subject_id=made.subject_id, leaf=made.leaf)
    session.add(row)
    note(session, made.event, made.subject_id, made.at, made.fields)
    return row
