"""Every statement of the statistics: counted in the database, over the ids of the time asked for alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.orm import Session

from app.ids import first_id
from app.lifecycle import RequestState
from app.requests.repository import CLOCK_SLACK
from app.tables import Request, RequestKind, ServedModel

DONE = (RequestState.PUBLISHED, RequestState.STANDING, RequestState.COUNTERED, RequestState.REINSTATED)
SECONDS_A_DAY = 86400.0


def figures(
    session: Session, start: datetime, end: datetime, now: datetime, served_model: str | None, *, grouped: bool
) -> Sequence[Row[Any]]:
    """Figures of the requests received from `start` to before `end`: one row, or with `grouped` one for each domain and
    regulation."""
    return session.execute(counting(start, end, now, served_model, grouped=grouped)).all()


def counting(
    start: datetime, end: datetime, now: datetime, served_model: str | None, *, grouped: bool
) -> Select[Any]:
    """The statement of `figures`. Ids begin with the time of receipt, so the primary key bounds what is read."""
    done = Request.state.in_(DONE)
    days = func.extract("epoch", Request.completed_at - Request.received_at) / SECONDS_A_DAY
    late = (func.coalesce(Request.completed_at, now) > Request.due_at) & Request.held_since.is_(None)
    statement = select(
        func.count().label("received"),
        func.count().filter(done).label("done"),
        func.count().filter(Request.state == RequestState.REFUSED).label("refused"),
        func.count().filter(Request.state == RequestState.WITHDRAWN).label("withdrawn"),
        func.count().filter(Request.state == RequestState.FAILED).label("failed"),
        func.count().filter(Request.completed_at.is_(None)).label("open"),
        func.count().filter(late).label("overdue"),
        func.percentile_cont(0.5).within_group(days).filter(done).label("median_days"),
        func.percentile_cont(0.9).within_group(days).filter(done).label("p90_days"),
    ).where(
        Request.id >= first_id(start, -CLOCK_SLACK),
        Request.id < first_id(end, CLOCK_SLACK),
        Request.received_at >= start,
        Request.received_at < end,
        Request.kind == RequestKind.ERASE,
    )
    if served_model is not None:
        model_id = select(ServedModel.id).where(ServedModel.name == served_model).scalar_subquery()
        statement = statement.where(Request.served_model_id == model_id)
    if not grouped:
        return statement
    kind = (Request.domain, Request.regulation)
    return statement.add_columns(*kind).group_by(*kind).order_by(*kind)
