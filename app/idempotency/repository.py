"""Every statement on kept answers."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, any_, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.tables import Idempotency


def try_hold(session: Session, number: int) -> bool:
    """Hold the call with that number (64 bits, signed) until the transaction ends; False when another one does."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(number))))


def find(session: Session, key_id: uuid.UUID, name: str) -> Idempotency | None:
    """The answer that is kept under a name."""
    return session.get(Idempotency, (key_id, name), populate_existing=True)


def keep(session: Session, row: Idempotency) -> None:
    """Store an answer, in the place of one that has expired."""
    values = {
        "fingerprint": row.fingerprint, "status": row.status, "answer": row.answer, "headers": row.headers,
        "created_at": row.created_at,
    }  # fmt: skip
    statement = insert(Idempotency).values(key_id=row.key_id, name=row.name, **values)
    session.execute(statement.on_conflict_do_update(index_elements=["key_id", "name"], set_=values))


def purge(session: Session, before: datetime, limit: int) -> int:
    """Remove at most `limit` answers that were kept before that; how many."""
    place: ColumnElement[Any] = literal_column("idempotency.ctid")
    old = (
        select(place)
        .select_from(Idempotency)
        .where(Idempotency.created_at < before)
        .order_by(Idempotency.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )  # held until the delete, so that no row moves meanwhile; by place, or the planner joins with the whole table
    statement = delete(Idempotency).where(place == any_(func.array(old.scalar_subquery()))).returning(Idempotency.name)
    return sum(1 for _ in session.scalars(statement, execution_options={"synchronize_session": False}))
