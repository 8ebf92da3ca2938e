"""Rules of events: who may read which, page by page or as they come."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.auth import Principal
from app.errors import NotFound
from app.events import repository
from app.events.errors import EventsRemoved
from app.events.positions import MOST, Position
from app.events.repository import EventFilter
from app.events.schemas import EventPage, EventView
from app.jobs import repository as jobs
from app.lifecycle import COMPLETED, JobState, RequestState, is_final
from app.requests import repository as requests
from app.requests.known import known_model
from app.tables import Event, Job, Request

__all__ = [
    "AT_ONCE", "EventFilter", "Look", "begin", "beginning", "head", "look", "of_everything", "of_job", "of_request",
    "page", "views_of",
]  # fmt: skip

AT_ONCE = 100
"""Events that an open stream reads in one transaction."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a stream found: events, where it stands after them, whether more are there already. `ended` says why there
    will be no more, if so."""

    events: list[EventView]
    position: Position
    more: bool
    ended: str | None = None


def of_request(session: Session, request_id: uuid.UUID, who: Principal, kinds: Sequence[str]) -> EventFilter:
    """The events of one request. Raises NotFound, also for somebody else's."""
    if requests.find(session, request_id, owner=who.owner) is None:
        raise NotFound("there is no request with this id that this key may see")
    return EventFilter(request_id=request_id, kinds=tuple(kinds))


def of_job(session: Session, job_id: uuid.UUID, who: Principal, kinds: Sequence[str]) -> EventFilter:
    """The events of one job. Raises NotFound, also for a job of other people's requests only."""
    if jobs.find(session, job_id, owner=who.owner) is None:
        raise NotFound("there is no job with this id that this key may see", mend="GET /v1/jobs lists them.")
    return EventFilter(job_id=job_id, kinds=tuple(kinds))


def of_everything(session: Session, who: Principal, kinds: Sequence[str], served_model: str | None) -> EventFilter:
    """All that `who` may see. Raises UnknownServedModel."""
    if served_model is not None:
        known_model(session, served_model)
    return EventFilter(owner=who.owner, kinds=tuple(kinds), served_model=served_model)


def begin(session: Session, position: Position) -> Position:
    """Where a reader with this position goes on. One that no reader of this cluster can have is from before a restore:
    what was restored stands in front, under its old numbers. Raises EventsRemoved."""
    below = repository.settled_before(session)
    found = _of_this_cluster(position, below)
    if found < _of_this_cluster(repository.floor(session), below):
        raise EventsRemoved
    return found


def beginning(session: Session) -> Position:
    """Behind what was removed: where a reader begins who names no position."""
    return _of_this_cluster(repository.floor(session), repository.settled_before(session))


def head(session: Session) -> Position:
    """Behind everything that a reader could have been given by now."""
    return Position(repository.settled_before(session) - 1, MOST)


def page(session: Session, wanted: EventFilter, position: Position, limit: int) -> EventPage:
    """What happened behind `position`, oldest first."""
    below = repository.settled_before(session)
    until = repository.boundary(session, wanted, position, below=below)
    rows = repository.after(session, wanted, position, below=below, limit=limit + 1, until=until)
    shown = views_of(session, rows[:limit])
    last = shown[-1].id if shown else str(position)
    if until is not None and len(rows) <= limit:
        return EventPage(items=shown, next_cursor=str(until), more=True)
    return EventPage(items=shown, next_cursor=last, more=len(rows) > limit)


def look(session: Session, wanted: EventFilter, key_id: uuid.UUID, position: Position) -> Look:
    """What a stream of this key has to tell next.

    The state is read before the events: each statement sees what is committed when it begins, so that a state that has
    been seen has its event behind it.
    """
    if not repository.key_holds(session, key_id):
        return Look([], position, more=False, ended="key-revoked")
    state = _end_of(session, wanted)
    below = repository.settled_before(session)
    if position < _of_this_cluster(repository.floor(session), below):
        return Look([], position, more=False, ended=EventsRemoved.type)
    until = repository.boundary(session, wanted, position, below=below)
    rows = repository.after(session, wanted, position, below=below, limit=AT_ONCE, until=until)
    if until is not None and len(rows) < AT_ONCE:
        return Look(views_of(session, rows), until, more=True)
    if len(rows) == AT_ONCE:
        return Look(views_of(session, rows), Position(rows[-1].xid, rows[-1].id), more=True)
    waits = state is not None and repository.any_open(session, wanted, below=below)
    reached = max(position, Position(below - 1, MOST))
    return Look(views_of(session, rows), reached, more=False, ended=None if waits else state)


def views_of(session: Session, events: Sequence[Event]) -> list[EventView]:
    """Events with the names of their served models."""
    names = repository.model_names(session, {event.served_model_id for event in events if event.served_model_id})
    return [
        EventView(
            id=str(Position(event.xid, event.id)),
            sequence=event.id,
            kind=event.kind,
            at=event.created_at,
            request_id=event.request_id,
            job_id=event.job_id,
            served_model=None if event.served_model_id is None else names.get(event.served_model_id),
            data=event.data,
        )
        for event in events
    ]


def _of_this_cluster(position: Position, below: int) -> Position:
    return Position(0, position.id) if position.xid >= below else position


def _end_of(session: Session, wanted: EventFilter) -> str | None:
    """The state in which the request or job has ended; None while it has not, and for streams about everything."""
    if wanted.request_id is not None:
        state: RequestState = repository.state_of(session, Request, wanted.request_id)
        return str(state) if state in COMPLETED else None
    if wanted.job_id is not None:
        ended: JobState = repository.state_of(session, Job, wanted.job_id)
        return str(ended) if is_final(ended) else None
    return None
