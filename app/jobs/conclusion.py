"""What follows from a verdict: published, submitted to an officer, or rejected. Safe to call again at any time.

Locks are taken in the order served model, job, requests.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.audit.service import record
from app.auth import Principal
from app.errors import NotFound, ServiceError
from app.jobs import approvals, failing, members, repository
from app.jobs.errors import NotAwaitingApproval
from app.jobs.failures import Failure, FailureKind
from app.jobs.moves import release
from app.jobs.verdicts import changed_settings
from app.lifecycle import JobEvent, JobState, RequestEvent
from app.requests.repository import lock_model
from app.served_models import breaker
from app.served_models.schemas import Policy
from app.tables import Adapter, AdapterState, Job, Request, ServedModel
from app.telemetry.context import note
from app.telemetry.tracing import span

log = structlog.get_logger(__name__)


def conclude(session: Session, job_id: uuid.UUID, now: datetime) -> JobState | None:
    """Draw the consequence of an evaluated job's verdict. A job in any other state is left as it is.

    The job's state afterwards; None when there is no such job.
    """
    model, job = _held(session, job_id)
    if model is None or job is None:
        return None
    if job.state is JobState.EVALUATED:
        with span("conclude", parent=job.traceparent, job_id=job.id, model=model.name):
            _conclude(session, model, job, now)
        session.flush()
    return job.state


def _conclude(session: Session, model: ServedModel, job: Job, now: datetime) -> None:
    note(job_id=job.id, model=model.name)
    breaker.note_success(session, model, now)
    if not (job.verdict or {}).get("ok"):
        _reject(session, job, now)
    elif Policy.model_validate(model.policy).asks_officers:
        _submit(session, job, now)
    else:
        _publish_or_fail(session, model, job, now)
    log.info("job_concluded", state=str(job.state))


def approve(session: Session, job_id: uuid.UUID, who: Principal, now: datetime) -> Job:
    """An officer lets the candidate through; once as many have as are needed it is published. Raises NotFound,
    NotAwaitingApproval, AlreadyApproved, and what publishing raises."""
    model, job = _awaiting(session, job_id)
    missing = approvals.give(session, model, job, who, now)
    record(session, "job.approved", subject_id=str(job.id), at=now, key_id=str(who.key_id), missing=missing)
    if not missing:
        _publish(session, job, now)
    session.flush()
    return job


def refuse(session: Session, job_id: uuid.UUID, who: Principal, reason: str, now: datetime) -> Job:
    """An officer turns the candidate down, whoever has approved it; its requests wait for a person. Raises NotFound,
    NotAwaitingApproval.

    The reason stays with the job; the audit trail holds its digest, since it is a person's text.
    """
    _, job = _awaiting(session, job_id)
    job.error = {"type": "refused", "title": "An officer refused the candidate", "detail": reason}
    _end(session, job, JobEvent.REJECT, now)
    digest = hashlib.sha256(reason.encode()).hexdigest()
    record(session, "job.refused", subject_id=str(job.id), at=now, key_id=str(who.key_id), reason_digest=digest)
    _set_aside(session, job)
    requests = members.of(session, job)
    for request in requests:
        members.note_result(request, job, "refused")
    members.hand_over(session, job, requests, now, count=False)
    session.flush()
    return job


def _held(session: Session, job_id: uuid.UUID) -> tuple[ServedModel | None, Job | None]:
    model_id = repository.model_of(session, job_id)
    if model_id is None:
        return None, None
    return lock_model(session, model_id), repository.locked(session, job_id)


def _awaiting(session: Session, job_id: uuid.UUID) -> tuple[ServedModel, Job]:
    model, job = _held(session, job_id)
    if model is None or job is None:
        raise NotFound("there is no job with this id", mend="GET /v1/jobs lists them.")
    if job.state is not JobState.AWAITING_APPROVAL:
        raise NotAwaitingApproval(job.state)
    return model, job


def _submit(session: Session, job: Job, now: datetime) -> None:
    _end(session, job, JobEvent.SUBMIT_FOR_APPROVAL, now)
    for request in members.of(session, job):
        members.move(session, job, request, RequestEvent.SUBMIT_FOR_APPROVAL, now)


def _publish_or_fail(session: Session, model: ServedModel, job: Job, now: datetime) -> None:
    """Publish; when the alias moved the job fails and its requests try again, from what is active then; when the
    version's files are damaged the model is left alone until somebody has looked."""
    try:
        with session.begin_nested():
            _publish(session, job, now)
    except ServiceError as error:
        if error.status not in {409, 500}:
            raise
        session.refresh(job)
        log.warning("publishing_failed", job_id=str(job.id), error=error.type)
        words = {"type": error.type, "title": error.title, "detail": error.detail, "mend": error.how_to_mend}
        kind = FailureKind.SETTINGS if error.status == 409 else FailureKind.OPERATOR
        failing.fail(session, model, job, Failure(kind, words, changes={}), now)
        job.stage = str(job.state)
        _set_aside(session, job)


