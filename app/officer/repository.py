"""Every statement of the officer's queue: each reads so many rows of one index, from a place in it on."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from app.lifecycle import JobState, RequestState
from app.tables import (
    Adapter,
    AdapterDownload,
    AdapterRecipient,
    AdapterState,
    Job,
    Replica,
    Report,
    Request,
    ServedModel,
)

again = aliased(Request)
Current = aliased(Adapter)
BEING_REINSTATED = select(again.id).where(again.original_id == Request.id, again.completed_at.is_(None)).exists()
"""Decided about: it waits for a job."""


def awaiting_approval(session: Session, model: str | None, after: uuid.UUID | None, limit: int) -> Sequence[Job]:
    """Jobs that wait for officers, oldest first."""
    statement = select(Job).where(Job.state == JobState.AWAITING_APPROVAL).order_by(Job.id).limit(limit)
    if model is not None:
        statement = statement.where(Job.served_model_id == _model_id(model))
    return session.scalars(statement if after is None else statement.where(Job.id > after)).all()


def reported_at(session: Session, jobs: Sequence[Job]) -> dict[uuid.UUID, datetime]:
    """When the reports of jobs were issued."""
    rows = session.execute(
        select(Report.job_id, Report.created_at).where(Report.job_id.in_([job.id for job in jobs]))
    )
    return {row.job_id: row.created_at for row in rows}


def in_state(
    session: Session, state: RequestState, model: str | None, after: uuid.UUID | None, limit: int
) -> Sequence[Row[Any]]:
    """Requests in a state, oldest first; countered ones only until it is decided about them."""
    since = Request.countered_at if state is RequestState.COUNTERED else Request.received_at
    statement = _rows(since, model).where(Request.state == state).order_by(Request.id).limit(limit)
    if state is RequestState.COUNTERED:
        statement = statement.where(~BEING_REINSTATED)
    return session.execute(statement if after is None else statement.where(Request.id > after)).all()


def due(
    session: Session,
    model: str | None,
    first: datetime | None,
    before: datetime,
    after: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> Sequence[Row[Any]]:
    """Open requests whose clock runs and that are due from `first` to `before`, the first due first."""
    statement = _rows(Request.received_at, model).where(
        Request.completed_at.is_(None), Request.held_since.is_(None), Request.due_at < before
    )
    if first is not None:
        statement = statement.where(Request.due_at >= first)
    if after is not None:
        statement = statement.where(tuple_(Request.due_at, Request.id) > tuple_(*after))
    return session.execute(statement.order_by(Request.due_at, Request.id).limit(limit)).all()


def to_be_told(session: Session, model: str | None, after: uuid.UUID | None, limit: int) -> Sequence[Row[Any]]:
    """Superseded versions that somebody has who was not told and does not serve a newer one, oldest first."""
    shown: tuple[Any, ...] = (Adapter.id, Adapter.version, Adapter.state, Adapter.superseded_at, ServedModel.name)
    statement = (
        select(*shown)
        .join(ServedModel, ServedModel.id == Adapter.served_model_id)
        .where(Adapter.state == AdapterState.SUPERSEDED, Adapter.superseded_at.is_not(None), or_(_key(), _replica()))
        .order_by(Adapter.id)
        .limit(limit)
    )
    if model is not None:
        statement = statement.where(Adapter.served_model_id == _model_id(model))
    return session.execute(statement if after is None else statement.where(Adapter.id > after)).all()


def _key() -> Any:
    """A key downloaded the version, was not told, and not all of its replicas serve a newer one (or it has none)."""
    serves = (
        select(func.min(Current.version))
        .join(Replica, Replica.adapter_id == Current.id)
        .where(Replica.key_id == AdapterDownload.key_id, Replica.served_model_id == Adapter.served_model_id)
        .correlate(Adapter, AdapterDownload)
        .scalar_subquery()
    )
    told = select(AdapterRecipient.id).where(
        AdapterRecipient.adapter_id == Adapter.id, AdapterRecipient.key_id == AdapterDownload.key_id,
        AdapterRecipient.notified_at.is_not(None),
    )  # fmt: skip
    return (
        select(AdapterDownload.id)
        .where(
            AdapterDownload.adapter_id == Adapter.id, ~told.correlate(Adapter, AdapterDownload).exists(),
            func.coalesce(serves, 0) <= Adapter.version,
        )
        .correlate(Adapter)
        .exists()
    )  # fmt: skip


def _replica() -> Any:
    """A replica serves the version or did, was not told, and serves no newer one."""
    had = (AdapterRecipient.adapter_id == Adapter.id) & (AdapterRecipient.replica_id == Replica.id)
    return (
        select(Replica.id)
        .join(Current, Current.id == Replica.adapter_id)
        .outerjoin(AdapterRecipient, had)
        .where(
            Replica.served_model_id == Adapter.served_model_id, Current.version <= Adapter.version,
            or_(Replica.adapter_id == Adapter.id, AdapterRecipient.id.is_not(None)),
            AdapterRecipient.notified_at.is_(None),
        )
        .correlate(Adapter)
        .exists()
    )  # fmt: skip


def _rows(since: Any, model: str | None) -> Select[Any]:
    statement = select(
        Request.id, ServedModel.name, Request.state, func.coalesce(since, Request.received_at).label("since"),
        Request.due_at, Request.completed_at,
    ).join(ServedModel, ServedModel.id == Request.served_model_id)  # fmt: skip
    return statement if model is None else statement.where(Request.served_model_id == _model_id(model))


def _model_id(name: str) -> Any:
    return select(ServedModel.id).where(ServedModel.name == name).scalar_subquery()
