"""Who works on a job. A claim gives a lease and a fencing token; every later write holds the job's row and checks it.

A worker that lost its lease holds a stale token: it can write nothing, however late it wakes up.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from app.audit.service import record
from app.events.journal import note_progress
from app.jobs import members, repository
from app.jobs.errors import LeaseLost
from app.jobs.progress import overall, with_losses
from app.lifecycle import JobEvent, JobState, advance_job
from app.requests.repository import lock_model
from app.tables import Job
from grail.types import Progress

__all__ = ["MAX_ATTEMPTS", "LeaseLost", "claim", "heartbeat", "held", "release", "store_artefact"]

MAX_ATTEMPTS = 5
"""Workers that may die on one job before it is given up: it is likely what kills them."""


def claim(session: Session, job_id: uuid.UUID, owner: str, now: datetime, lease_seconds: float) -> Job | None:
    """Take up a queued job, or one whose lease ran out, with a new fencing token. None when there is nothing to take.

    The served model's row is held first, so that of two jobs of one model only one can be at work. A job that is
    claimed for the first time starts from the adapter that is active now.
    """
    model_id = repository.model_of(session, job_id)
    model = None if model_id is None else lock_model(session, model_id)
    job = repository.locked(session, job_id, skip_locked=True)
    if model is None or job is None or not _claimable(job, now) or repository.another_at_work(session, job):
        return None
    first = job.state is JobState.QUEUED
    if not first and job.attempts >= MAX_ATTEMPTS:
        _give_up(session, job, now)
        return None
    if first and model.active_adapter_id is not None:
        job.start_adapter_id = model.active_adapter_id
    if members.start(session, job, now) == 0:
        release(job, JobEvent.CANCEL, now)  # everybody withdrew
        record(session, "job.cancelled", subject_id=str(job.id), at=now, state=str(job.state))
        session.flush()
        return None
    job.state = advance_job(job.state, JobEvent.CLAIM if first else JobEvent.RECLAIM)
    job.lease_owner, job.lease_until = owner[:128], now + timedelta(seconds=lease_seconds)
    job.fencing_token += 1
    job.attempts += 1
    job.started_at = job.started_at or now
    record(
        session, "job.claimed", subject_id=str(job.id), at=now, state=str(job.state), token=job.fencing_token,
        attempts=job.attempts,
    )  # fmt: skip
    session.flush()
    return job


def held(session: Session, job_id: uuid.UUID, token: int) -> Job:
    """The job, held until the transaction ends, if `token` is still its token. Raises LeaseLost."""
    job = repository.locked(session, job_id)
    if job is None or job.state is not JobState.RUNNING or job.fencing_token != token:
        raise LeaseLost(job_id, token)
    return job


def heartbeat(
    session: Session,
    job_id: uuid.UUID,
    token: int,
    lease_seconds: float,
    progress: Progress | None = None,
    *,
    now: datetime | None = None,
) -> None:
    """Prolong the lease and note the newest progress. Raises LeaseLost, also when the job was cancelled."""
    job, now = held(session, job_id, token), now or datetime.now(UTC)
    job.lease_until = now + timedelta(seconds=lease_seconds)
    if progress is not None:
        stage, share = job.stage, job.progress
        job.stage, job.step, job.steps = progress.stage[:32], progress.step, progress.steps
        job.progress = overall(progress, job.progress)
        job.losses = with_losses(job.losses, progress)
        note_progress(session, job, stage, share, now)
    session.flush()


def store_artefact(session: Session, job_id: uuid.UUID, token: int, stage: str, digest: str, seconds: float) -> None:
    """Note what a stage made and how long it took: a job started again goes on after it. Raises LeaseLost."""
    job = held(session, job_id, token)
    job.artefacts = {**job.artefacts, stage: digest}
    job.timings = {**job.timings, stage: round(seconds, 3)}
    session.flush()


def release(job: Job, event: JobEvent, now: datetime) -> None:
    """End the worker's part: the job moves and its lease is cleared; final states get their time."""
    job.state = advance_job(job.state, event)
    job.lease_owner = job.lease_until = None
    if job.state in {JobState.PUBLISHED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED}:
        job.finished_at = now


def _claimable(job: Job, now: datetime) -> bool:
    """Queued, or running on a lease that ran out."""
    if job.state is JobState.QUEUED:
        return True
    return job.state is JobState.RUNNING and job.lease_until is not None and job.lease_until < now


def _give_up(session: Session, job: Job, now: datetime) -> None:
    """Worker after worker died on it: what is left is for a person."""
    job.error = {
        "type": "workers-died",
        "title": "Every worker that took up this job died",
        "detail": f"{job.attempts} workers stopped without a word; often memory ran out",
    }
    release(job, JobEvent.FAIL, now)
    record(session, "job.failed", subject_id=str(job.id), at=now, state=str(job.state), error="workers-died")
    members.hand_over(session, job, members.of(session, job), now, count=True)
    session.flush()
