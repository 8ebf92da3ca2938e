"""HTTP words of requests."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from app.auth import Principal, require
from app.config import Settings
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
from app.lifecycle import RequestState
from app.requests import service
from app.requests.errors import (
    BadCursor,
    ContentsForbidden,
    Contradiction,
    DuplicateItem,
    FactNotInText,
    NothingAsked,
    NotWithdrawable,
    TextTooLong,
    UnknownServedModel,
    WithdrawalForbidden,
)
from app.requests.schemas import ModelName, Reference, RequestCreate, RequestFilter, RequestPage, RequestView
from app.tables import RequestDomain
from app.tokens import TokeniserMissing

router = APIRouter(prefix="/v1/requests", tags=["requests"])

Who = Annotated[Principal, Depends(require())]
PAGE_MAX: int = Settings.model_fields["page_limit_max"].default


def _now() -> datetime:
    return datetime.now(UTC)


Now = Annotated[datetime, Depends(_now)]


@router.post(
    "",
    status_code=202,
    response_model=RequestView,
    summary="Ask to forget, to retain, or both",
    responses={
        202: {
            "description": "Stored for good; the due date is in the resource",
            "headers": {"Location": {"description": "address of the request", "schema": {"type": "string"}}},
        },
        **problem_responses(
            BadRequest, Unauthorised, TooLarge, UnsupportedMediaType, Unprocessable, UnknownServedModel, NothingAsked, TextTooLong,
            Contradiction, DuplicateItem, FactNotInText, Unavailable, TokeniserMissing,
        ),
    },
)
def submit(payload: RequestCreate, request: Request, response: Response, session: DbSession, who: Who, now: Now) -> RequestView:
    """Answered after the commit only. Forget items leave the served model's standing retain set at once and go into
    the next batch; retain items join that set. A request with retain items only is `standing` from now on."""
    view = service.submit(session, payload, who, now, due_days=request.app.state.settings.request_due_days)
    response.headers["Location"] = f"{router.prefix}/{view.id}"
    return view
