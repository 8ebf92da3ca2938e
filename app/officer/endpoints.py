"""HTTP words of the officer's queue."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.auth import Principal, Role, require
from app.config import bounds
from app.db import DbSession
from app.errors import Forbidden, Unauthorised, Unavailable, Unprocessable, problem_responses
from app.now import Now
from app.officer import service
from app.officer.schemas import QueueKind, QueuePage
from app.requests.errors import BadCursor
from app.requests.schemas import ModelName

router = APIRouter(prefix="/v1/officer", tags=["officer"])

Officer = Annotated[Principal, Depends(require(Role.OFFICER))]
PAGE_MAX = bounds().page_limit_max


@router.get(
    "/queue",
    summary="What awaits an officer",
    responses=problem_responses(BadCursor, Unauthorised, Forbidden, Unprocessable, Unavailable),
)
def queue(
    session: DbSession,
    who: Officer,
    now: Now,
    kind: QueueKind | None = None,
    served_model: ModelName | None = None,
    cursor: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
) -> QueuePage:
    """Overdue requests, candidates to approve, notices to validate, counter-notices, requests that need attention, and
    what is due within a week; in this order, each with its address and age."""
    return service.queue(session, now, kind=kind, served_model=served_model, cursor=cursor, limit=limit)
