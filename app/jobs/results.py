"""What a worker reports at the end: an evaluated candidate, or an error. Both check the fencing token."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit.service import record
from app.jobs import members, repository
from app.jobs.leases import held, release
from app.lifecycle import JobEvent, RequestEvent
from app.queue import enqueue
from app.reports.service import register
from app.tables import Adapter, Job

OUTCOMES = frozenset({"forgotten", "in_base", "not_forgotten", "kept", "lost"})
PUBLISH_JOB = "grail.publish_job"
NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


def evaluated(
    session: Session,
    job_id: uuid.UUID,
    token: int,
    verdict: dict[str, Any],
    candidate: Adapter | None,
    report_digest: str,
    example_outcomes: Mapping[Any, str],
    request_outcomes: Mapping[Any, Mapping[str, Any]],
    *,
    now: datetime | None = None,
) -> Job:
    """The worker's last word: verdict, candidate, report and what became of each example. `publish_job` does the rest.

    Raises LeaseLost, and ValueError for an outcome that is none.
    """
    unknown = set(example_outcomes.values()) - OUTCOMES
    if unknown:
        raise ValueError(f"unknown outcomes {sorted(unknown)}: they must be among {sorted(OUTCOMES)}")
    now = now or datetime.now(UTC)
    job = held(session, job_id, token)
    register(session, job.id, report_digest)
    job.verdict = verdict
    job.candidate_adapter_id = None if candidate is None else candidate.id
    job.progress, job.stage = 1.0, "evaluated"
    release(job, JobEvent.EVALUATE, now)
    repository.note_outcomes(session, job, {_uuid(key): outcome for key, outcome in example_outcomes.items()})
    _note_requests(session, job, {_uuid(key): outcome for key, outcome in request_outcomes.items()}, now)
    record(
        session, "job.evaluated", subject_id=str(job.id), at=now, state=str(job.state), ok=bool(verdict["ok"]),
        report_digest=report_digest, candidate_digest=None if candidate is None else candidate.digest,
    )  # fmt: skip
    enqueue(session, PUBLISH_JOB, job.id)
    session.flush()
    return job


def fail(
    session: Session,
    job_id: uuid.UUID,
    token: int,
    error: Mapping[str, Any],
    retryable: bool,
    now: datetime,
    *,
    changes: Mapping[str, Any] | None = None,
) -> Job:
    """The job ends with an error. Its requests go back to the queue when a further try could help and tries are left,
    else to a person's attention; their clocks run on. `error` holds kinds and numbers, never request text; `changes`
    are settings of the next try.

    Raises LeaseLost.
    """
    job = held(session, job_id, token)
    job.error = dict(error)
    release(job, JobEvent.FAIL, now)
    record(session, "job.failed", subject_id=str(job.id), at=now, state=str(job.state), error=_slug(error))
    requests = members.of(session, job)
    if retryable:
        members.try_again(session, job, requests, now, changes)
    else:
        members.hand_over(session, job, requests, now, count=True)
    session.flush()
    return job


def _note_requests(
    session: Session, job: Job, outcomes: Mapping[uuid.UUID, Mapping[str, Any]], now: datetime
) -> None:
    """Requests are evaluated; their numbers are kept, with how many items the base model knows by itself."""
    requests = members.of(session, job)
    counts = repository.forget_counts(session, [request.id for request in requests])
    for request in requests:
        forget, in_base = counts.get(request.id, (0, 0))
        request.outcome = {"forget_items": forget, "in_base": in_base, **outcomes.get(request.id, {})}
        members.move(session, job, request, RequestEvent.EVALUATE, now)


def _slug(error: Mapping[str, Any]) -> str:
    """The kind of error as the audit trail takes it."""
    return NOT_PLAIN.sub("-", str(error.get("type", ""))).strip("-._")[:64] or "error"


def _uuid(value: uuid.UUID | str) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)
