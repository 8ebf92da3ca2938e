"""Every statement on adapter versions, the alias and download receipts."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from app.lifecycle import JobState
from app.requests.repository import alone
from app.tables import Adapter, AdapterState, Attestation, Job, Replica, ServedModel

AT_WORK = (JobState.RUNNING, JobState.EVALUATED, JobState.AWAITING_APPROVAL)


def model_by_name(session: Session, name: str, *, lock: bool = False) -> ServedModel | None:
    """The served model of that name; with `lock`, held until the transaction ends."""
    query: Select[Any] = select(ServedModel).where(ServedModel.name == name)
    if lock:
        query = query.add_columns(alone(ServedModel.id)).with_for_update(of=ServedModel, key_share=True)
        query = query.execution_options(populate_existing=True)
    found: ServedModel | None = session.scalars(query).one_or_none()
    return found


def by_version(session: Session, model_id: uuid.UUID, version: int) -> Adapter | None:
    """One version of a model."""
    return session.scalars(
        select(Adapter).where(Adapter.served_model_id == model_id, Adapter.version == version)
    ).one_or_none()


def by_job(session: Session, job_id: uuid.UUID) -> Adapter | None:
    """The version that a job made."""
    return session.scalars(select(Adapter).where(Adapter.job_id == job_id)).one_or_none()


def page(session: Session, model_id: uuid.UUID, before: int | None, limit: int) -> Sequence[Adapter]:
    """Versions older than `before`, newest first."""
    query = select(Adapter).where(Adapter.served_model_id == model_id)
    if before is not None:
        query = query.where(Adapter.version < before)
    return session.scalars(query.order_by(Adapter.version.desc()).limit(limit)).all()


def highest_version(session: Session, model_id: uuid.UUID) -> int:
    """The highest version number so far; 0 before the first."""
    return session.scalar(select(func.max(Adapter.version)).where(Adapter.served_model_id == model_id)) or 0


def parents(session: Session, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, int]:
    """Version numbers of some versions."""
    rows = session.execute(select(Adapter.id, Adapter.version).where(Adapter.id.in_(ids)))
    return {row.id: row.version for row in rows}


def swap_alias(
    session: Session, model_id: uuid.UUID, *, seen_revision: int, seen: uuid.UUID | None, to: uuid.UUID, now: datetime
) -> bool:
    """Compare-and-swap of the alias: False when it moved since it was seen."""
    moved = session.execute(
        update(ServedModel)
        .where(
            ServedModel.id == model_id,
            ServedModel.alias_revision == seen_revision,
            ServedModel.active_adapter_id.is_not_distinct_from(seen),
        )
        .values(active_adapter_id=to, alias_revision=ServedModel.alias_revision + 1, updated_at=now)
        .returning(ServedModel.id)
        .execution_options(synchronize_session=False)
    )
    return moved.one_or_none() is not None


def supersede_older(session: Session, model_id: uuid.UUID, version: int, now: datetime) -> Sequence[uuid.UUID]:
    """Mark every published version older than `version`: each still holds what was just erased."""
    rows = session.execute(
        update(Adapter)
        .where(Adapter.served_model_id == model_id, Adapter.version < version, Adapter.state == AdapterState.PUBLISHED)
        .values(state=AdapterState.SUPERSEDED, superseded_at=now)
        .returning(Adapter.id)
        .execution_options(synchronize_session=False)
    )
    return [row.id for row in rows]


def job_at_work(session: Session, model_id: uuid.UUID) -> uuid.UUID | None:
    """The job that is at work on a model, if any."""
    return session.scalar(select(Job.id).where(Job.served_model_id == model_id, Job.state.in_(AT_WORK)))


def replicas(session: Session, model_id: uuid.UUID) -> Sequence[tuple[Replica, int]]:
    """Replicas of a model with the version that each acknowledged."""
    rows = session.execute(
        select(Replica, Adapter.version)
        .join(Adapter, Adapter.id == Replica.adapter_id)
        .where(Replica.served_model_id == model_id)
        .order_by(Replica.replica_id)
    )
    return [(row[0], row[1]) for row in rows]


def replica(session: Session, model_id: uuid.UUID, replica_id: str) -> Replica | None:
    """One replica."""
    return session.scalars(
        select(Replica).where(Replica.served_model_id == model_id, Replica.replica_id == replica_id)
    ).one_or_none()


def attested(session: Session, adapter_id: uuid.UUID, name: str) -> bytes | None:
    """What was signed about a version under this name."""
    statement = select(Attestation.body).where(Attestation.adapter_id == adapter_id, Attestation.name == name)
    return session.scalars(statement).one_or_none()
