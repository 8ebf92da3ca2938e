"""Every statement on workers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.tables import Worker


def put(session: Session, name: str, memory_bytes: int, now: datetime) -> None:
    """Note that a worker is there, in one statement."""
    statement = insert(Worker).values(name=name, memory_bytes=memory_bytes, started_at=now, seen_at=now)
    fresh = {"memory_bytes": memory_bytes, "seen_at": now}
    session.execute(statement.on_conflict_do_update(index_elements=[Worker.name], set_=fresh))


def take_away(session: Session, name: str) -> None:
    """A worker is no longer there."""
    session.execute(delete(Worker).where(Worker.name == name))


def forget(session: Session, before: datetime) -> None:
    """Rows of workers that were not seen since."""
    session.execute(delete(Worker).where(Worker.seen_at < before))


def memories(session: Session, since: datetime) -> list[int]:
    """Memory of each worker seen since."""
    return list(session.scalars(select(Worker.memory_bytes).where(Worker.seen_at >= since)))
