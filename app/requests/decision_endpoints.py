"""HTTP words of decisions about requests: their clocks, their refusal, and the path of copyright notices."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Response

from app.auth import Principal, Role, require
from app.db import DbSession
from app.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    ServiceError,
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
from app.now import Now
from app.preconditions import ETAG, PreconditionFailed
from app.requests import holds, notices, reinstatement
from app.requests.errors import (
    BeingReinstated,
    ContentGone,
    Contradiction,
    DuplicateItem,
    ErasedByAnother,
    FactNotInText,
    LegalHoldForbidden,
    NotCounterable,
    NotExtendable,
    NotWhatWasErased,
    TextTooLong,
    WrongState,
)
from app.requests.matching import AsExpected, tagged
from app.requests.schemas import HoldOrder, Reasoned, ReinstateOrder, RequestView
from app.tokens import TokeniserMissing

router = APIRouter(prefix="/v1/requests", tags=["requests"])

Steward = Annotated[Principal, Depends(require(Role.OPERATOR, Role.OFFICER))]
Officer = Annotated[Principal, Depends(require(Role.OFFICER))]
ALWAYS = (Unauthorised, Forbidden, NotFound, PreconditionFailed, Unprocessable, Unavailable)
WITH_A_BODY = (BadRequest, TooLarge, UnsupportedMediaType)


def _problems(*kinds: type[ServiceError]) -> dict[int | str, dict[str, object]]:
    """The `responses` of a decision."""
    return {**problem_responses(*ALWAYS, *kinds)}


def _told(*kinds: type[ServiceError]) -> dict[int | str, dict[str, object]]:
    """The same, with what is said of an answer that shows the request."""
    return {200: {"headers": ETAG}, **_problems(*kinds)}


@router.post(
    "/{request_id}/hold",
    summary="Let a request's clock stand",
    responses=_told(*WITH_A_BODY, LegalHoldForbidden, WrongState),
)
def hold(
    request_id: uuid.UUID,
    asked: HoldOrder,
    response: Response,
    session: DbSession,
    who: Steward,
    now: Now,
    _: AsExpected,
) -> RequestView:
    """While identity or scope is in question, or a legal hold forbids erasure. It leaves its batch, and none takes it;
    what it took out of the standing retain set stays out. Possible until a job works on it."""
    return tagged(response, holds.hold(session, request_id, asked, who, now))


@router.post("/{request_id}/resume", summary="End a hold", responses=_told(LegalHoldForbidden, WrongState))
def resume(
    request_id: uuid.UUID, response: Response, session: DbSession, who: Steward, now: Now, _: AsExpected
) -> RequestView:
    """The clock runs on: `due_at` moves by the time that it stood. The request is queued, or a notice again."""
    return tagged(response, holds.resume(session, request_id, who, now))


@router.post("/{request_id}/extend", summary="Put the due date forward", responses=_told(*WITH_A_BODY, NotExtendable))
def extend(
    request_id: uuid.UUID,
    asked: Reasoned,
    response: Response,
    session: DbSession,
    who: Steward,
    now: Now,
    _: AsExpected,
) -> RequestView:
    """Once, with a reason, and inside the first period: gdpr by two months, ccpa by 45 days. Telling the person is
    yours to do."""
    return tagged(response, holds.extend(session, request_id, asked.reason, who, now))


@router.post(
    "/{request_id}/refuse", summary="Refuse a request with a reason", responses=_told(*WITH_A_BODY, WrongState)
)
def refuse(
    request_id: uuid.UUID,
    asked: Reasoned,
    response: Response,
    session: DbSession,
    who: Officer,
    now: Now,
    _: AsExpected,
) -> RequestView:
    """Nothing is erased: what it took out of the standing retain set comes back, its own retain items leave. Its owner
    reads the reason. Possible until a job works on it."""
    return tagged(response, holds.refuse(session, request_id, asked.reason, who, now))


@router.post("/{request_id}/validate", summary="Validate a copyright notice", responses=_told(WrongState))
def validate(
    request_id: uuid.UUID, response: Response, session: DbSession, who: Officer, now: Now, _: AsExpected
) -> RequestView:
    """From now on it goes into the next batch."""
    return tagged(response, notices.validate(session, request_id, who, now))


@router.post(
    "/{request_id}/counter",
    summary="Lodge a counter-notice",
    responses=_told(*WITH_A_BODY, NotCounterable, WrongState),
)
def counter(
    request_id: uuid.UUID,
    asked: Reasoned,
    response: Response,
    session: DbSession,
    who: Steward,
    now: Now,
    _: AsExpected,
) -> RequestView:
    """Against a work that was erased. Nothing changes before an officer dismisses it or has the work reinstated; what
    is kept of the work stays for another window."""
    return tagged(response, notices.counter(session, request_id, asked.reason, who, now))


@router.post("/{request_id}/dismiss", summary="Dismiss a counter-notice", responses=_told(WrongState, BeingReinstated))
def dismiss(
    request_id: uuid.UUID, response: Response, session: DbSession, who: Officer, now: Now, _: AsExpected
) -> RequestView:
    """The work stays erased."""
    return tagged(response, notices.dismiss(session, request_id, who, now))


@router.post(
    "/{request_id}/reinstate",
    status_code=202,
    response_model=RequestView,
    summary="Have an erased work taught again",
    responses={
        202: {
            "description": "A request to reinstate it is queued for good; it is the resource",
            "headers": {
                "Location": {"description": "address of that request", "schema": {"type": "string"}},
                **ETAG,
                **REPLAYED_HEADER,
            },
        },
        **_problems(
            *WITH_A_BODY,
            WrongState,
            NotCounterable,
            BeingReinstated,
            ContentGone,
            ErasedByAnother,
            NotWhatWasErased,
            TextTooLong,
            DuplicateItem,
            Contradiction,
            FactNotInText,
            KeyReused,
            StillAtWork,
            TokeniserMissing,
        ),
    },
)
def reinstate(
    request_id: uuid.UUID,
    asked: Annotated[ReinstateOrder, Body()],
    session: DbSession,
    who: Officer,
    now: Now,
    _: AsExpected,
    once: OnlyOnce,
) -> Response:
    """Teaches it on the active version: whatever else was erased since stays erased. Takes what is kept until
    `content_until`, or `items` anew. The original is `reinstated` once that request is published."""

    def work() -> Told:
        made = reinstatement.reinstate(session, request_id, asked.items, who, now)
        return Told(made, 202, {"Location": f"{router.prefix}/{made.id}", "ETag": made.etag})

    return once(work)
