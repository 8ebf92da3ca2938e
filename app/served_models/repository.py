"""Every statement on served models and their standing retain sets."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Select, String, all_, func, literal, select, update
from sqlalchemy.orm import Session

from app.lifecycle import JobState
from app.requests.repository import alone
from app.tables import Adapter, Example, Job, ServedModel

NAMES = 7_311_002
"""Advisory locks on names of served models; the schema's lock is the number before."""


def everything(session: Session) -> Sequence[tuple[ServedModel, Adapter | None]]:
    """All served models with their active versions, by name."""
    rows = session.execute(
        select(ServedModel, Adapter)
        .outerjoin(Adapter, Adapter.id == ServedModel.active_adapter_id)
        .order_by(ServedModel.name)
    )
    return [(row[0], row[1]) for row in rows]


def by_name(session: Session, name: str, *, lock: bool = False) -> ServedModel | None:
    """The served model of that name; with `lock`, held until the transaction ends."""
    query: Select[Any] = select(ServedModel).where(ServedModel.name == name)
    if lock:  # rows that refer to the model can still be inserted by others
        query = query.add_columns(alone(ServedModel.id)).with_for_update(of=ServedModel, key_share=True)
        query = query.execution_options(populate_existing=True)
    found: ServedModel | None = session.scalars(query).one_or_none()
    return found


def queued_jobs(session: Session, model_id: uuid.UUID) -> list[uuid.UUID]:
    """Jobs of a model that wait for a worker."""
    return list(session.scalars(select(Job.id).where(Job.served_model_id == model_id, Job.state == JobState.QUEUED)))


def standing_of_operator(session: Session, model_id: uuid.UUID) -> dict[str, uuid.UUID]:
    """Content digests and ids of the items that the operator put and that stand."""
    rows = session.execute(
        select(Example.content_digest, Example.id).where(
            Example.served_model_id == model_id, Example.standing, Example.request_id.is_(None)
        )
    )
    return {row.content_digest: row.id for row in rows}


def retire(session: Session, ids: Iterable[uuid.UUID], now: datetime) -> None:
    """Items that stand no longer; their rows stay for batches that drew them."""
    ids = list(ids)
    if ids:
        session.execute(
            update(Example)
            .where(Example.id.in_(ids))
            .values(standing=False, removed_at=now)
            .execution_options(synchronize_session=False)
        )


def forget_taken_out(session: Session, model_id: uuid.UUID, wanted: Iterable[str]) -> None:
    """Items of the operator that an erasure took out and that are not among `wanted` any more: they would come back
    with the erasure's withdrawal."""
    session.execute(
        update(Example)
        .where(
            Example.served_model_id == model_id,
            Example.request_id.is_(None),
            Example.erased_by_request_id.is_not(None),
            Example.content_digest != all_(literal(sorted(wanted), ARRAY(String))),
        )
        .values(erased_by_request_id=None)
        .execution_options(synchronize_session=False)
    )


def hold_name(session: Session, name: str) -> None:
    """Hold a model's name until the transaction ends: of two that register it at once the second sees the first."""
    session.execute(select(func.pg_advisory_xact_lock(NAMES, func.hashtext(name))))


def standing_counts(session: Session, model_id: uuid.UUID) -> Sequence[tuple[str, int, int]]:
    """(domain, items, subjects) of what stands."""
    rows = session.execute(
        select(Example.domain, func.count(), func.count(func.distinct(Example.subject_index)))
        .where(Example.served_model_id == model_id, Example.standing)
        .group_by(Example.domain)
        .order_by(Example.domain)
    )
    return [(str(row[0]), row[1], row[2]) for row in rows]
