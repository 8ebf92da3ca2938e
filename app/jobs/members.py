"""What happens to the requests of a job when something happens to the job. The caller holds the job's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit.service import record
from app.config import load_settings
from app.jobs import repository
from app.lifecycle import RequestEvent, RequestState, advance_request
from app.requests import duplicates, keeping, reinstatement
from app.tables import Job, Request, RequestKind

OPEN = (RequestState.BATCHED, RequestState.RUNNING, RequestState.EVALUATED, RequestState.AWAITING_APPROVAL)
"""States in which a request is in its job's hands; withdrawn members are nobody's business any more."""


def of(session: Session, job: Job) -> list[Request]:
    """The requests that are in the job's hands, held, in id order."""
    return [request for request in repository.members(session, job) if request.state in OPEN]


def move(session: Session, job: Job, request: Request, event: RequestEvent, now: datetime) -> None:
    """One legal move, audited."""
    request.state = advance_request(request.state, event)
    if request.state is RequestState.PUBLISHED:
        request.completed_at = now
    record(
        session,
        f"request.{request.state}",
        subject_id=str(request.id),
        at=now,
        state=str(request.state),
        job_id=str(job.id),
        tries=request.tries,
    )
    if request.state is RequestState.PUBLISHED:
        _conclude(session, request, now)


def _conclude(session: Session, request: Request, now: datetime) -> None:
    """What follows for others, and for its content, from a request that is done."""
    if request.kind is RequestKind.REINSTATE:
        reinstatement.conclude(session, request, now)
    else:
        keeping.ended(session, request, now)
        duplicates.published(session, request, now)


def start(session: Session, job: Job, now: datetime) -> int:
    """Batched requests run; how many the job has in hand."""
    requests = of(session, job)
    for request in requests:
        if request.state is RequestState.BATCHED:
            move(session, job, request, RequestEvent.START, now)
    return len(requests)


def try_again(
    session: Session, job: Job, requests: Sequence[Request], now: datetime, changes: Mapping[str, Any] | None = None
) -> None:
    """A try is used up: back to the queue with changed settings, or, after the last one, to a person's attention."""
    limit = load_settings().max_tries
    for request in requests:
        request.tries += 1
        request.settings = {**request.settings, **(changes or {})}
        move(session, job, request, RequestEvent.RETRY if request.tries < limit else RequestEvent.GIVE_UP, now)


def hand_over(session: Session, job: Job, requests: Sequence[Request], now: datetime, *, count: bool) -> None:
    """No further try by itself: a person has to look. `count` says whether this one counts as a try."""
    for request in requests:
        request.tries += count
        move(session, job, request, RequestEvent.GIVE_UP, now)


def note_result(request: Request, job: Job, result: str, **numbers: Any) -> None:
    """Add how the job ended to the request's outcome."""
    request.outcome = {**(request.outcome or {}), "result": result, "job_id": str(job.id), **numbers}
