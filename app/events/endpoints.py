"""HTTP words of events: the same addresses answer a page of JSON, or a stream to those who accept one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import StringConstraints
from sqlalchemy.orm import Session

from app.auth import Principal, require
from app.config import bounds
from app.db import DbSession
from app.errors import NotFound, Overloaded, Unauthorised, Unavailable, Unprocessable, problem_responses
from app.events import service
from app.events.errors import EventsRemoved, TooManyStreams
from app.events.positions import LATEST, PATTERN, Position, position_of
from app.events.schemas import EventPage
from app.events.streams import MEDIA_TYPE, EventStream
from app.requests.errors import BadCursor, UnknownServedModel
from app.requests.schemas import ModelName

router = APIRouter(prefix="/v1", tags=["events"])

Who = Annotated[Principal, Depends(require())]
Kind = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}\.(\*|[a-z_]{1,40})$")]
Kinds = Annotated[
    list[Kind],
    Query(
        default_factory=list, max_length=20,
        description="kinds to be told of, as `request.published` or `job.*`; all without",
    ),
]  # fmt: skip
PAGE_MAX = bounds().page_limit_max


@dataclass(frozen=True, slots=True)
class Asked:
    """Where to begin, how much to give, and in which form."""

    after: str | None
    again: bool
    limit: int
    stream: bool

    def position(self, session: Session) -> Position:
        """Behind which event to begin. Raises BadCursor, EventsRemoved."""
        if self.after == LATEST:
            return service.head(session)
        if self.after is None:
            return service.beginning(session)
        return service.begin(session, position_of(self.after))


def asked(
    request: Request,
    after: Annotated[
        str | None, Query(pattern=PATTERN, description="`id` of the last event that you have; `latest`: what comes now")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(max_length=64, description="as browsers send it on connecting again; goes before `after`")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX, description="events of a page of JSON")] = 50,
) -> Asked:
    """What the three addresses have in common."""
    stream = MEDIA_TYPE in request.headers.get("accept", "")
    return Asked(last_event_id or after, last_event_id is not None, limit, stream)


How = Annotated[Asked, Depends(asked)]
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, oldest first; with `Accept: text/event-stream` a stream that goes on",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    },
    204: {"description": "To who connects again: it has ended, and there is nothing more"},
    **problem_responses(
        BadCursor, Unauthorised, NotFound, EventsRemoved, Unprocessable, TooManyStreams, Unavailable, Overloaded
    ),
}


@router.get("/events", response_model=EventPage, summary="What happened, all of it", responses={
    **RESPONSES, **problem_responses(Unprocessable, UnknownServedModel)
})  # fmt: skip
def of_everything(
    request: Request,
    session: DbSession,
    who: Who,
    how: How,
    kinds: Kinds,
    served_model: ModelName | None = None,
) -> Any:
    """Every change of requests and jobs that this key may see: a requester those of its own requests and their jobs."""
    return _answer(request, session, who, how, service.of_everything(session, who, kinds, served_model))


@router.get(
    "/requests/{request_id}/events", response_model=EventPage, summary="What happened to a request",
    responses=RESPONSES,
)  # fmt: skip
def of_request(
    request_id: uuid.UUID, request: Request, session: DbSession, who: Who, how: How, kinds: Kinds
) -> Any:
    """From its receipt on. A stream ends with an event `end` once the request is done."""
    return _answer(request, session, who, how, service.of_request(session, request_id, who, kinds))


@router.get(
    "/jobs/{job_id}/events", response_model=EventPage, summary="What happened to a job", responses=RESPONSES
)
def of_job(
    job_id: uuid.UUID, request: Request, session: DbSession, who: Who, how: How, kinds: Kinds
) -> Any:
    """Its moves, and `job.progress` with each stage and each further 5 %. A stream ends with an event `end`."""
    return _answer(request, session, who, how, service.of_job(session, job_id, who, kinds))


def _answer(request: Request, session: Session, who: Principal, how: Asked, wanted: service.EventFilter) -> Any:
    position = how.position(session)
    if not how.stream:
        return service.page(session, wanted, position, how.limit)
    if how.again:
        found = service.look(session, wanted, who.used_id or who.key_id, position)
        if found.ended and not found.events:
            return Response(status_code=204)
    return EventStream(request.app.state.streams, wanted, who.used_id or who.key_id, position)
