"""Every statement on events.

An event's number is given before its commit, so that a smaller one may appear after a larger one was read. Readers go
by (xid, id) and stop below the oldest transaction that is still open: nothing can appear behind them.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, bindparam, func, literal, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session, aliased
from sqlalchemy.orm.util import identity_key

from app.events.positions import START, Position
from app.tables import BatchMember, Event, Job, Key, Request, Retention, ServedModel, Webhook
from app.tables.key import OPEN_NOW

SUBJECTS: dict[str, type[Request] | type[Job]] = {"request": Request, "job": Job}
NEXT = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
EVENTS = "events"
"""The kind under which the floor of events is noted."""
SCANNED = 5000
"""Events that one read looks at: who wants few of them gets where the next read begins."""
UNSEEN = {"synchronize_session": False}
APPEND = text("""
INSERT INTO event (kind, request_id, served_model_id, data, created_at)
SELECT CAST(:kind AS text), made.request_id, CAST(:model AS uuid), CAST(:data AS jsonb), CAST(:at AS timestamptz)
FROM unnest(CAST(:request_ids AS uuid[])) WITH ORDINALITY AS made (request_id, turn)
ORDER BY made.turn
""").bindparams(bindparam("data", type_=JSONB))
SETTLED = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What a reader wants. `owner` None means: everybody's. Kinds may end in `.*`."""

    owner: uuid.UUID | None = None
    request_id: uuid.UUID | None = None
    job_id: uuid.UUID | None = None
    served_model: str | None = None
    kinds: tuple[str, ...] = ()


def model_of(session: Session, table: type[Any], subject: uuid.UUID) -> uuid.UUID | None:
    """The served model of a request or job: as the session knows it, else as it is stored."""
    known = session.identity_map.get(identity_key(table, subject))
    if known is not None:
        found: uuid.UUID = known.served_model_id
        return found
    with session.no_autoflush:
        return session.scalars(select(table.served_model_id).where(table.id == subject)).one_or_none()


def append(
    session: Session,
    kind: str,
    request_ids: Sequence[uuid.UUID],
    served_model_id: uuid.UUID,
    data: Mapping[str, Any],
    at: datetime,
) -> None:
    """The same event of many requests of a model, in their order and after all that was added before."""
    session.flush()
    values = {"kind": kind, "request_ids": list(request_ids), "model": served_model_id, "data": dict(data), "at": at}
    session.execute(APPEND, values)


def settled_before(session: Session) -> int:
    """The oldest transaction that is still open: whatever lies below it is all there is."""
    return int(session.execute(SETTLED).scalar_one())


def floor(session: Session) -> Position:
    """The last position up to which events may have been removed."""
    row = session.execute(
        select(Retention.floor_xid, Retention.floor_id).where(Retention.kind == EVENTS)
    ).one_or_none()
    return START if row is None else Position(row.floor_xid, row.floor_id)


def last_restored(session: Session) -> int | None:
    """The number of the last event that another cluster's transaction wrote; None when there is none: transaction
    numbers begin anew where a dump is restored."""
    future = int(session.execute(NEXT).scalar_one())
    newest = session.scalar(select(func.max(Event.xid))) or 0
    return session.scalar(select(func.max(Event.id)).where(Event.xid >= future)) if newest >= future else None


def put_in_front(session: Session, last: int) -> None:
    """Let all events up to that number come before whatever this cluster writes."""
    session.execute(update(Event).where(Event.id <= last).values(xid=0), execution_options=UNSEEN)


def after(
    session: Session,
    wanted: EventFilter,
    position: Position,
    *,
    below: int,
    limit: int,
    until: Position | None = None,
) -> list[Event]:
    """At most `limit` events behind `position` of transactions below `below`, in their order; with `until`, what
    `boundary` said of the same position, among the next `SCANNED` events alone."""
    pieces = select(Event).where(_behind(position), Event.xid < below).order_by(Event.xid, Event.id)
    if until is None:
        return list(session.scalars(_narrowed(pieces.limit(limit), wanted)))
    piece = aliased(Event, pieces.limit(SCANNED).subquery())  # in its order, so that reading ends with the last wanted
    statement = select(piece).order_by(piece.xid, piece.id).limit(limit)
    return list(session.scalars(_narrowed(statement, wanted, piece)))


