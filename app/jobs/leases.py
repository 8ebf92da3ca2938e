"""Who works on a job. A claim gives a lease and a fencing token; every later write holds the job's row and checks it.

A worker that lost its lease holds a stale token: it can write nothing, however late it wakes up.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.adapters import service as adapters
from app.audit.service import record
from app.db import clock
from app.events.journal import note_progress
from app.jobs import failing, members, repository, turns
from app.jobs.errors import LeaseLost
from app.jobs.failures import Failure, FailureKind
from app.jobs.moves import release, requeue
from app.jobs.progress import overall, with_losses
from app.lifecycle import JobEvent, JobState, advance_job
from app.queue import enqueue
from app.requests.repository import lock_model
from app.served_models import breaker
from app.tables import Job, ServedModel
from grail.types import Progress

__all__ = [
    "MAX_ATTEMPTS",
    "LeaseLost",
    "check",
    "claim",
    "claimable",
    "give_back",
    "heartbeat",
    "held",
    "next_version",
    "store_artefact",
]

MAX_ATTEMPTS = 5
"""Workers that may die on one job before it counts as failed: it is likely what kills them."""
RUN_JOB = "grail.run_job"


def claimable(session: Session, now: datetime, memory_bytes: int | None = None) -> list[uuid.UUID]:
    """Jobs that a worker with so much memory could take up, in the order in which it is to try them.

    Each is to be claimed in a transaction of its own: holding one served model while asking for the next would let two
    workers wait for each other.
    """
    return turns.in_turn(repository.candidates(session, now), now, memory_bytes)


def claim(
    session: Session,
    job_id: uuid.UUID,
    owner: str,
    now: datetime,
    lease_seconds: float,
    memory_bytes: int | None = None,
) -> Job | None:
    """Take up a queued job, or one whose lease ran out, with a new fencing token. None when there is nothing to take.

    The served model's row is held first, so that of two jobs of one model only one can be at work. A job that is
    claimed from the queue starts from the adapter that is active now.
    """
    model_id = repository.model_of(session, job_id)
    model = None if model_id is None else lock_model(session, model_id)
    job = repository.locked(session, job_id, skip_locked=True)
    if model is None or job is None or not turns.fits(job.needed_bytes, memory_bytes):
        return None
    if not _claimable(job, model, now) or repository.another_at_work(session, job):
        return None
    first = job.state is JobState.QUEUED
    model.lease_losses += not first
    if not first and job.attempts >= MAX_ATTEMPTS:
        _give_up(session, model, job, now)
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


def check(session: Session, job_id: uuid.UUID, token: int) -> None:
    """A look without a lock, for computations in between. Raises LeaseLost, also when the job was cancelled."""
    if repository.state_and_token(session, job_id) != (JobState.RUNNING, token):
        raise LeaseLost(job_id, token)


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
    job, now = held(session, job_id, token), now or clock(session)
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


def next_version(session: Session, job_id: uuid.UUID, token: int) -> int:
    """The number of the version that the job is about to write. Raises LeaseLost: then no file is written either."""
    return adapters.next_version(session, held(session, job_id, token).served_model_id)


def give_back(session: Session, job_id: uuid.UUID, token: int, now: datetime) -> None:
    """The worker stops: the job is queued again as it is, and rung for at once, for another to go on where its
    artefacts end. Raises LeaseLost."""
    job = held(session, job_id, token)
    requeue(session, job, now)
    record(session, "job.released", subject_id=str(job.id), at=now, state=str(job.state), token=token)
    enqueue(session, RUN_JOB, job.id)
    session.flush()


def _claimable(job: Job, model: ServedModel, now: datetime) -> bool:
    """Queued, and neither put off nor kept back by the breaker; or running on a lease that ran out."""
    if job.state is JobState.QUEUED:
        return (job.not_before is None or job.not_before <= now) and not breaker.blocks(model, now)
    return job.state is JobState.RUNNING and job.lease_until is not None and job.lease_until < now


def _give_up(session: Session, model: ServedModel, job: Job, now: datetime) -> None:
    """Worker after worker died on it: as with any failure of nobody knows whom, its requests are halved."""
    error = {
        "type": "workers-died",
        "title": "Every worker that took up this job died",
        "detail": f"{job.attempts} workers stopped without a word; often memory ran out",
        "mend": "Use a smaller micro-batch, more memory or shorter items; requests that stand alone wait for a person.",
    }
    failing.fail(session, model, job, Failure(FailureKind.UNKNOWN, error), now, failed_before=True)
