"""What an officer's queue looks like from outside."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.lifecycle import JobState, RequestState
from app.tables import AdapterState

EXAMPLE: dict[str, Any] = {
    "kind": "approval",
    "id": "01936f20-11aa-7c02-8f10-0a1b2c3d4e5f",
    "served_model": "people-and-books",
    "state": "awaiting_approval",
    "link": "/v1/jobs/01936f20-11aa-7c02-8f10-0a1b2c3d4e5f",
    "since": "2026-11-24T09:00:00Z",
    "age_days": 2.1,
    "due_at": "2026-12-24T09:00:00Z",
    "approvals_missing": 1,
}


class QueueKind(StrEnum):
    """Why something waits for an officer, in the order of the queue."""

    OVERDUE = "overdue"
    APPROVAL = "approval"
    NOTICE = "notice"
    COUNTER_NOTICE = "counter_notice"
    ATTENTION = "attention"
    DUE_SOON = "due_soon"
    RECIPIENTS = "recipients"


class QueueItem(BaseModel):
    """One job, request, or superseded version whose recipients are to be told. A request may stand under two kinds: a
    notice that is overdue is both."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    kind: QueueKind
    id: uuid.UUID
    served_model: str
    state: RequestState | JobState | AdapterState
    link: str = Field(description="address of the job or request; of a version that of its recipients")
    since: datetime = Field(
        description="receipt of the request, or of its counter-notice; of a job the issue of its report; of a version "
        "when it was superseded"
    )
    age_days: float = Field(description="days since then")
    due_at: datetime | None
    approvals_missing: int | None = Field(description="of a job: officers who must still approve")


class QueuePage(BaseModel):
    """Kind by kind, in each the first due or the oldest first; `next_cursor` is null on the last page."""

    items: list[QueueItem]
    next_cursor: str | None
