"""Moves of a job's own row. The caller holds it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from app.jobs import members
from app.lifecycle import JobEvent, JobState, RequestEvent, advance_job
from app.tables import Job

FINAL = frozenset({JobState.PUBLISHED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED})


def release(job: Job, event: JobEvent, now: datetime) -> None:
    """End the worker's part: the job moves and its lease is cleared; final states get their time."""
    job.state = advance_job(job.state, event)
    job.lease_owner = job.lease_until = None
    if job.state in FINAL:
        job.finished_at = now


def requeue(session: Session, job: Job, now: datetime) -> None:
    """A running job and its requests wait for a worker again, from now on; the one that had it did not die on it."""
    release(job, JobEvent.RELEASE, now)
    job.stage = str(job.state)
    job.not_before = now  # the sweep rings often for what has begun to wait
    job.attempts -= 1
    for request in members.of(session, job):
        members.move(session, job, request, RequestEvent.RELEASE, now)
