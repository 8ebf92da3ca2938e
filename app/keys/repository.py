"""Every statement on the table of keys."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.tables.key import OPEN_NOW, Key, KeyRole


def by_prefix(session: Session, prefix: str) -> Key | None:
    """The key with that prefix."""
    return session.scalars(select(Key).where(Key.prefix == prefix)).one_or_none()


def holder(session: Session, key_id: uuid.UUID) -> tuple[str, KeyRole] | None:
    """Name and role of a key that is neither revoked nor expired."""
    row = session.execute(select(Key.name, Key.role).where(Key.id == key_id, OPEN_NOW)).one_or_none()
    return None if row is None else (row.name, row.role)


def everything(session: Session) -> Sequence[Key]:
    """All keys, oldest first."""
    return session.scalars(select(Key).order_by(Key.id)).all()
