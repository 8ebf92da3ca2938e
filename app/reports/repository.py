"""Every statement on reports."""

from __future__ import annotations

import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.tables import BatchMember, Job, Report, Request


def of_job(session: Session, job_id: uuid.UUID) -> Report | None:
    """The report of a job."""
    return session.scalars(select(Report).where(Report.job_id == job_id)).one_or_none()


def job(session: Session, job_id: uuid.UUID) -> Job | None:
    """A job by id."""
    return session.get(Job, job_id)


def requests_of(session: Session, job: Job, owner: uuid.UUID | None) -> list[uuid.UUID]:
    """Requests in the job's batch; with `owner` only theirs."""
    statement = (
        select(Request.id)
        .join(BatchMember, BatchMember.request_id == Request.id)
        .where(BatchMember.batch_id == job.batch_id)
        .order_by(Request.id)
    )
    if owner is not None:
        statement = statement.where(Request.created_by == owner)
    return list(session.scalars(statement))


def add(session: Session, report: Report) -> None:
    """Insert a report."""
    session.add(report)
    session.flush()
