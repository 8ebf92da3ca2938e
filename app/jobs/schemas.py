"""What jobs look like from outside."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from app.config import bounds
from app.lifecycle import JobState
from app.requests.schemas import ModelName
from app.texts import text_type

if TYPE_CHECKING:  # a type that is made by a call is no type to the checker
    Reason = str
else:
    Reason = text_type(bounds().max_note_chars, min_chars=10)

EXAMPLE: dict[str, Any] = {
    "id": "01936f20-11aa-7c02-8f10-0a1b2c3d4e5f",
    "served_model": "people-and-books",
    "state": "running",
    "stage": "unlearn",
    "progress": 0.53,
    "step": 71,
    "steps": 160,
    "attempts": 1,
    "put_off": 0,
    "needed_bytes": 1_900_000_000,
    "waiting_for": None,
    "approvals_missing": None,
    "start_adapter": {"version": 1, "name": "people-and-books-v000001-cdcdcdcd"},
    "candidate_adapter": None,
    "error": None,
    "created_at": "2026-11-24T09:00:00Z",
    "started_at": "2026-11-24T09:00:02Z",
    "finished_at": None,
    "report": None,
}


class JobOrder(BaseModel):
    """Run a batch now, or say what it would be."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"served_model": "people-and-books", "dry_run": True}]},
    )

    served_model: ModelName
    dry_run: bool = Field(False, description="say what would be batched and what it would cost; nothing is written")
    include_attention: bool = Field(
        False, description="queue again, with all their tries, requests that need attention (not with `dry_run`)"
    )


class Refusal(BaseModel):
    """Why an officer turns a candidate down."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"reason": "The intervals of the copyright domain are too wide to sign off."}]},
    )

    reason: Reason


class VersionRef(BaseModel):
    """An adapter version."""

    version: int
    name: str


class JobSummary(BaseModel):
    """A job in a list."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: uuid.UUID
    served_model: str
    state: JobState
    stage: str = Field(description="what it is doing, or how it ended")
    progress: float = Field(ge=0, le=1, description="share of the whole job")
    step: int = Field(ge=0)
    steps: int = Field(ge=0, description="training steps of this stage; 0 outside of training")
    attempts: int = Field(ge=0, description="workers that took it up, but for those that gave it back in order")
    put_off: int = Field(ge=0, description="times that it was queued again because what it needs was away")
    needed_bytes: int | None = Field(description="memory that it takes at least; null: not known")
    waiting_for: str | None = Field(description="what keeps a queued job from being taken up; null: nothing")
    approvals_missing: int | None = Field(
        description="officers who must still approve the candidate; null unless it awaits approval"
    )
    start_adapter: VersionRef
    candidate_adapter: VersionRef | None = Field(description="what it made; null before it is evaluated")
    error: dict[str, Any] | None = Field(
        description="what went wrong, and how to mend it; a requester gets no `detail`"
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    report: str | None = Field(description="address of its report; null until there is one")


class JobView(JobSummary):
    """A job with its curve, times and verdict."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **EXAMPLE,
                    "losses": [
                        {"step": 70, "forget": 0.61, "retain": 0.22},
                        {"step": 71, "forget": 0.58, "retain": 0.21},
                    ],
                    "timings_seconds": {"localise": 24.8},
                    "verdict": None,
                    "request_ids": ["01936f1e-7c3a-7b1e-9a41-1f2f3a4b5c6d"],
                }
            ]
        }
    )

    losses: list[dict[str, float]] = Field(description="mean losses of both segments by step, thinned out when many")
    timings_seconds: dict[str, float] = Field(description="seconds of each finished stage")
    verdict: dict[str, Any] | None = Field(description="the gate's checks, each with value, bound and whether it held")
    request_ids: list[uuid.UUID] = Field(description="requests of its batch that this key may see")


class JobPage(BaseModel):
    """Newest first."""

    items: list[JobSummary]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null: this was the last one")
