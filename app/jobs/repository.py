"""Every statement on jobs, the members of their batches and what became of their examples."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.jobs.turns import Candidate
from app.lifecycle import JobState
from app.tables import (
    Adapter,
    Approval,
    Batch,
    BatchMember,
    BatchReason,
    Example,
    Job,
    Key,
    Report,
    Request,
    ServedModel,
)
from grail.types import Role, Segment

AT_WORK = (JobState.RUNNING, JobState.EVALUATED, JobState.AWAITING_APPROVAL)
"""States of which a served model has one job at most (a partial unique index says so too)."""
IN_BASE = "in_base"
IDS_AT_ONCE = 1000
MOST_CANDIDATES = 1000


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What a list is narrowed to. `owner` None means: everybody's."""

    owner: uuid.UUID | None = None
    state: JobState | None = None
    served_model: str | None = None


def find(session: Session, job_id: uuid.UUID, *, owner: uuid.UUID | None = None) -> Job | None:
    """One job; with `owner` only if a request of theirs is in its batch."""
    statement = select(Job).where(Job.id == job_id).execution_options(populate_existing=True)
    return session.scalars(_owned(statement, owner)).one_or_none()


def page(session: Session, wanted: JobFilter, *, before: uuid.UUID | None, limit: int) -> list[Job]:
    """At most `limit` jobs with ids below `before`, newest first."""
    statement = _owned(select(Job).order_by(Job.id.desc()).limit(limit), wanted.owner)
    if wanted.state is not None:
        statement = statement.where(Job.state == wanted.state)
    if wanted.served_model is not None:
        model_id = select(ServedModel.id).where(ServedModel.name == wanted.served_model).scalar_subquery()
        statement = statement.where(Job.served_model_id == model_id)
    if before is not None:
        statement = statement.where(Job.id < before)
    return list(session.scalars(statement))


def locked(session: Session, job_id: uuid.UUID, *, skip_locked: bool = False) -> Job | None:
    """The job, read afresh and held until the transaction ends; None when there is none (or another holds it)."""
    statement = select(Job).where(Job.id == job_id).with_for_update(skip_locked=skip_locked, key_share=True)
    return session.scalars(statement.execution_options(populate_existing=True)).one_or_none()


def model_of(session: Session, job_id: uuid.UUID) -> uuid.UUID | None:
    """The served model that a job is for."""
    return session.scalar(select(Job.served_model_id).where(Job.id == job_id))


def state_and_token(session: Session, job_id: uuid.UUID) -> tuple[JobState, int] | None:
    """What tells a worker whether a job is still its own, read without a lock."""
    row = session.execute(select(Job.state, Job.fencing_token).where(Job.id == job_id)).one_or_none()
    return None if row is None else (row.state, row.fencing_token)


