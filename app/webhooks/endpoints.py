"""HTTP words of webhooks."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from app.auth import Principal, require
from app.config import bounds
from app.db import DbSession
from app.errors import (
    BadRequest,
    NotFound,
    TooLarge,
    Unauthorised,
    Unavailable,
    Unprocessable,
    UnsupportedMediaType,
    problem_responses,
)
from app.now import Now
from app.requests.errors import BadCursor
from app.secret import NoMasterSecret
from app.tables import DeliveryState
from app.webhooks import service
from app.webhooks.addresses import AddressRefused
from app.webhooks.errors import StillPending, TooManyCallbacks, TooManyWebhooks, WebhookDisabled
from app.webhooks.schemas import DeliveryPage, DeliveryView, WebhookCreate, WebhookList, WebhookSecret, WebhookView

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

Who = Annotated[Principal, Depends(require())]
PAGE_MAX = bounds().page_limit_max


OF_ONE = (Unauthorised, NotFound, Unprocessable, Unavailable)


@router.post(
    "",
    status_code=201,
    summary="Be told of what happens",
    responses={
        201: {
            "description": "The only answer that holds the secret",
            "headers": {"Location": {"description": "address of the webhook", "schema": {"type": "string"}}},
        },
        **problem_responses(
            BadRequest, Unauthorised, TooManyWebhooks, TooLarge, UnsupportedMediaType, Unprocessable, AddressRefused,
            NoMasterSecret, Unavailable,
        ),
    },
)  # fmt: skip
def create(
    asked: WebhookCreate, request: Request, response: Response, session: DbSession, who: Who, now: Now
) -> WebhookSecret:
    """A requester's webhook hears of its own requests and their jobs; operators' and officers' hear of all. Deliveries
    are signed as Standard Webhooks has it, tried again for a day, and hold ids, states, numbers and links only."""
    made = service.create(session, asked, who, now, request.app.state.settings)
    response.headers["Location"] = f"{router.prefix}/{made.id}"
    return made


@router.get("", summary="Webhooks of this key", responses=problem_responses(Unauthorised, Unavailable))
def browse(session: DbSession, who: Who, now: Now) -> WebhookList:
    """An admin sees everybody's."""
    return service.browse(session, who, now)


@router.get("/{webhook_id}", summary="One webhook", responses=problem_responses(*OF_ONE))
def read(webhook_id: uuid.UUID, session: DbSession, who: Who, now: Now) -> WebhookView:
    """Where it leads, and whether it fails."""
    return service.read(session, webhook_id, who, now)


@router.delete("/{webhook_id}", status_code=204, summary="Remove a webhook", responses=problem_responses(*OF_ONE))
def remove(webhook_id: uuid.UUID, session: DbSession, who: Who, now: Now) -> None:
    """What was not delivered to it never will be."""
    service.remove(session, webhook_id, who, now)


@router.post(
    "/{webhook_id}/rotate-secret", summary="A new secret", responses=problem_responses(*OF_ONE, NoMasterSecret)
)
def rotate(webhook_id: uuid.UUID, session: DbSession, who: Who, now: Now) -> WebhookSecret:
    """Deliveries carry the signatures of both secrets for a day."""
    return service.rotate(session, webhook_id, who, now)


@router.post(
    "/{webhook_id}/enable",
    summary="Send again to a disabled webhook",
    responses=problem_responses(*OF_ONE, TooManyCallbacks),
)
def enable(webhook_id: uuid.UUID, request: Request, session: DbSession, who: Who, now: Now) -> WebhookView:
    """What has happened meanwhile is delivered too."""
    return service.enable(session, webhook_id, who, now, request.app.state.settings)


@router.post(
    "/{webhook_id}/test", status_code=202, summary="Send a test", responses=problem_responses(*OF_ONE, WebhookDisabled)
)
def test(webhook_id: uuid.UUID, session: DbSession, who: Who, now: Now) -> DeliveryView:
    """A delivery of the kind `webhook.test`; see in its deliveries what became of it."""
    return service.test(session, webhook_id, who, now)


@router.get(
    "/{webhook_id}/deliveries",
    summary="What became of each event, newest first",
    responses=problem_responses(BadCursor, *OF_ONE),
)
def deliveries(
    webhook_id: uuid.UUID,
    session: DbSession,
    who: Who,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
    state: Annotated[DeliveryState | None, Query(description="`dead`: given up, may be replayed")] = None,
) -> DeliveryPage:
    return service.deliveries(session, webhook_id, who, state=state, cursor=cursor, limit=limit)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/replay",
    status_code=202,
    summary="Deliver once more",
    responses=problem_responses(*OF_ONE, WebhookDisabled, StillPending),
)
def replay(webhook_id: uuid.UUID, delivery_id: uuid.UUID, session: DbSession, who: Who, now: Now) -> DeliveryView:
    """With all its tries, under the same `webhook-id`."""
    return service.replay(session, webhook_id, delivery_id, who, now)
