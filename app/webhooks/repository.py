"""Every statement on webhooks and their deliveries."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, func, literal, or_, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.events.positions import MOST, Position
from app.ids import new_id
from app.keys.repository import of_holder
from app.tables import Delivery, DeliveryState, Event, Key, Request, Webhook

PENDING = DeliveryState.PENDING


def add(session: Session, webhook: Webhook) -> None:
    """Insert a webhook."""
    session.add(webhook)
    session.flush()


def hold_key(session: Session, key_id: uuid.UUID) -> None:
    """Hold a key's row until the transaction ends: its webhooks are counted and added one at a time."""
    session.execute(select(Key.id).where(Key.id == key_id).with_for_update(key_share=True))


def of_key(session: Session, key_id: uuid.UUID) -> int:
    """How many webhooks a key has, callbacks of single requests aside."""
    statement = select(func.count()).where(Webhook.created_by == key_id, Webhook.request_id.is_(None))
    return session.scalar(statement) or 0


def open_callbacks(session: Session, key_id: uuid.UUID) -> int:
    """How many callbacks of single requests a key has that something may still be sent to."""
    statement = select(func.count()).where(
        Webhook.created_by == key_id, Webhook.request_id.is_not(None), Webhook.disabled_at.is_(None)
    )
    return session.scalar(statement) or 0


def listed(session: Session, owner: uuid.UUID | None, limit: int) -> list[Webhook]:
    """Webhooks of one key (None: of all), oldest first."""
    return list(session.scalars(_owned(select(Webhook).order_by(Webhook.id).limit(limit), owner)))


def find(session: Session, webhook_id: uuid.UUID, owner: uuid.UUID | None, *, lock: bool = False) -> Webhook | None:
    """One webhook; with `owner` only if it is theirs; with `lock` held until the transaction ends."""
    statement = _owned(select(Webhook).where(Webhook.id == webhook_id), owner)
    if lock:
        statement = statement.with_for_update(key_share=True).execution_options(populate_existing=True)
    return session.scalars(statement).one_or_none()


def remove(session: Session, webhook: Webhook) -> None:
    """Delete a webhook and its deliveries."""
    session.execute(delete(Delivery).where(Delivery.webhook_id == webhook.id))
    session.delete(webhook)
    session.flush()