def boundary(session: Session, wanted: EventFilter, position: Position, *, below: int) -> Position | None:
    """Where a reader has to stop who wants few of very many: the `SCANNED`th event behind `position`, whoever's it is.
    None where there are fewer, or an index leads to what is wanted alone."""
    if wanted.request_id is not None or wanted.job_id is not None or wanted == EventFilter():
        return None
    statement = (
        select(Event.xid, Event.id)
        .where(_behind(position), Event.xid < below)
        .order_by(Event.xid, Event.id)
        .offset(SCANNED - 1)
        .limit(1)
    )
    row = session.execute(statement).first()
    return None if row is None else Position(row.xid, row.id)


def any_open(session: Session, wanted: EventFilter, *, below: int) -> bool:
    """Whether events are committed that wait for an older transaction to end."""
    statement = select(Event.id).where(Event.xid >= below).limit(1)
    return session.scalars(_narrowed(statement, wanted)).first() is not None


def touched(session: Session, position: Position, *, below: int) -> tuple[set[uuid.UUID], bool]:
    """(requests and jobs with events behind `position`, whether there are any)."""
    rows = session.execute(
        select(Event.request_id, Event.job_id)
        .where(_behind(position), Event.xid < below)
        .distinct()
    ).all()
    return {subject for row in rows for subject in row if subject is not None}, bool(rows)


def model_names(session: Session, model_ids: set[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Name of each served model."""
    rows = session.execute(select(ServedModel.id, ServedModel.name).where(ServedModel.id.in_(model_ids)))
    return {row.id: row.name for row in rows}


def key_holds(session: Session, key_id: uuid.UUID) -> bool:
    """Whether a key is there and neither revoked nor expired."""
    statement = select(Key.id).where(Key.id == key_id, OPEN_NOW)
    return session.scalars(statement).first() is not None


def state_of(session: Session, table: type[Any], subject: uuid.UUID) -> Any:
    """The state of a request or job as it is committed now."""
    return session.scalars(select(table.state).where(table.id == subject)).one_or_none()


def _behind(position: Position) -> ColumnElement[bool]:
    return tuple_(Event.xid, Event.id) > tuple_(literal(position.xid), literal(position.id))


def _narrowed(statement: Select[Any], wanted: EventFilter, event: Any = Event) -> Select[Any]:
    if wanted.request_id is not None:
        statement = statement.where(event.request_id == wanted.request_id)
    if wanted.job_id is not None:
        statement = statement.where(event.job_id == wanted.job_id)
    if wanted.served_model is not None:
        named = select(ServedModel.id).where(ServedModel.name == wanted.served_model).scalar_subquery()
        statement = statement.where(event.served_model_id == named)
    if wanted.kinds:
        statement = statement.where(_kinds(wanted.kinds, event))
    if wanted.owner is not None and wanted.request_id is None and wanted.job_id is None:
        statement = statement.where(_of_owner(wanted.owner, event))
    return statement


def _kinds(kinds: Sequence[str], event: Any) -> Any:
    whole = [kind for kind in kinds if not kind.endswith(".*")]
    parts = [event.kind.startswith(kind[:-1], autoescape=True) for kind in kinds if kind.endswith(".*")]
    return or_(event.kind.in_(whole), *parts)


def _of_owner(owner: uuid.UUID, event: Any) -> Any:
    """Events of their requests, of jobs with a request of theirs, and of their webhooks.

    Each asked for one event at a time, as a value: as a set it would be all that they ever asked, gathered anew for a
    single page.
    """
    of_request = select(Request.created_by).where(Request.id == event.request_id).correlate(event).scalar_subquery()
    of_job = (
        select(Request.created_by)
        .join(BatchMember, BatchMember.request_id == Request.id)
        .join(Job, Job.batch_id == BatchMember.batch_id)
        .where(Job.id == event.job_id, Request.created_by == owner)
        .correlate(event)
        .limit(1)
        .scalar_subquery()
    )
    webhooks = select(Webhook.id.cast(Text)).where(Webhook.created_by == owner)
    return or_(of_request == owner, of_job == owner, event.data["webhook_id"].astext.in_(webhooks))
