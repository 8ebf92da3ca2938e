"""What follows from a failure, done to the rows: app.jobs.failures decides. The caller holds served model and job.

Of requests that go on without others a batch is made at once, so that nobody waits for a window again; the planner
makes those of the other halves, one job after the other.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from app.audit.service import record
from app.batches import service as batches
from app.errors import Unavailable, line_of
from app.ids import new_id
from app.jobs import members, repository
from app.jobs.failures import Decision, Failure, FailureKind, Fate, Mark, Situation, decide, pause
from app.jobs.moves import release, requeue
from app.lifecycle import JobEvent, RequestEvent
from app.queue import enqueue, messages, restore_messages
from app.served_models import breaker
from app.tables import Job, Request, ServedModel
from app.workers import service as workers

log = structlog.get_logger(__name__)

RUN_JOB = "grail.run_job"
NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


def fail(
    session: Session,
    model: ServedModel,
    job: Job,
    failure: Failure,
    now: datetime,
    *,
    offered_bytes: int | None = None,
    failed_before: bool = False,
    chance: float = 0.5,
) -> None:
    """Do what follows from a failure of a running job. `offered_bytes` is the memory of the worker that it failed on;
    `chance` in [0, 1) spreads the pauses of jobs that are put off."""
    requests = members.of(session, job)
    situation = Situation(
        tuple(request.id for request in requests),
        job.put_off,
        failed_before or any(request.group_id is not None for request in requests),
        failure.kind is FailureKind.MEMORY and _larger_worker(session, offered_bytes, now),
    )
    decision = decide(failure, situation)
    job.error = dict(failure.error)
    if decision.put_off:
        _put_off(session, job, failure, now, offered_bytes, chance)
    else:
        release(job, JobEvent.FAIL, now)
        record(
            session, "job.failed", subject_id=str(job.id), at=now, state=str(job.state), kind=str(failure.kind),
            error=slug(failure.error),
        )  # fmt: skip
        _settle(session, job, requests, decision, failure, now)
    if decision.mark is not Mark.NONE:
        breaker.note_failure(session, model, job.id, failure.error, now, at_once=decision.mark is Mark.OPEN)
    session.flush()
    _go_on(session, job, requests, decision, now)


def slug(error: Mapping[str, Any]) -> str:
    """The kind of error as the audit trail takes it."""
    return NOT_PLAIN.sub("-", str(error.get("type", ""))).strip("-._")[:64] or "error"


def _larger_worker(session: Session, offered_bytes: int | None, now: datetime) -> bool:
    """Whether somebody was seen who has more memory than the worker that failed."""
    return offered_bytes is not None and any(memory > offered_bytes for memory in workers.memories(session, now))


def _put_off(
    session: Session, job: Job, failure: Failure, now: datetime, offered_bytes: int | None, chance: float
) -> None:
    """Queued again as it is. One that lacked memory is rung for at once, and is no longer for workers of that size;
    others pause, and the sweep rings."""
    requeue(session, job, now)
    if failure.kind is FailureKind.MEMORY:
        job.needed_bytes = max(job.needed_bytes or 0, offered_bytes or 0) + 1
        enqueue(session, RUN_JOB, job.id)
    else:
        job.not_before = now + pause(job.put_off, chance)
    job.put_off += 1
    record(
        session, "job.put_off", subject_id=str(job.id), at=now, state=str(job.state), kind=str(failure.kind),
        error=slug(failure.error), times=job.put_off,
    )  # fmt: skip


def _settle(
    session: Session, job: Job, requests: Sequence[Request], decision: Decision, failure: Failure, now: datetime
) -> None:
    """Each request's fate and group."""
    group_of: dict[uuid.UUID, uuid.UUID] = {}
    for group in decision.groups:
        group_of |= dict.fromkeys(group, new_id())
    for request in requests:
        request.group_id = group_of.get(request.id, request.group_id)
        match decision.fates[request.id]:
            case Fate.QUEUE:
                members.move(session, job, request, RequestEvent.RETRY, now)
            case Fate.TRY:
                members.try_again(session, job, [request], now, failure.changes)
            case Fate.PERSON:
                members.note_result(request, job, slug(failure.error))
                members.hand_over(session, job, [request], now, count=decision.counted)


def _go_on(session: Session, job: Job, requests: Sequence[Request], decision: Decision, now: datetime) -> None:
    """A batch of those that go on without others, or of the first half, unless the model is left alone.

    What goes wrong in making it undoes that batch alone: the job has failed and its requests are queued whatever comes,
    and the planner tries again. Where the database itself is away or busy all of it is done again.
    """
    spared = [request for request in requests if decision.fates.get(request.id) is Fate.QUEUE]
    if decision.groups:
        spared = [request for request in spared if request.id in decision.groups[0]]
    if spared and decision.mark is Mark.NONE:
        reason = repository.batch_reason(session, job)
        noted = messages(session)
        try:
            with session.begin_nested():
                batches.batch_again(session, batches.Remainder(job.served_model_id, spared, reason), now)
        except (OperationalError, InterfaceError, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001  see above; by kind and place, since its text may hold a request's
            restore_messages(session, noted)
            log.error("batch_not_made_again", job_id=str(job.id), kind=type(error).__name__, where=line_of(error))
