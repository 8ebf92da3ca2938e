"""Every statement about weights whose time is over."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, Select, cast, func, select
from sqlalchemy.orm import Session

from app.lifecycle import OPEN_JOBS
from app.served_models.schemas import Policy
from app.tables import Adapter, AdapterState, Job, ServedModel

DAYS = "superseded_weights_days"
ENDED = (AdapterState.SUPERSEDED, AdapterState.REJECTED)
FREE: tuple[Any, ...] = (
    Adapter.id.is_distinct_from(ServedModel.active_adapter_id),
    ~select(Job.id).where(Job.start_adapter_id == Adapter.id, Job.state.in_(OPEN_JOBS)).exists(),
    ~select(ServedModel.id)
    .where(ServedModel.reference_adapter_path.like(func.concat("%/", Adapter.name)))
    .correlate(Adapter)
    .exists(),
)
"""What nobody serves, starts from or compares with."""


def over(now: datetime) -> Select[Any]:
    """Superseded and rejected versions whose window has passed, that nobody needs and that are not doomed yet. A
    rejected one's window begins with the end of its job."""
    maker = Job.__table__.alias("maker")
    days = func.coalesce(
        cast(ServedModel.policy[DAYS].astext, Integer), Policy.model_fields[DAYS].default
    )
    since = func.coalesce(Adapter.superseded_at, maker.c.finished_at, Adapter.created_at)
    return (
        select(Adapter)
        .join(ServedModel, ServedModel.id == Adapter.served_model_id)
        .outerjoin(maker, maker.c.id == Adapter.job_id)
        .where(
            Adapter.state.in_(ENDED),
            Adapter.weights_doomed_at.is_(None),
            since + func.make_interval(0, 0, 0, days) < now,
            *FREE,
        )
        .order_by(Adapter.served_model_id, Adapter.version)
    )


def model_with_some_over(session: Session, now: datetime) -> uuid.UUID | None:
    """A model that has such versions."""
    statement = over(now).with_only_columns(Adapter.served_model_id, maintain_column_froms=True).limit(1)
    found: uuid.UUID | None = session.scalars(statement).first()
    return found


def over_of(session: Session, model_id: uuid.UUID, now: datetime, limit: int) -> Sequence[Adapter]:
    """Such versions of one model, oldest first, held until the transaction ends."""
    statement = over(now).where(Adapter.served_model_id == model_id).limit(limit).with_for_update(of=Adapter)
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def weights_over(session: Session, now: datetime) -> set[uuid.UUID]:
    """Versions whose weights may be gone: doomed ones, and those that will be."""
    doomed = select(Adapter.id).where(Adapter.weights_doomed_at.is_not(None))
    statement = over(now).with_only_columns(Adapter.id, maintain_column_froms=True)
    return set(session.scalars(doomed)) | set(session.scalars(statement))


def doomed(session: Session, limit: int) -> Sequence[Adapter]:
    """Versions whose weights are to go, the longest doomed first, held; whatever others hold is left."""
    statement = (
        select(Adapter)
        .where(Adapter.weights_doomed_at.is_not(None), Adapter.weights_destroyed_at.is_(None))
        .order_by(Adapter.weights_doomed_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).all()


def destroyed_among(session: Session, names: Collection[str]) -> Sequence[str]:
    """Those of the names whose version's weights were destroyed."""
    statement = select(Adapter.name).where(Adapter.name.in_(names), Adapter.weights_destroyed_at.is_not(None))
    return session.scalars(statement).all()


def ended_named(session: Session, name: str) -> Adapter | None:
    """The version of that name, if it may not be used as if it were published."""
    statement = select(Adapter).where(Adapter.name == name, Adapter.state != AdapterState.PUBLISHED)
    return session.scalars(statement).one_or_none()
