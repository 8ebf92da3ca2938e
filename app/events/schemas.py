"""What events look like from outside."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE: dict[str, Any] = {
    "id": "48151-623",
    "sequence": 623,
    "kind": "request.published",
    "at": "2026-11-26T09:04:11Z",
    "request_id": "01936f1e-7c3a-7b1e-9a41-1f2f3a4b5c6d",
    "job_id": None,
    "served_model": "people-and-books",
    "data": {"state": "published", "job_id": "01936f20-11aa-7c02-8f10-0a1b2c3d4e5f", "tries": 0},
}


class EventView(BaseModel):
    """One change of a request or job."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str = Field(description="where this event stands: give it as `after` to go on behind it")
    sequence: int = Field(description="grows with each change of one request or job")
    kind: str
    at: datetime
    request_id: uuid.UUID | None
    job_id: uuid.UUID | None
    served_model: str | None
    data: dict[str, Any] = Field(description="ids, states and numbers")


class EventPage(BaseModel):
    """Oldest first."""

    items: list[EventView]
    next_cursor: str = Field(description="give it as `after` to go on, now or once more has happened")
    more: bool = Field(description="whether there is more by now")
