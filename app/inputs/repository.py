"""Every SELECT behind a job's inputs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.envelope.columns import warm
from app.lifecycle import RequestState
from app.tables import Adapter, BatchExample, BatchMember, Example, Job, Request, ServedModel


def job(session: Session, job_id: uuid.UUID) -> Job | None:
    """The job's row."""
    return session.get(Job, job_id)


def served_model(session: Session, job: Job) -> ServedModel:
    """The model that the job is for."""
    return session.get_one(ServedModel, job.served_model_id)


def start_adapter(session: Session, job: Job) -> Adapter:
    """The version that the job starts from."""
    return session.get_one(Adapter, job.start_adapter_id)


def requests(session: Session, job: Job) -> Sequence[Request]:
    """The members of the job's batch, in a fixed order."""
    query = (
        select(Request)
        .join(BatchMember, BatchMember.request_id == Request.id)
        .where(BatchMember.batch_id == job.batch_id)
        .order_by(Request.id)
    )
    return session.scalars(query).all()


def examples(session: Session, job: Job) -> Sequence[Example]:
    """Items and probes of the members, and what the batch drew: standing retain rows with their probes, and items of
    earlier erasures unless they were reinstated since. In a fixed order."""
    members = select(BatchMember.request_id).where(BatchMember.batch_id == job.batch_id)
    drawn = select(BatchExample.example_id).where(BatchExample.batch_id == job.batch_id)
    query = (
        select(Example)
        .where(or_(Example.request_id.in_(members), Example.id.in_(drawn), Example.parent_id.in_(drawn)))
        .outerjoin(Request, Request.id == Example.request_id)
        .where(Request.id.is_(None) | (Request.state != RequestState.REINSTATED))
        .where(Example.removed_at.is_(None))  # erasure wins, even after the batch was drawn
        .order_by(Example.id)
    )
    rows = session.scalars(query).all()
    warm(session, rows)
    return rows
