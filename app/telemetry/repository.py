"""What metrics read at each scrape. Open work and the newest rows only, by index: nothing looks at what is done."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, column, func, select, text, true, values
from sqlalchemy.orm import Session
from sqlalchemy.types import Uuid

from app.lifecycle import COMPLETED, OPEN_JOBS, PENDING, RequestState
from app.tables import (
    Adapter,
    Bundle,
    Delivery,
    DeliveryState,
    Job,
    Report,
    Request,
    ServedModel,
    Worker,
)

MOST_BUNDLES = 10_000
"""So many are counted."""

OPEN = tuple(state for state in RequestState if state not in COMPLETED)


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Deliveries: how many wait and are given up, and since when the first of them should have been sent."""

    pending: int
    dead: int
    first_due: datetime | None


def limit_time(session: Session, seconds: float) -> None:
    """No statement of this transaction takes longer."""
    session.execute(text("SELECT set_config('statement_timeout', :ms, true)"), {"ms": str(int(seconds * 1000))})


def models(session: Session, most: int) -> list[ServedModel]:
    """Served models by name."""
    return list(session.scalars(select(ServedModel).order_by(ServedModel.name).limit(most)))


def open_requests(session: Session, model_ids: Sequence[uuid.UUID]) -> Iterable[Any]:
    """(model, state, how many) of requests that are not done."""
    return session.execute(
        select(Request.served_model_id, Request.state, func.count())
        .where(Request.served_model_id.in_(model_ids), Request.state.in_(OPEN))
        .group_by(Request.served_model_id, Request.state)
    ).all()


def due(session: Session, before: datetime, now: datetime) -> Iterable[Any]:
    """(model, regulation, overdue, due before that moment) of requests whose clock runs."""
    return session.execute(
        select(
            Request.served_model_id, Request.regulation, func.count().filter(Request.due_at < now), func.count()
        )
        .where(Request.completed_at.is_(None), Request.held_since.is_(None), Request.due_at < before)
        .group_by(Request.served_model_id, Request.regulation)
    ).all()


def oldest_pending(session: Session, model_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, datetime]:
    """When the request was received that has been pending the longest, of each model."""
    found: dict[uuid.UUID, datetime] = {}
    for state in PENDING:
        first = select(Request.received_at).where(Request.state == state).order_by(Request.id)
        for model_id, received_at in _firsts(session, model_ids, first, Request.served_model_id):
            found[model_id] = min(received_at, found.get(model_id, received_at))
    return found


def next_due(session: Session, model_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, datetime]:
    """The earliest due date of a pending request of each model."""
    first = select(Request.due_at).where(Request.state.in_(PENDING)).order_by(Request.due_at)
    return dict(_firsts(session, model_ids, first, Request.served_model_id))


def open_jobs(session: Session) -> Iterable[Any]:
    """(model, state, how many, since when the oldest waits) of jobs that have not ended."""
    return session.execute(
        select(Job.served_model_id, Job.state, func.count(), func.min(Job.created_at))
        .where(Job.state.in_(OPEN_JOBS))
        .group_by(Job.served_model_id, Job.state)
    ).all()


def last_timings(session: Session, model_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[str, Any]]:
    """Seconds of each stage of the last job of each model that has ended."""
    last = select(Job.timings).where(Job.finished_at.is_not(None)).order_by(Job.id.desc())
    return dict(_firsts(session, model_ids, last, Job.served_model_id))


def active_versions(session: Session, model_ids: Sequence[uuid.UUID]) -> Iterable[Any]:
    """(model, version, when it was published, its job's verdict) of what is served."""
    return session.execute(
        select(ServedModel.id, Adapter.version, Adapter.published_at, Job.verdict)
        .join(Adapter, Adapter.id == ServedModel.active_adapter_id)
        .outerjoin(Job, Job.id == Adapter.job_id)
        .where(ServedModel.id.in_(model_ids))
    ).all()


def webhooks(session: Session) -> Webhooks:
    """How deliveries stand."""
    waiting = select(func.count(), func.min(Delivery.next_at)).where(Delivery.state == DeliveryState.PENDING)
    pending, first_due = session.execute(waiting).one()
    dead = session.scalar(select(func.count()).where(Delivery.state == DeliveryState.DEAD)) or 0
    return Webhooks(pending, dead, first_due)


def bundles_waiting(session: Session) -> Sequence[tuple[bool, int, datetime]]:
    """(whether it is sealed, how many, the first end of a job) of reports that have no bundle yet."""
    is_sealed = Bundle.sealed_at.is_not(None)
    owed = (
        select(is_sealed.label("is_sealed"), Job.finished_at)
        .select_from(Report)
        .join(Job, Job.id == Report.job_id)
        .outerjoin(Bundle, Bundle.report_id == Report.id)
        .where(Report.bundled_at.is_(None), Job.finished_at.is_not(None))
        .limit(MOST_BUNDLES)
        .subquery()
    )
    rows = session.execute(
        select(owed.c.is_sealed, func.count(), func.min(owed.c.finished_at)).group_by(owed.c.is_sealed)
    )
    return [(row[0], row[1], row[2]) for row in rows]


def bundles_made(session: Session, since: datetime) -> int:
    """How many bundles were sealed and put together for jobs that have ended since then."""
    made = (
        select(Report.id)
        .join(Job, Job.id == Report.job_id)
        .where(Job.finished_at >= since, Report.bundled_at.is_not(None))
        .limit(MOST_BUNDLES)
        .subquery()
    )
    return session.scalar(select(func.count()).select_from(made)) or 0


def workers(session: Session, since: datetime) -> tuple[int, int]:
    """(how many were seen since, memory in bytes of the largest)."""
    seen = select(func.count(), func.coalesce(func.max(Worker.memory_bytes), 0)).where(Worker.seen_at >= since)
    count, largest = session.execute(seen).one()
    return count, largest


def _firsts(
    session: Session, model_ids: Sequence[uuid.UUID], statement: Select[Any], belongs_to: ColumnElement[uuid.UUID] | Any
) -> Iterable[Any]:
    """(model, value) of the first row of a statement for each model, one look into an index each."""
    if not model_ids:
        return []
    model = values(column("id", Uuid), name="model").data([(model_id,) for model_id in model_ids]).alias("model")
    first = statement.where(belongs_to == model.c.id).limit(1).lateral("first")
    return session.execute(select(model.c.id, *first.c).select_from(model).join(first, true())).all()