def deliveries(
    session: Session, webhook_id: uuid.UUID, *, state: DeliveryState | None, before: uuid.UUID | None, limit: int
) -> list[tuple[Delivery, Event]]:
    """Deliveries with their events, newest first."""
    statement = (
        select(Delivery, Event)
        .join(Event, Event.id == Delivery.event_id)
        .where(Delivery.webhook_id == webhook_id)
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    if state is not None:
        statement = statement.where(Delivery.state == state)
    if before is not None:
        statement = statement.where(Delivery.id < before)
    return [(row[0], row[1]) for row in session.execute(statement)]


def delivery(session: Session, delivery_id: uuid.UUID, webhook_id: uuid.UUID) -> Delivery | None:
    """One delivery of a webhook, held until the transaction ends."""
    statement = select(Delivery).where(Delivery.id == delivery_id, Delivery.webhook_id == webhook_id)
    return session.scalars(statement.with_for_update().execution_options(populate_existing=True)).one_or_none()


def event(session: Session, event_id: int) -> Event:
    """One event."""
    return session.get_one(Event, event_id)


def add_delivery(session: Session, row: Delivery) -> None:
    """Insert a delivery."""
    session.add(row)
    session.flush()


def last_settled(session: Session, below: int) -> Position:
    """The last event of which nothing can appear before it any more."""
    statement = (
        select(Event.xid, Event.id).where(Event.xid < below).order_by(Event.xid.desc(), Event.id.desc()).limit(1)
    )
    row = session.execute(statement).first()
    return Position(0, 0) if row is None else Position(row.xid, row.id)


def behind(session: Session, last: Position, *, below: int, limit: int) -> tuple[list[Webhook], bool]:
    """Active webhooks with events that were not looked at for them, held, and whether there are more of them. Those
    that another transaction holds, perhaps only to note how a delivery ended, are left for the next look."""
    looked = tuple_(Webhook.after_xid, Webhook.after_id)
    news = (
        select(Event.id)
        .where(
            Event.request_id == Webhook.request_id,
            tuple_(Event.xid, Event.id) > looked,
            Event.xid < below,
        )
        .exists()
    )
    statement = (
        _active(select(Webhook))
        .where(
            looked < tuple_(literal(last.xid), literal(last.id)),
            or_(Webhook.request_id.is_(None), news),
        )
        .order_by(Webhook.id)
        .limit(limit)
    )
    held = statement.with_for_update(of=Webhook, skip_locked=True, key_share=True)
    rows = session.scalars(held.execution_options(populate_existing=True)).all()
    there = session.scalar(select(func.count()).select_from(statement.with_only_columns(Webhook.id).subquery())) or 0
    return list(rows), there > len(rows) or there == limit


def slowest(session: Session) -> Position | None:
    """The first place that an active webhook has reached, those of single requests aside; None where there is none."""
    places: Any = select(Webhook.after_xid, Webhook.after_id)
    statement = _active(places).where(Webhook.request_id.is_(None))
    row = session.execute(statement.order_by(Webhook.after_xid, Webhook.after_id).limit(1)).first()
    return None if row is None else Position(row.after_xid, row.after_id)


def put_in_front(session: Session, last: int) -> None:
    """Let webhooks go on behind the number that they had reached, once events were put in front."""
    reached = func.least(Webhook.after_id, last)
    session.execute(
        update(Webhook).where(Webhook.after_xid < MOST).values(after_xid=0, after_id=reached),
        execution_options={"synchronize_session": False},
    )


def fan_out(session: Session, webhook_id: uuid.UUID, event_ids: Sequence[int], now: datetime) -> None:
    """A delivery of each event, unless there is one already."""
    rows = [{"id": new_id(), "webhook_id": webhook_id, "event_id": number, "next_at": now} for number in event_ids]
    if rows:
        session.execute(insert(Delivery).values(rows).on_conflict_do_nothing())


def due(
    session: Session, now: datetime, *, busy: Collection[uuid.UUID], per_webhook: int, limit: int
) -> list[Delivery]:
    """Deliveries to be tried now, a few of each webhook that is not busy, held; whatever others hold is theirs.

    Those of a single request's webhook go one by one in the order of its changes: the last word must be the last.
    """
    pending = select(Delivery.id, Delivery.next_at).where(Delivery.webhook_id == Webhook.id, Delivery.state == PENDING)
    some = pending.where(Delivery.next_at <= now).order_by(Delivery.next_at, Delivery.id).limit(per_webhook)
    first = pending.order_by(Delivery.event_id).limit(1)
    ids = [
        _active(select(found.c.id))
        .join(found, true())
        .where(Webhook.id.not_in(busy), of_which, found.c.next_at <= now)
        .limit(limit)
        for found, of_which in (
            (some.lateral("some"), Webhook.request_id.is_(None)),
            (first.lateral("first"), Webhook.request_id.is_not(None)),
        )
    ]
    statement = (
        select(Delivery)
        .where(or_(*(Delivery.id.in_(found) for found in ids)), Delivery.state == PENDING, Delivery.next_at <= now)
        .order_by(Delivery.next_at, Delivery.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def webhooks(session: Session, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Webhook]:
    """Webhooks by id."""
    return {row.id: row for row in session.scalars(select(Webhook).where(Webhook.id.in_(ids)))}


def events(session: Session, ids: Collection[int]) -> dict[int, Event]:
    """Events by number."""
    return {row.id: row for row in session.scalars(select(Event).where(Event.id.in_(ids)))}


def requests(session: Session, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Request]:
    """Requests by id."""
    return {row.id: row for row in session.scalars(select(Request).where(Request.id.in_(ids)))}


def any_pending(session: Session, webhook_id: uuid.UUID) -> bool:
    """Whether a webhook has deliveries that have not ended."""
    statement = select(Delivery.id).where(Delivery.webhook_id == webhook_id, Delivery.state == PENDING).limit(1)
    return session.scalars(statement).first() is not None


def role_of(session: Session, key_id: uuid.UUID) -> Any:
    """The role of a key."""
    return session.scalars(select(Key.role).where(Key.id == key_id)).one()


def retired(webhook: Webhook) -> bool:
    """Whether nothing more is looked at for a webhook."""
    return webhook.after_xid == MOST


def _active(statement: Select[Any]) -> Select[Any]:
    """Narrowed to webhooks that are not disabled, of holders with a valid key."""
    held = select(Key.id).where(of_holder(Webhook.created_by, func.now())).exists()
    return statement.select_from(Webhook).where(Webhook.disabled_at.is_(None), held)


def _owned(statement: Select[Webhook], owner: uuid.UUID | None) -> Select[Webhook]:
    return statement if owner is None else statement.where(Webhook.created_by == owner)
