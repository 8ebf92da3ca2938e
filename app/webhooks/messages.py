"""What is sent for a delivery, and to where: ids, states, numbers and links, signed at each attempt."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.config import Settings
from app.events.schemas import EventView
from app.lifecycle import RequestState
from app.opendsr import forms
from app.opendsr.signing import signature, signing_key
from app.secret import derive, derive_each
from app.tables import Delivery, Request, Webhook
from app.webhooks.signing import as_shown, signed_headers

STANDARD, OPENDSR = "standard", "opendsr"
PURPOSE = "webhook"
OLD_SECRET_HOURS = 24
AGENT = "grail-server"


@dataclass(frozen=True, slots=True)
class Message:
    """One attempt. `attempt` tells it from the attempts of a sender that was taken for dead."""

    delivery_id: uuid.UUID
    webhook_id: uuid.UUID
    attempt: int
    url: str = field(repr=False)
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def message_id(delivery_id: uuid.UUID) -> str:
    """The `webhook-id` of a delivery."""
    return f"msg_{delivery_id.hex}"


def shown_secret(webhook: Webhook) -> str:
    """The webhook's present secret, for its owner. Raises NoMasterSecret."""
    return as_shown(derive(PURPOSE, webhook.id, webhook.secret_generation))


def old_secret_until(webhook: Webhook, now: datetime) -> datetime | None:
    """Until when the secret before this one signs too; None when it does not any more."""
    if webhook.rotated_at is None:
        return None
    until = webhook.rotated_at + timedelta(hours=OLD_SECRET_HOURS)
    return until if now < until else None


def secrets_of(webhook: Webhook, now: datetime) -> list[bytes]:
    """The secrets that a receiver may hold: of this generation, shortly after a change of the one before, and of each
    master secret of the service."""
    generations = [webhook.secret_generation]
    if old_secret_until(webhook, now) is not None:
        generations.append(webhook.secret_generation - 1)
    return [secret for generation in generations for secret in derive_each(PURPOSE, webhook.id, generation)]


def standard(
    webhook: Webhook, delivery: Delivery, event: EventView, now: datetime, settings: Settings
) -> Message:
    """A message as Standard Webhooks has it."""
    document = {"type": event.kind, "timestamp": event.at.isoformat(), "data": _data(event, settings.public_url)}
    body = forms.as_bytes(document)
    name = message_id(delivery.id)
    signed = signed_headers(secrets_of(webhook, now), name, int(now.timestamp()), body)
    return _message(webhook, delivery, body, signed)


def callback(
    webhook: Webhook, delivery: Delivery, event: EventView, request: Request, settings: Settings
) -> Message:
    """A status callback as OpenDSR has it; `webhook-id` tells a repeated one."""
    body = forms.as_bytes(
        forms.callback_body(
            url=webhook.url,
            key_id=request.created_by,
            subject_request_id=request.client_reference or str(request.id),
            status=forms.STATUS[RequestState(event.data["state"])],
            expected=request.due_at,
        )
    )
    signed = {
        forms.DOMAIN_HEADER: forms.domain_of(settings.public_url),
        forms.SIGNATURE_HEADER: signature(signing_key(settings), body),
        "webhook-id": message_id(delivery.id),
    }
    return _message(webhook, delivery, body, signed)


def status_changes(events: Sequence[EventView]) -> list[EventView]:
    """Of a request's events in their order, those at which its status in OpenDSR's words becomes another."""
    changes: list[EventView] = []
    before: forms.Status | None = None
    for event in events:
        state = event.data.get("state")
        status = before if state is None else forms.STATUS[RequestState(state)]
        if status is not before:
            changes.append(event)
        before = status
    return changes


def ends(event: EventView) -> bool:
    """Whether the status after an event is final."""
    return forms.STATUS[RequestState(event.data["state"])] in forms.ENDS


def _message(webhook: Webhook, delivery: Delivery, body: bytes, signed: Mapping[str, str]) -> Message:
    headers = {"Content-Type": "application/json", "User-Agent": AGENT, **signed}
    return Message(delivery.id, webhook.id, delivery.attempts, webhook.url, body, headers)


def _data(event: EventView, public_url: str) -> dict[str, Any]:
    """What an event says; `links` lead to what it is about."""
    shown: dict[str, Any] = json.loads(event.model_dump_json(exclude={"data", "kind", "at", "id"}))
    shown = {**event.data, **{name: value for name, value in shown.items() if value is not None}, "event_id": event.id}
    things = {"request": shown.get("request_id"), "job": shown.get("job_id")}
    links = {noun: f"{public_url.rstrip('/')}/v1/{noun}s/{id_}" for noun, id_ in things.items() if id_}
    return {**shown, "links": links}
