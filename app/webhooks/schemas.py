"""What webhooks and deliveries look like from outside."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.tables import DeliveryState

Kind = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}\.(\*|[a-z_]{1,40})$")]
Address = Annotated[str, StringConstraints(min_length=8, max_length=2000, pattern=r"^https?://[!-~]+$")]

EXAMPLE: dict[str, Any] = {
    "id": "01936f1e-7c3a-7b1e-9a41-1f2f3a4b5c6d",
    "url": "https://hooks.example.com/grail",
    "kinds": ["request.published", "job.*"],
    "form": "standard",
    "created_at": "2026-11-26T09:00:00Z",
    "failing_since": None,
    "disabled_at": None,
    "old_secret_until": None,
}


class WebhookCreate(BaseModel):
    """Where to tell of what."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"url": "https://hooks.example.com/grail", "kinds": ["request.*"]}]},
    )

    url: Address = Field(repr=False, description="https, without credentials; port 443 or from 1024 on")
    kinds: list[Kind] = Field(
        default_factory=list,
        max_length=20,
        description="kinds of events, as `request.published` or `job.*`; all without",
    )


class WebhookView(BaseModel):
    """A webhook without its secret."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: uuid.UUID
    url: str
    kinds: list[str]
    form: str = Field(description="`standard`, or `opendsr` for status callbacks")
    created_at: datetime
    failing_since: datetime | None = Field(description="first failure since the last success")
    disabled_at: datetime | None = Field(description="nothing is sent to it since then")
    old_secret_until: datetime | None = Field(description="until then the old secret signs deliveries too")


class WebhookSecret(WebhookView):
    """A webhook with its secret, which is shown this once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**EXAMPLE, "secret": "whsec_VmVyeVNlY3JldEFuZEF0TGVhc3QyNEJ5dGVzTG9uZw=="}]}
    )

    secret: str = Field(repr=False)


class WebhookList(BaseModel):
    """Oldest first."""

    items: list[WebhookView]


class DeliveryView(BaseModel):
    """One event for one webhook."""

    id: uuid.UUID
    message_id: str = Field(description="its `webhook-id`, the same at each attempt")
    kind: str
    request_id: uuid.UUID | None
    job_id: uuid.UUID | None
    state: DeliveryState
    attempts: int
    next_at: datetime | None = Field(description="when it is tried next; null once it has ended")
    last_status: int | None = Field(description="of the last answer")
    last_error: str | None = Field(
        description="status, timeout, connection, tls, protocol, or address-refused: why the last attempt failed"
    )
    created_at: datetime
    delivered_at: datetime | None


class DeliveryPage(BaseModel):
    """Newest first."""

    items: list[DeliveryView]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null: this was the last one")
