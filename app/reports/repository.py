"""Every statement on reports."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, tuple_
from sqlalchemy.orm import Session

from app.tables import Adapter, BatchMember, Certificate, Job, Report, Request, ServedModel


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


def concluded(
    session: Session, start: datetime, end: datetime, after: tuple[datetime, uuid.UUID] | None, limit: int
) -> Sequence[Row[Any]]:
    """Jobs that ended from `start` to before `end`, in that order, behind `after`: (id, name of the served model,
    state, finished_at, version that it made, digest of its report)."""
    shown: tuple[Any, ...] = (
        Job.id, ServedModel.name, Job.state, Job.finished_at, Adapter.version, Report.digest,
    )  # fmt: skip
    statement = (
        select(*shown)
        .select_from(Job)
        .join(ServedModel, ServedModel.id == Job.served_model_id)
        .outerjoin(Adapter, Adapter.id == Job.candidate_adapter_id)
        .outerjoin(Report, Report.job_id == Job.id)
        .where(Job.finished_at >= start, Job.finished_at < end)
        .order_by(Job.finished_at, Job.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(Job.finished_at, Job.id) > tuple_(*after))
    return session.execute(statement).all()


def certificates(
    session: Session, job_id: uuid.UUID, after: uuid.UUID | None, limit: int
) -> Sequence[Certificate]:
    """Certificates of what a job erased, in the order of their requests, behind `after`."""
    statement = select(Certificate).where(Certificate.job_id == job_id).order_by(Certificate.request_id).limit(limit)
    return session.scalars(statement if after is None else statement.where(Certificate.request_id > after)).all()


def add(session: Session, report: Report) -> None:
    """Insert a report."""
    session.add(report)
    session.flush()
