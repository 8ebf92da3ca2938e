"""Every statement that removes what is old: a bounded number of rows, found by an index."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any

from sqlalchemy import Select, delete, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.events import repository as events
from app.events.positions import MOST, Position
from app.ids import first_id
from app.tables import Delivery, DeliveryState, Event, Import, Retention, Webhook
from app.webhooks.repository import slowest

UNSEEN: dict[str, Any] = {"synchronize_session": False}
place = tuple_(Event.xid, Event.id)
WAITED_FOR = select(Delivery.id).where(Delivery.event_id == Event.id, Delivery.state == DeliveryState.PENDING).exists()
CALLED_BACK = (
    select(Webhook.id)
    .where(Webhook.request_id == Event.request_id, Webhook.disabled_at.is_(None), Webhook.after_xid < MOST)
    .exists()
)
"""Callbacks of a request are told apart by all that happened to it."""


def count(session: Session, kind: str, removed: int) -> None:
    """Add to what was removed of a kind."""
    statement = insert(Retention).values(kind=kind, removed=removed)
    session.execute(
        statement.on_conflict_do_update(index_elements=["kind"], set_={"removed": Retention.removed + removed})
    )


def counts(session: Session) -> dict[str, int]:
    """What was removed so far, by kind."""
    return {row.kind: row.removed for row in session.scalars(select(Retention))}


def remove_deliveries(session: Session, before: datetime, limit: int) -> int:
    """Remove at most `limit` deliveries that have ended and were made before then: their ids begin with the time."""
    old = (
        select(Delivery.id)
        .where(Delivery.id < first_id(before), Delivery.state != DeliveryState.PENDING)
        .order_by(Delivery.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return _removed(session, delete(Delivery).where(Delivery.id.in_(old)).returning(Delivery.id))


def forget_faults(session: Session, before: datetime, now: datetime, limit: int) -> int:
    """Let go of at most `limit` files of faults of imports that ended before then; files that no row names are
    removed as orphans."""
    old = (
        select(Import.id)
        .where(Import.errors_digest.is_not(None), Import.finished_at < before)
        .order_by(Import.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = update(Import).where(Import.id.in_(old)).values(errors_digest=None, errors_removed_at=now)
    return _removed(session, statement.returning(Import.id))


def remove_events(session: Session, before: datetime, limit: int) -> tuple[int, int]:
    """Remove the first of the events that were written before then, up to where every webhook has looked, and note the
    last of them as the floor. (how many of `limit` were looked at, how many were removed).

    Those that a delivery waits for, or a callback, stay behind the floor and go later.
    """
    floor = _hold_floor(session)
    below = events.settled_before(session)
    if floor.floor_xid >= below:  # of another cluster: what was restored stands in front
        floor.floor_xid = 0
    last = Position(floor.floor_xid, floor.floor_id)
    statement = select(Event.id, Event.xid, Event.created_at).where(place > _literal(last), Event.xid < below)
    reached = slowest(session)
    if reached is not None:
        statement = statement.where(place <= _literal(reached))
    rows = session.execute(statement.order_by(Event.xid, Event.id).limit(limit)).all()
    old = list(takewhile(lambda row: row.created_at < before, rows))
    behind = session.scalars(_up_to(last, limit)).all()
    if old:
        floor.floor_xid, floor.floor_id = old[-1].xid, old[-1].id
    session.flush()
    return len(old), _remove(session, [*behind, *(row.id for row in old)])


def _remove(session: Session, numbers: Sequence[int]) -> int:
    """Remove those of the events that nobody waits for, with their deliveries, which have ended."""
    free = select(Event.id).where(Event.id.in_(numbers), ~WAITED_FOR, ~CALLED_BACK).with_for_update(skip_locked=True)
    ids = session.scalars(free).all()
    session.execute(delete(Delivery).where(Delivery.event_id.in_(ids)), execution_options=UNSEEN)
    return _removed(session, delete(Event).where(Event.id.in_(ids)).returning(Event.id))


def _hold_floor(session: Session) -> Retention:
    session.execute(insert(Retention).values(kind=events.EVENTS).on_conflict_do_nothing())
    statement = select(Retention).where(Retention.kind == events.EVENTS).with_for_update()
    return session.scalars(statement.execution_options(populate_existing=True)).one()


def _up_to(last: Position, limit: int) -> Select[int]:
    return select(Event.id).where(place <= _literal(last)).order_by(Event.xid, Event.id).limit(limit)


def _literal(position: Position) -> Any:
    return tuple_(literal(position.xid), literal(position.id))


def _removed(session: Session, statement: Any) -> int:
    return sum(1 for _ in session.scalars(statement, execution_options=UNSEEN))
