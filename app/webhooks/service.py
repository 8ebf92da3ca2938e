"""Rules of webhooks: whose they are, where they may lead, how their secrets change. Each change leaves its audit."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import Principal
from app.config import Settings
from app.db import let_go
from app.errors import NotFound
from app.events.journal import note_webhook
from app.events.service import head
from app.ids import new_id
from app.requests.cursors import cursor_of, id_of
from app.tables import Delivery, DeliveryState, Event, Webhook
from app.webhooks import messages, repository
from app.webhooks.addresses import judged, resolve, target_of
from app.webhooks.errors import StillPending, TooManyCallbacks, TooManyWebhooks, WebhookDisabled
from app.webhooks.schemas import DeliveryPage, DeliveryView, WebhookCreate, WebhookList, WebhookSecret, WebhookView

LISTED = 1000
TEST = "webhook.test"


def create(session: Session, asked: WebhookCreate, who: Principal, now: datetime, settings: Settings) -> WebhookSecret:
    """A webhook that is told of what happens from now on. Raises AddressRefused, TooManyWebhooks, NoMasterSecret."""
    check_addresses(session, [asked.url], settings)
    repository.hold_key(session, who.key_id)
    most = settings.webhooks_per_key
    if repository.of_key(session, who.key_id) >= most:
        raise TooManyWebhooks(f"{most} webhooks of this key are there", limit=most)
    webhook = add(session, asked.url, who, now, kinds=list(asked.kinds))
    return WebhookSecret(**_view(webhook, now).model_dump(), secret=messages.shown_secret(webhook))


def check_addresses(session: Session, urls: Iterable[str], settings: Settings) -> None:
    """Raises AddressRefused for a URL that would not be called. Names may take their time: the session must have
    changed nothing so far, and holds no connection meanwhile."""
    let_go(session)
    for target in map(target_of, urls):
        judged(target, resolve(target), settings.webhook_private_networks)


def room_for_callbacks(session: Session, key_id: uuid.UUID, more: int, settings: Settings) -> None:
    """See that a key, whose row the caller holds, may have so many more. Raises TooManyCallbacks."""
    there, limit = repository.open_callbacks(session, key_id), settings.callbacks_per_key
    if more and there + more > limit:
        raise TooManyCallbacks(there, more, limit)


def add(
    session: Session,
    url: str,
    who: Principal,
    now: datetime,
    *,
    kinds: list[str],
    form: str = messages.STANDARD,
    request_id: uuid.UUID | None = None,
) -> Webhook:
    """Insert a webhook whose address was checked: one of a single request is told of all of it, others of what comes.
    """
    after = head(session) if request_id is None else (0, 0)
    webhook = Webhook(
        id=new_id(), created_by=who.key_id, url=url, kinds=kinds, secret_generation=1, form=form, after_xid=after[0],
        after_id=after[1], created_at=now, request_id=request_id,
    )  # fmt: skip
    repository.add(session, webhook)
    _record(session, "webhook.created", webhook, who, now)
    return webhook


def browse(session: Session, who: Principal, now: datetime) -> WebhookList:
    """The webhooks of a key; an admin sees all."""
    return WebhookList(items=[_view(row, now) for row in repository.listed(session, _owner(who), LISTED)])


def read(session: Session, webhook_id: uuid.UUID, who: Principal, now: datetime) -> WebhookView:
    """One webhook. Raises NotFound, also for somebody else's."""
    return _view(_visible(session, webhook_id, who), now)


def remove(session: Session, webhook_id: uuid.UUID, who: Principal, now: datetime) -> None:
    """Delete a webhook; what was not delivered to it never will be. Raises NotFound."""
    webhook = _visible(session, webhook_id, who, lock=True)
    repository.remove(session, webhook)
    _record(session, "webhook.removed", webhook, who, now)


def rotate(session: Session, webhook_id: uuid.UUID, who: Principal, now: datetime) -> WebhookSecret:
    """A new secret; deliveries carry signatures of the old one too for a day. Raises NotFound, NoMasterSecret."""
    webhook = _visible(session, webhook_id, who, lock=True)
    webhook.secret_generation += 1
    webhook.rotated_at = now
    session.flush()
    _record(session, "webhook.rotated", webhook, who, now)
    return WebhookSecret(**_view(webhook, now).model_dump(), secret=messages.shown_secret(webhook))