def to_compute(session: Session, job_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Those of these jobs that a worker computes or is still to."""
    states = (JobState.QUEUED, JobState.RUNNING)
    return set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), Job.state.in_(states))))


def batch_reason(session: Session, job: Job) -> BatchReason:
    """Why the job's batch was closed."""
    return session.scalars(select(Batch.reason).where(Batch.id == job.batch_id)).one()


def candidates(session: Session, now: datetime) -> list[Candidate]:
    """Jobs that could be taken up, as far as their own rows say; the most urgent where there are very many."""
    other = aliased(Job)
    served_at = (
        select(other.started_at)
        .where(other.served_model_id == Job.served_model_id, other.id != Job.id, other.started_at.is_not(None))
        .order_by(other.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    statement = (
        select(Job.id, Job.due_at, served_at, Job.needed_bytes)
        .where(or_(_ready(now), _abandoned(now)))
        .order_by(Job.due_at.asc().nulls_last(), Job.id)
        .limit(MOST_CANDIDATES)
    )
    return [Candidate(*row) for row in session.execute(statement)]


def another_at_work(session: Session, job: Job) -> bool:
    """Whether another job of the same served model is at work. The caller holds the served model's row."""
    statement = select(Job.id).where(
        Job.served_model_id == job.served_model_id, Job.id != job.id, Job.state.in_(AT_WORK)
    )
    return session.scalars(statement.limit(1)).first() is not None


def members(session: Session, job: Job) -> list[Request]:
    """The requests of the job's batch, read afresh and held until the transaction ends, in id order."""
    statement = (
        select(Request)
        .join(BatchMember, BatchMember.request_id == Request.id)
        .where(BatchMember.batch_id == job.batch_id)
        .order_by(Request.id)
        .with_for_update(of=Request, key_share=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def request_ids(
    session: Session, batch_ids: Collection[uuid.UUID], owner: uuid.UUID | None
) -> dict[uuid.UUID, list[uuid.UUID]]:
    """Members of each batch in id order; with `owner` only theirs."""
    statement = (
        select(BatchMember.batch_id, BatchMember.request_id)
        .where(BatchMember.batch_id.in_(batch_ids))
        .order_by(BatchMember.request_id)
    )
    if owner is not None:
        mine = select(Request.id).where(Request.created_by == owner)
        statement = statement.where(BatchMember.request_id.in_(mine))
    found: dict[uuid.UUID, list[uuid.UUID]] = {batch_id: [] for batch_id in batch_ids}
    for row in session.execute(statement):
        found[row.batch_id].append(row.request_id)
    return found


def models(session: Session, model_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, ServedModel]:
    """Served models by id."""
    rows = session.scalars(select(ServedModel).where(ServedModel.id.in_(model_ids)))
    return {row.id: row for row in rows}


def adapters(session: Session, adapter_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Adapter]:
    """Adapter versions by id."""
    rows = session.scalars(select(Adapter).where(Adapter.id.in_(adapter_ids)))
    return {row.id: row for row in rows}


def with_report(session: Session, job_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Which of these jobs have a report."""
    return set(session.scalars(select(Report.job_id).where(Report.job_id.in_(job_ids))))


def adapter(session: Session, adapter_id: uuid.UUID) -> Adapter:
    """One adapter version."""
    return session.get_one(Adapter, adapter_id)


def approvals(session: Session, job_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, frozenset[uuid.UUID]]:
    """Holders of keys that approved it, of each of these jobs that has any."""
    statement = (
        select(Approval.job_id, func.array_agg(Approval.key_id))
        .where(Approval.job_id.in_(job_ids))
        .group_by(Approval.job_id)
    )
    return {row[0]: frozenset(row[1]) for row in session.execute(statement)}


def given_approvals(session: Session, job_id: uuid.UUID) -> Sequence[Row[Any]]:
    """Who let a job's candidate through, in their order: (key_id, role, created_at)."""
    shown: tuple[Any, ...] = (Approval.key_id, Key.role, Approval.created_at)
    statement = select(*shown).join(Key, Key.id == Approval.key_id).where(Approval.job_id == job_id)
    return session.execute(statement.order_by(Approval.created_at, Approval.id)).all()


def roles(session: Session, key_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Roles of keys."""
    return {row.id: str(row.role) for row in session.execute(select(Key.id, Key.role).where(Key.id.in_(key_ids)))}


def note_outcomes(session: Session, job: Job, outcomes: Mapping[uuid.UUID, str]) -> None:
    """Write what became of examples: those of the job's own requests, some at a time. Standing rows keep theirs."""
    mine = select(BatchMember.request_id).where(BatchMember.batch_id == job.batch_id).scalar_subquery()
    for outcome in sorted(set(outcomes.values())):
        ids = [example_id for example_id, said in outcomes.items() if said == outcome]
        for start in range(0, len(ids), IDS_AT_ONCE):
            session.execute(
                update(Example)
                .where(Example.id.in_(ids[start : start + IDS_AT_ONCE]), Example.request_id.in_(mine))
                .values(outcome=outcome)
                .execution_options(synchronize_session=False)
            )


def forget_counts(session: Session, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, tuple[int, int]]:
    """(forget items, those of them that the base model knows by itself) of each request."""
    statement = (
        select(Example.request_id, func.count(), func.count().filter(Example.outcome == IN_BASE))
        .where(Example.request_id.in_(ids), Example.segment == Segment.FORGET, Example.role == Role.ITEM)
        .group_by(Example.request_id)
    )
    return {row[0]: (row[1], row[2]) for row in session.execute(statement) if row[0] is not None}


def waiting(session: Session, now: datetime) -> list[Job]:
    """Jobs that a message should have woken: queued and not put off, evaluated, or running on a lease that ran out;
    oldest first."""
    statement = (
        select(Job)
        .where(or_(_ready(now), Job.state == JobState.EVALUATED, _abandoned(now)))
        .order_by(Job.id)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def _ready(now: datetime) -> ColumnElement[bool]:
    """Queued and not put off."""
    return (Job.state == JobState.QUEUED) & (Job.not_before.is_(None) | (Job.not_before <= now))


def _abandoned(now: datetime) -> ColumnElement[bool]:
    """Running on a lease that ran out."""
    return (Job.state == JobState.RUNNING) & (Job.lease_until < now)


def _owned(statement: Select[Job], owner: uuid.UUID | None) -> Select[Job]:
    """Narrowed to jobs with a request of `owner` in their batch."""
    if owner is None:
        return statement
    theirs = (
        select(BatchMember.batch_id)
        .join(Request, Request.id == BatchMember.request_id)
        .where(Request.created_by == owner)
    )
    return statement.where(Job.batch_id.in_(theirs))
