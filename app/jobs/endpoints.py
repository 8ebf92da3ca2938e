"""HTTP words of jobs."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from app.adapters.files import VersionDamaged
from app.adapters.service import AliasMoved
from app.auth import Principal, Role, require
from app.batches.errors import BreakerOpen, JobAtWork, NoActiveAdapter, NoRetainData, NothingPending
from app.batches.schemas import BatchPreview
from app.config import bounds
from app.db import DbSession
from app.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    TooLarge,
    Unauthorised,
    Unavailable,
    Unprocessable,
    UnsupportedMediaType,
    problem_responses,
)
from app.idempotency.dependency import REPLAYED_HEADER, OnlyOnce
from app.idempotency.errors import KeyReused, StillAtWork
from app.idempotency.service import Told
from app.jobs import service
from app.jobs.errors import AlreadyApproved, NotAwaitingApproval, NotCancellable
from app.jobs.schemas import JobOrder, JobPage, JobView, Refusal
from app.lifecycle import JobState
from app.now import Now
from app.requests.errors import BadCursor, UnknownServedModel
from app.requests.schemas import ModelName
from app.tokens import TokeniserMissing

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

Anyone = Annotated[Principal, Depends(require())]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
Officer = Annotated[Principal, Depends(require(Role.OFFICER))]
PAGE_MAX = bounds().page_limit_max


@router.get(
    "",
    summary="Browse jobs, newest first",
    description="A requester sees the jobs of its own requests only.",
    responses=problem_responses(BadCursor, Unauthorised, Unprocessable, Unavailable),
)
def browse(
    session: DbSession,
    who: Anyone,
    now: Now,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
    state: JobState | None = None,
    served_model: ModelName | None = None,
) -> JobPage:
    return service.browse(session, who, now, state=state, served_model=served_model, cursor=cursor, limit=limit)


@router.post(
    "",
    status_code=202,
    response_model=JobView,
    summary="Run a batch now, or see what it would be",
    responses={
        200: {"model": BatchPreview, "description": "Dry run: what would be batched and what it would cost"},
        202: {
            "description": "A job was queued for good",
            "headers": {
                "Location": {"description": "address of the job", "schema": {"type": "string"}},
                **REPLAYED_HEADER,
            },
        },
        **problem_responses(
            BadRequest,
            Unauthorised,
            Forbidden,
            TooLarge,
            UnsupportedMediaType,
            Unprocessable,
            UnknownServedModel,
            NoRetainData,
            JobAtWork,
            BreakerOpen,
            NothingPending,
            NoActiveAdapter,
            KeyReused,
            StillAtWork,
            Unavailable,
            TokeniserMissing,
        ),
    },
)
def order(asked: JobOrder, session: DbSession, who: Operator, now: Now, once: OnlyOnce) -> Response:
    """Batches what is pending now, whatever the policy's window says. With `dry_run` nothing is written."""
    if asked.dry_run:
        preview = service.preview(session, asked, now)
        return Response(preview.model_dump_json(), media_type="application/json")

    def work() -> Told:
        job = service.order(session, asked, who, now)
        return Told(job, 202, {"Location": f"{router.prefix}/{job.id}"})

    return once(work)


@router.get(
    "/{job_id}", summary="One job", responses=problem_responses(Unauthorised, NotFound, Unprocessable, Unavailable)
)
def read(job_id: uuid.UUID, session: DbSession, who: Anyone, now: Now) -> JobView:
    """Where it stands, its losses so far, its times, and once it is evaluated its verdict."""
    return service.read(session, job_id, who, now)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a queued or running job",
    responses=problem_responses(Unauthorised, Forbidden, NotFound, NotCancellable, Unprocessable, Unavailable),
)
def cancel(job_id: uuid.UUID, session: DbSession, who: Operator, now: Now) -> JobView:
    """A queued job ends at once. A running one's worker stops at its next step or two; whatever it still does can not
    be written. The requests then need attention: queue them again with `include_attention`."""
    return service.cancel(session, job_id, who, now)


@router.post(
    "/{job_id}/approve",
    summary="Publish a candidate that awaits approval",
    responses=problem_responses(
        Unauthorised,
        Forbidden,
        NotFound,
        NotAwaitingApproval,
        AlreadyApproved,
        AliasMoved,
        Unprocessable,
        VersionDamaged,
        Unavailable,
    ),
)
def approve(job_id: uuid.UUID, session: DbSession, who: Officer, now: Now) -> JobView:
    """The candidate becomes the active version and its requests are done, once as many officers have approved it as the
    policy's `approvals_required` says: `approvals_missing` counts down."""
    service.approve(session, job_id, who, now)
    return service.read(session, job_id, who, now)


@router.post(
    "/{job_id}/refuse",
    summary="Turn down a candidate that awaits approval",
    responses=problem_responses(
        BadRequest,
        Unauthorised,
        Forbidden,
        NotFound,
        NotAwaitingApproval,
        TooLarge,
        UnsupportedMediaType,
        Unprocessable,
        Unavailable,
    ),
)
def refuse(job_id: uuid.UUID, asked: Refusal, session: DbSession, who: Officer, now: Now) -> JobView:
    """The adapter that was served before stays; the requests need attention, their clocks run on."""
    service.refuse(session, job_id, who, asked.reason, now)
    return service.read(session, job_id, who, now)