def enable(
    session: Session, webhook_id: uuid.UUID, who: Principal, now: datetime, settings: Settings
) -> WebhookView:
    """Send again to a webhook that was disabled, what has happened meanwhile included. Raises NotFound,
    TooManyCallbacks."""
    webhook = _visible(session, webhook_id, who, lock=True)
    if webhook.disabled_at is not None:
        if webhook.request_id is not None:
            repository.hold_key(session, webhook.created_by)
            room_for_callbacks(session, webhook.created_by, 1, settings)
        webhook.disabled_at = webhook.failing_since = None
        session.flush()
        _record(session, "webhook.enabled", webhook, who, now)
    return _view(webhook, now)


def disable(session: Session, webhook: Webhook, now: datetime, reason: str) -> None:
    """Send nothing more to a webhook, and tell its owner by an event. The caller holds its row."""
    webhook.disabled_at = now
    record(session, "webhook.disabled", subject_id=str(webhook.id), at=now, reason=reason)
    note_webhook(session, "webhook.disabled", webhook.id, now, reason=reason)


def test(session: Session, webhook_id: uuid.UUID, who: Principal, now: datetime) -> DeliveryView:
    """A delivery that says nothing but that it came. Raises NotFound, WebhookDisabled."""
    webhook = _enabled(session, webhook_id, who)
    event = note_webhook(session, TEST, webhook.id, now)
    session.flush()
    row = Delivery(id=new_id(), webhook_id=webhook.id, event_id=event.id, next_at=now, created_at=now)
    repository.add_delivery(session, row)
    return _delivery_view(row, event)


def deliveries(
    session: Session,
    webhook_id: uuid.UUID,
    who: Principal,
    *,
    state: DeliveryState | None,
    cursor: str | None,
    limit: int,
) -> DeliveryPage:
    """What became of each event, newest first. Raises NotFound, BadCursor."""
    webhook = _visible(session, webhook_id, who)
    before = id_of(cursor) if cursor else None
    rows = repository.deliveries(session, webhook.id, state=state, before=before, limit=limit + 1)
    more = cursor_of(rows[limit - 1][0].id) if len(rows) > limit else None
    return DeliveryPage(items=[_delivery_view(*row) for row in rows[:limit]], next_cursor=more)


def replay(
    session: Session, webhook_id: uuid.UUID, delivery_id: uuid.UUID, who: Principal, now: datetime
) -> DeliveryView:
    """Deliver once more, under the same `webhook-id`. Raises NotFound, WebhookDisabled, StillPending."""
    webhook = _enabled(session, webhook_id, who)
    row = repository.delivery(session, delivery_id, webhook.id)
    if row is None:
        raise NotFound("this webhook has no delivery with this id")
    if row.state is DeliveryState.PENDING:
        raise StillPending
    row.state, row.attempts, row.next_at = DeliveryState.PENDING, 0, now
    row.delivered_at = row.last_status = row.last_error = None
    session.flush()
    _record(session, "webhook.replayed", webhook, who, now, delivery_id=str(row.id))
    return _delivery_view(row, repository.event(session, row.event_id))


def _enabled(session: Session, webhook_id: uuid.UUID, who: Principal) -> Webhook:
    webhook = _visible(session, webhook_id, who, lock=True)
    if webhook.disabled_at is not None:
        raise WebhookDisabled
    return webhook


def _visible(session: Session, webhook_id: uuid.UUID, who: Principal, *, lock: bool = False) -> Webhook:
    webhook = repository.find(session, webhook_id, _owner(who), lock=lock)
    if webhook is None:
        raise NotFound("there is no webhook with this id that this key may see", mend="GET /v1/webhooks lists them.")
    return webhook


def _owner(who: Principal) -> uuid.UUID | None:
    """Whose webhooks `who` sees: their own, or (None, admins) everybody's. Addresses may hold tokens."""
    return None if who.is_any_of() else who.key_id


def _record(session: Session, event: str, webhook: Webhook, who: Principal, now: datetime, **fields: str) -> None:
    record(session, event, subject_id=str(webhook.id), at=now, key_id=str(who.key_id), **fields)


def _view(webhook: Webhook, now: datetime) -> WebhookView:
    return WebhookView(
        id=webhook.id,
        url=webhook.url,
        kinds=webhook.kinds,
        form=webhook.form,
        created_at=webhook.created_at,
        failing_since=webhook.failing_since,
        disabled_at=webhook.disabled_at,
        old_secret_until=messages.old_secret_until(webhook, now),
    )


def _delivery_view(row: Delivery, event: Event) -> DeliveryView:
    return DeliveryView(
        id=row.id,
        message_id=messages.message_id(row.id),
        kind=event.kind,
        request_id=event.request_id,
        job_id=event.job_id,
        state=row.state,
        attempts=row.attempts,
        next_at=row.next_at if row.state is DeliveryState.PENDING else None,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        delivered_at=row.delivered_at,
    )
