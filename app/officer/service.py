"""What awaits an officer's decision, kind by kind: overdue first, what is due soon last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.jobs import approvals
from app.jobs import repository as jobs
from app.lifecycle import RequestState
from app.officer import repository
from app.officer.schemas import QueueItem, QueueKind, QueuePage
from app.requests.cursors import cursor_of, due_cursor_of, due_date_of, id_of
from app.requests.errors import BadCursor

SOON_DAYS = 7
"""As metrics and `grail doctor` have it."""
DAY = timedelta(days=1)
STATES = {
    QueueKind.NOTICE: RequestState.NOTICE,
    QueueKind.COUNTER_NOTICE: RequestState.COUNTERED,
    QueueKind.ATTENTION: RequestState.NEEDS_ATTENTION,
}
BY_DUE_DATE = (QueueKind.OVERDUE, QueueKind.DUE_SOON)


def queue(
    session: Session, now: datetime, *, kind: QueueKind | None, served_model: str | None, cursor: str | None, limit: int
) -> QueuePage:
    """A page of the queue, or of one kind of it. Raises BadCursor."""
    kinds = list(QueueKind) if kind is None else [kind]
    if cursor is not None:
        begun, _, inside = cursor.partition(".")
        if begun not in kinds:
            raise BadCursor
        kinds = kinds[kinds.index(QueueKind(begun)) :]
    else:
        inside = ""
    items: list[QueueItem] = []
    for place in kinds:
        found = _items(session, now, place, served_model, inside, limit + 1 - len(items))
        inside, items = "", [*items, *found]
        if len(items) > limit:
            return QueuePage(items=items[:limit], next_cursor=_after(items[limit - 1]))
    return QueuePage(items=items, next_cursor=None)


def _after(item: QueueItem) -> str:
    if item.kind in BY_DUE_DATE and item.due_at is not None:
        return f"{item.kind}.{due_cursor_of(item.due_at, item.id)}"
    return f"{item.kind}.{cursor_of(item.id)}"


def _items(
    session: Session, now: datetime, kind: QueueKind, model: str | None, inside: str, limit: int
) -> Sequence[QueueItem]:
    """At most `limit` items of a kind behind the cursor `inside` of it, or from its beginning on."""
    if kind is QueueKind.APPROVAL:
        return _jobs(session, now, model, inside, limit)
    if kind is QueueKind.RECIPIENTS:
        return _versions(session, now, model, inside, limit)
    if kind in BY_DUE_DATE:
        first, before = (None, now) if kind is QueueKind.OVERDUE else (now, now + SOON_DAYS * DAY)
        rows = repository.due(session, model, first, before, due_date_of(inside) if inside else None, limit)
    else:
        rows = repository.in_state(session, STATES[kind], model, id_of(inside) if inside else None, limit)
    return [
        QueueItem(
            kind=kind, id=row.id, served_model=row.name, state=row.state, link=f"/v1/requests/{row.id}",
            since=row.since, age_days=_days(now - row.since), approvals_missing=None,
            due_at=None if row.completed_at else row.due_at,
        )
        for row in rows
    ]  # fmt: skip


def _jobs(session: Session, now: datetime, model: str | None, inside: str, limit: int) -> Sequence[QueueItem]:
    rows = repository.awaiting_approval(session, model, id_of(inside) if inside else None, limit)
    models = jobs.models(session, {row.served_model_id for row in rows})
    missing, issued = approvals.missing(session, rows, models), repository.reported_at(session, rows)
    return [
        QueueItem(
            kind=QueueKind.APPROVAL, id=row.id, served_model=models[row.served_model_id].name, state=row.state,
            link=f"/v1/jobs/{row.id}", since=(since := issued.get(row.id, row.started_at or row.created_at)),
            age_days=_days(now - since), due_at=row.due_at, approvals_missing=missing.get(row.id),
        )
        for row in rows
    ]  # fmt: skip


def _versions(session: Session, now: datetime, model: str | None, inside: str, limit: int) -> Sequence[QueueItem]:
    rows = repository.to_be_told(session, model, id_of(inside) if inside else None, limit)
    return [
        QueueItem(
            kind=QueueKind.RECIPIENTS, id=row.id, served_model=row.name, state=row.state,
            link=f"/v1/models/{row.name}/adapters/{row.version}/recipients", since=row.superseded_at,
            age_days=_days(now - row.superseded_at), due_at=None, approvals_missing=None,
        )
        for row in rows
    ]  # fmt: skip


def _days(passed: timedelta) -> float:
    return round(max(passed / DAY, 0.0), 2)