def _publish(session: Session, job: Job, now: datetime) -> None:
    """The candidate becomes the active version; requests are done. Without a candidate nothing had to change."""
    version = _candidate(session, job)
    if version is not None:
        adapters.publish(session, job, version, now)
    _end(session, job, JobEvent.PUBLISH, now)
    for request in members.of(session, job):
        number = None if version is None else version.version
        _complete(session, job, request, now, adapter_version=number)
        if request.traceparent is not None:  # each request's trace ends with what it was published by
            with span("published", parent=request.traceparent, links=[job.traceparent], request_id=request.id):
                pass


def _reject(session: Session, job: Job, now: datetime) -> None:
    """The candidate is set aside. Requests try again with changed settings; those whose every forget item is known to
    the base model itself are done: no adapter can do more for them."""
    _end(session, job, JobEvent.REJECT, now)
    _set_aside(session, job)
    requests = members.of(session, job)
    settled = _settled(session, requests)
    for request in requests:
        if request.id in settled:
            _complete(session, job, request, now, adapter_version=None)
        else:
            members.note_result(request, job, "rejected")
    changes = changed_settings(job.settings["unlearn"], job.verdict or {})
    members.try_again(session, job, [request for request in requests if request.id not in settled], now, changes)


def _complete(
    session: Session, job: Job, request: Request, now: datetime, *, adapter_version: int | None
) -> None:
    """A request is done; its outcome says plainly when all of it is known to the base model itself."""
    settled = request.id in _settled(session, [request])
    members.note_result(request, job, "in_base" if settled else "published", adapter_version=adapter_version)
    members.move(session, job, request, RequestEvent.PUBLISH, now)


def _settled(session: Session, requests: list[Request]) -> set[uuid.UUID]:
    """Requests whose every forget item ended as `in_base`."""
    counts = repository.forget_counts(session, [request.id for request in requests])
    return {request_id for request_id, (forget, in_base) in counts.items() if forget and forget == in_base}


def _end(session: Session, job: Job, event: JobEvent, now: datetime) -> None:
    release(job, event, now)
    job.stage = str(job.state)
    fields: dict[str, Any] = {"state": str(job.state)}
    if job.error:
        fields["error"] = job.error.get("type")
    record(session, f"job.{job.state}", subject_id=str(job.id), at=now, **fields)


def _candidate(session: Session, job: Job) -> Adapter | None:
    return None if job.candidate_adapter_id is None else repository.adapter(session, job.candidate_adapter_id)


def _set_aside(session: Session, job: Job) -> None:
    """A candidate that is not published is kept, and never will be."""
    candidate = _candidate(session, job)
    if candidate is not None and candidate.state is AdapterState.CANDIDATE:
        candidate.state = AdapterState.REJECTED
        record(session, "adapter.rejected", subject_id=str(candidate.id), job_id=str(job.id), digest=candidate.digest)
