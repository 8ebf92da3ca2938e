"""Every statement on the table of keys."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.tables.key import Key


def by_prefix(session: Session, prefix: str) -> Key | None:
    """The key with that prefix."""
    return session.scalars(select(Key).where(Key.prefix == prefix)).one_or_none()


def everything(session: Session) -> Sequence[Key]:
    """All keys, oldest first."""
    return session.scalars(select(Key).order_by(Key.id)).all()
