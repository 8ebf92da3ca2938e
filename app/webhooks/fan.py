"""From events to deliveries, and from deliveries to messages: what the sender does in the database.

A delivery that is being sent is pending with a `next_at` a lease ahead: when its sender dies, it becomes due again. So
each event is delivered at least once, under a `webhook-id` that stays the same.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from app.auth import SEES_ALL
from app.config import Settings
from app.errors import ServiceError
from app.events import repository as events
from app.events import service as reading
from app.events.positions import MOST, START, Position
from app.events.repository import EventFilter
from app.tables import Delivery, DeliveryState, Webhook
from app.webhooks import messages, repository, service
from app.webhooks.messages import Message
from app.webhooks.schedule import wait_seconds

log = structlog.get_logger(__name__)

EVENTS_AT_ONCE = 500
WEBHOOKS_AT_ONCE = 200
GONE = 410


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: `error` None means that the receiver has it."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None


def fan_out(session: Session, now: datetime) -> bool:
    """Deliveries of what has happened since each webhook was looked at; whether there is more to do."""
    restored = events.last_restored(session)
    if restored is not None:
        log.warning("events_of_another_cluster_put_in_front", last=restored)
        events.put_in_front(session, restored)
        repository.put_in_front(session, restored)
    below = events.settled_before(session)
    last = repository.last_settled(session, below)
    behind, more = repository.behind(session, last, below=below, limit=WEBHOOKS_AT_ONCE)
    for webhook in behind:
        if webhook.request_id is None:
            more |= _of_everything(session, webhook, last, below, now)
        else:
            _of_request(session, webhook, webhook.request_id, last, below, now)
    session.flush()
    return more


def claim(
    session: Session, now: datetime, settings: Settings, *, busy: Collection[uuid.UUID], per_webhook: int, limit: int
) -> list[Message]:
    """Take deliveries that are due, each with a lease, as messages to be sent."""
    rows = repository.due(session, now, busy=busy, per_webhook=per_webhook, limit=limit)
    webhooks = repository.webhooks(session, {row.webhook_id for row in rows})
    found = repository.events(session, {row.event_id for row in rows})
    views = dict(zip(found, reading.views_of(session, list(found.values())), strict=True))
    requests = repository.requests(session, {w.request_id for w in webhooks.values() if w.request_id is not None})
    lease = timedelta(seconds=settings.webhook_timeout_seconds + settings.lease_seconds)
    made = []
    for row in rows:
        row.attempts, row.next_at = row.attempts + 1, now + lease
        webhook, view = webhooks[row.webhook_id], views[row.event_id]
        try:
            if webhook.request_id is None:
                made.append(messages.standard(webhook, row, view, now, settings))
            else:
                made.append(messages.callback(webhook, row, view, requests[webhook.request_id], settings))
        except ServiceError as error:  # a key that can not sign: the others are sent, this one after its lease
            log.error("delivery_not_signed", delivery_id=str(row.id), kind=error.type)
    session.flush()
    return made


def settle(
    session: Session, message: Message, outcome: Outcome, now: datetime, settings: Settings, chance: float
) -> None:
    """Note how an attempt ended: delivered, to be tried again, or given up. `chance` (0..1) spreads the waits.

    Nothing when the webhook is gone, or another sender took the delivery over meanwhile.
    """
    webhook = repository.find(session, message.webhook_id, None, lock=True)
    row = None if webhook is None else repository.delivery(session, message.delivery_id, message.webhook_id)
    if webhook is None or row is None or row.attempts != message.attempt or row.state is not DeliveryState.PENDING:
        return
    row.last_status, row.last_error = outcome.status, outcome.error
    if outcome.error is None:
        row.state, row.delivered_at, webhook.failing_since = DeliveryState.DELIVERED, now, None
    else:
        _failed(session, webhook, row, outcome, now, settings, chance)
    session.flush()
    if repository.retired(webhook) and not repository.any_pending(session, webhook.id):
        webhook.disabled_at = webhook.disabled_at or now
        session.flush()


def _failed(
    session: Session,
    webhook: Webhook,
    row: Delivery,
    outcome: Outcome,
    now: datetime,
    settings: Settings,
    chance: float,
) -> None:
    wait = wait_seconds(settings.webhook_retry_seconds, row.attempts, chance, outcome.retry_after)
    if wait is None:
        row.state = DeliveryState.DEAD
    else:
        row.next_at = now + timedelta(seconds=wait)
    webhook.failing_since = webhook.failing_since or now
    if webhook.disabled_at is None and outcome.status == GONE:
        service.disable(session, webhook, now, "gone")
    elif webhook.disabled_at is None and now - webhook.failing_since >= timedelta(days=settings.webhook_disable_days):
        service.disable(session, webhook, now, "failing")


def _of_everything(session: Session, webhook: Webhook, last: Position, below: int, now: datetime) -> bool:
    """Whether there is more."""
    owner = None if repository.role_of(session, webhook.created_by) in SEES_ALL else webhook.created_by
    wanted = EventFilter(owner=owner, kinds=tuple(webhook.kinds))
    position = Position(webhook.after_xid, webhook.after_id)
    until = events.boundary(session, wanted, position, below=below)
    rows = events.after(session, wanted, position, below=below, limit=EVENTS_AT_ONCE, until=until)
    repository.fan_out(session, webhook.id, [row.id for row in rows if row.kind != service.TEST], now)
    full = len(rows) == EVENTS_AT_ONCE
    webhook.after_xid, webhook.after_id = (rows[-1].xid, rows[-1].id) if full else until or last
    return full or until is not None


def _of_request(
    session: Session, webhook: Webhook, request_id: uuid.UUID, last: Position, below: int, now: datetime
) -> None:
    """Callbacks at each change of a request's status; after the final one the webhook is retired."""
    rows = events.after(session, EventFilter(request_id=request_id), START, below=below, limit=EVENTS_AT_ONCE)
    position = (webhook.after_xid, webhook.after_id)
    places = {row.id: (row.xid, row.id) for row in rows}
    rows.sort(key=lambda row: row.id)  # of one request, in the order of its changes
    changes = messages.status_changes(reading.views_of(session, rows))
    repository.fan_out(session, webhook.id, [c.sequence for c in changes if places[c.sequence] > position], now)
    ended = bool(changes) and messages.ends(changes[-1])
    webhook.after_xid, webhook.after_id = (MOST, MOST) if ended else last
