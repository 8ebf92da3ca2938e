"""HTTP words of the statistics."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.auth import Principal, Role, require
from app.db import DbSession
from app.errors import Forbidden, Unauthorised, Unavailable, Unprocessable, problem_responses
from app.now import Now
from app.requests.schemas import ModelName
from app.statistics import service
from app.statistics.schemas import Statistics

router = APIRouter(prefix="/v1", tags=["officer"])

Officer = Annotated[Principal, Depends(require(Role.OFFICER))]


@router.get(
    "/statistics",
    summary="What became of a year's requests",
    responses=problem_responses(Unauthorised, Forbidden, Unprocessable, Unavailable),
)
def statistics(
    session: DbSession,
    who: Officer,
    now: Now,
    year: Annotated[int, Query(ge=1970, le=2999, description="of receipt, by UTC")],
    served_model: ModelName | None = None,
) -> Statistics:
    """Received, done, refused, withdrawn, overdue, and in how many days, by domain and regulation."""
    return service.of_year(session, year, served_model, now)
