"""Every statement on verifier keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.audit_log.repository import Reading
from app.tables import LogKey


def listed(reading: Reading) -> Sequence[LogKey]:
    """Every key, oldest first."""
    order = (LogKey.added_at, LogKey.name, LogKey.key_id)
    columns = (LogKey.name, LogKey.key_id, LogKey.public, LogKey.added_at, LogKey.retired_at, LogKey.revoked_at)
    return reading.execute(select(*columns).order_by(*order)).all()  # type: ignore[return-value]  # rows have its names


def add(session: Session, name: str, key_id: str, public: bytes, now: datetime) -> bool:
    """Keep a key; False when it is there already."""
    values = {"name": name, "key_id": key_id, "public": public, "added_at": now}
    added = session.execute(insert(LogKey).values(**values).on_conflict_do_nothing().returning(LogKey.key_id))
    return added.one_or_none() is not None


def end(session: Session, key_id: str, now: datetime, *, revoked: bool) -> LogKey | None:
    """Retire or revoke a key, unless it was before; the key, or None when there is no such one."""
    column = LogKey.revoked_at if revoked else LogKey.retired_at
    session.execute(update(LogKey).where(LogKey.key_id == key_id, column.is_(None)).values({column: now}))
    return session.scalars(select(LogKey).where(LogKey.key_id == key_id)).one_or_none()
