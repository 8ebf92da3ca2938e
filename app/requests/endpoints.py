"""HTTP words of requests."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.auth import Claimed, Principal, confirm, require
from app.config import bounds
from app.db import DbSession, at_once, transaction
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
from app.idempotency.dependency import REPLAYED_HEADER, IdempotencyKey, call_of
from app.idempotency.errors import KeyReused, StillAtWork
from app.idempotency.service import Told, answer_once, response_of
from app.lifecycle import RequestState
from app.now import Now
from app.preconditions import ETAG, NOT_MODIFIED, IfNoneMatch, PreconditionFailed, is_known, not_modified
from app.requests import quick, service
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
from app.requests.matching import AsExpected, tagged
from app.requests.schemas import ModelName, Moment, Reference, RequestCreate, RequestFilter, RequestPage, RequestView
from app.tables import Regulation, RequestDomain, RequestKind
from app.tokens import TokeniserMissing

router = APIRouter(prefix="/v1/requests", tags=["requests"])

Who = Annotated[Principal, Depends(require())]
PAGE_MAX = bounds().page_limit_max


@router.post(
    "",
    status_code=202,
    response_model=RequestView,
    summary="Ask to forget, to retain, or both",
    responses={
        202: {
            "description": "Stored for good; the due date is in the resource",
            "headers": {
                "Location": {"description": "address of the request", "schema": {"type": "string"}},
                **ETAG,
                **REPLAYED_HEADER,
            },
        },
        **problem_responses(
            BadRequest,
            Unauthorised,
            TooLarge,
            UnsupportedMediaType,
            Unprocessable,
            UnknownServedModel,
            NothingAsked,
            TextTooLong,
            Contradiction,
            DuplicateItem,
            FactNotInText,
            KeyReused,
            StillAtWork,
            Unavailable,
            TokeniserMissing,
        ),
    },
)
async def submit(
    payload: RequestCreate,
    request: Request,
    who: Claimed,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answered after the commit only. Forget items leave the served model's standing retain set at once and go into
    the next batch; retain items join that set. A request with retain items only is `standing` from now on. Where the
    policy has `validate_notices`, a copyright request waits as `notice` for an officer."""
    state, now = request.app.state, datetime.now(UTC)
    if idempotency_key is None:
        due_days = state.settings.request_due_days
        quickly = await quick.submit(state.together, state.known_models, payload, who, now, due_days=due_days)
        if quickly is not None:
            return response_of(_told(quickly))
    return await run_in_threadpool(_submit_at_length, payload, request, who, idempotency_key, now)


def _submit_at_length(
    payload: RequestCreate, request: Request, who: Principal, idempotency_key: str | None, now: datetime
) -> Response:
    state = request.app.state
    with transaction(state.db) as session:  # here and not as a dependency: one thread does all of it

        def work() -> Told:
            return _told(service.submit(session, payload, who, now, due_days=state.settings.request_due_days))

        if idempotency_key is not None:  # a kept answer is told to a key that is still valid only
            confirm(session, who)
        return answer_once(session, call_of(request, who, idempotency_key), now, work)


def _told(view: RequestView) -> Told:
    return Told(view, 202, {"Location": f"{router.prefix}/{view.id}", "ETag": view.etag})


@router.get(
    "",
    summary="Browse requests, newest first",
    description="A requester sees its own requests only. With `overdue` or `due_within_days` the first due come first; "
    "requests that are done or on hold are then left out, since their clocks stand.",
    responses=problem_responses(BadCursor, Unauthorised, Unprocessable, Unavailable),
)
def browse(
    session: DbSession,
    who: Who,
    now: Now,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
    state: RequestState | None = None,
    domain: RequestDomain | None = None,
    served_model: ModelName | None = None,
    client_reference: Reference | None = None,
    received_after: Annotated[Moment | None, Query(description="exclusive, with time zone")] = None,
    received_before: Annotated[Moment | None, Query(description="exclusive, with time zone")] = None,
    kind: RequestKind | None = None,
    regulation: Regulation | None = None,
    overdue: Annotated[bool, Query(description="only those past their due date, the longest overdue first")] = False,
    due_within_days: Annotated[
        int | None, Query(ge=0, le=366, description="only those due by then, overdue ones too, the first due first")
    ] = None,
) -> RequestPage:
    horizon = None if due_within_days is None else now + timedelta(days=due_within_days)
    wanted = RequestFilter(
        state=state,
        domain=domain,
        served_model=served_model,
        client_reference=client_reference,
        received_after=received_after,
        received_before=received_before,
        kind=kind,
        regulation=regulation,
        due_before=now if overdue else horizon,
    )
    return service.browse(session, wanted, who, now, cursor=cursor, limit=limit)


@router.get(
    "/{request_id}",
    summary="One request",
    response_model=RequestView,
    responses={
        200: {"headers": ETAG},
        **NOT_MODIFIED,
        **problem_responses(Unauthorised, ContentsForbidden, NotFound, Unprocessable, Unavailable),
    },
)
def read(
    request_id: uuid.UUID,
    request: Request,
    who: Claimed,
    if_none_match: IfNoneMatch = None,
    include: Annotated[
        Literal["items"] | None, Query(description="`items`: its texts too, for the owner and officers")
    ] = None,
) -> Response:
    """Its state, its clock, and in numbers how it went."""
    db, now = request.app.state.db, datetime.now(UTC)
    if include is None:
        with at_once(db, changes=False) as connection:
            view = service.status(connection, request_id, who, now, db.codec)
    else:
        with transaction(db) as session:
            view = service.read(session, request_id, confirm(session, who), now, with_items=True)
    if is_known(if_none_match, view.etag):
        return not_modified(view.etag)
    return Response(view.model_dump_json(), media_type="application/json", headers={"ETag": view.etag})


@router.delete(
    "/{request_id}",
    summary="Withdraw a request that no job works on yet",
    responses={
        200: {"headers": ETAG},
        **problem_responses(
            Unauthorised, WithdrawalForbidden, NotFound, NotWithdrawable, PreconditionFailed, Unprocessable, Unavailable
        ),
    },
)
def withdraw(
    request_id: uuid.UUID, response: Response, session: DbSession, who: Who, now: Now, _: AsExpected
) -> RequestView:
    """Possible while it is pending, batched but not running, or in need of attention. What it had taken out of the
    standing retain set comes back, unless another request forgets the same; its own retain items leave."""
    return tagged(response, service.withdraw(session, request_id, who, now))
