"""What a worker reports at the end: an evaluated candidate, or an error. Both check the fencing token."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.adapters.files import WrittenVersion
from app.audit.service import record
from app.db import clock
from app.jobs import failing, members, repository
from app.jobs.failures import Failure
from app.jobs.leases import held
from app.jobs.moves import release
from app.lifecycle import JobEvent, RequestEvent
from app.queue import enqueue
from app.reports.service import register
from app.requests.repository import lock_model
from app.tables import Job

OUTCOMES = frozenset({"forgotten", "in_base", "not_forgotten", "kept", "lost"})
PUBLISH_JOB = "grail.publish_job"


def evaluated(
    session: Session,
    job_id: uuid.UUID,
    token: int,
    verdict: dict[str, Any],
    written: WrittenVersion | None,
    report_digest: str,
    example_outcomes: Mapping[Any, str],
    request_outcomes: Mapping[Any, Mapping[str, Any]],
    *,
    now: datetime | None = None,
) -> Job:
    """The worker's last word: verdict, the candidate that it has `written`, report and what became of each example.
    `publish_job` does the rest.

    Raises LeaseLost, and ValueError for an outcome that is none.
    """
    unknown = set(example_outcomes.values()) - OUTCOMES
    if unknown:
        raise ValueError(f"unknown outcomes {sorted(unknown)}: they must be among {sorted(OUTCOMES)}")
    now = now or clock(session)
    job = held(session, job_id, token)
    candidate = None if written is None else adapters.register_candidate(session, job, written)
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
    failure: Failure,
    now: datetime,
    *,
    offered_bytes: int | None = None,
    chance: float = 0.5,
) -> Job:
    """The job ends with an error or is put off, as its kind of failure asks for; clocks run on. The error holds kinds
    and numbers, never request text; `offered_bytes` is the worker's memory, `chance` in [0, 1) spreads pauses.

    Raises LeaseLost.
    """
    model_id = repository.model_of(session, job_id)
    model = None if model_id is None else lock_model(session, model_id)
    job = held(session, job_id, token)
    assert model is not None  # noqa: S101 - a job has a served model
    failing.fail(session, model, job, failure, now, offered_bytes=offered_bytes, chance=chance)
    return job


def _note_requests(
    session: Session, job: Job, outcomes: Mapping[uuid.UUID, Mapping[str, Any]], now: datetime
) -> None:
    """Requests are evaluated; their numbers are kept, with how many items the base model knows by itself."""
    requests = members.of(session, job)
    counts = repository.forget_counts(session, [request.id for request in requests])
    for request in requests:
        forget, in_base = counts.get(request.id, (0, 0))
        request.group_id = None  # whatever the verdict, it spoils no job
        request.outcome = {"forget_items": forget, "in_base": in_base, **outcomes.get(request.id, {})}
        members.move(session, job, request, RequestEvent.EVALUATE, now)


def _uuid(value: uuid.UUID | str) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)
