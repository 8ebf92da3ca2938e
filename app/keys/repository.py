"""Every statement on the table of keys."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from app.tables.key import OPEN_NOW, Key, KeyRole


def by_prefix(session: Session, prefix: str, *, lock: bool = False) -> Key | None:
    """The key with that prefix; with `lock` held until the transaction ends."""
    statement = select(Key).where(Key.prefix == prefix)
    if lock:
        statement = statement.with_for_update(key_share=True).execution_options(populate_existing=True)
    return session.scalars(statement).one_or_none()


def holder(session: Session, key_id: uuid.UUID) -> tuple[str, KeyRole] | None:
    """Name and role of a key that is neither revoked nor expired."""
    row = session.execute(select(Key.name, Key.role).where(Key.id == key_id, OPEN_NOW)).one_or_none()
    return None if row is None else (row.name, row.role)


def everything(session: Session) -> Sequence[Key]:
    """All keys, oldest first."""
    return session.scalars(select(Key).order_by(Key.id)).all()


def of_holder(owner: Any, now: Any) -> ColumnElement[bool]:
    """Valid keys of the holder whose first key is `owner`; both may be columns or expressions."""
    return or_(Key.id == owner, Key.holder_id == owner) & OPEN_NOW


def any_valid(session: Session, owner: uuid.UUID, now: datetime) -> bool:
    """Whether a holder has a valid key."""
    return session.scalars(select(Key.id).where(of_holder(owner, now)).limit(1)).first() is not None


def note_used(session: Session, noted: Mapping[uuid.UUID, datetime]) -> None:
    """When keys were last used, in the order of their ids: two processes that write the same never wait in a circle."""
    for key_id in sorted(noted):
        session.execute(
            update(Key)
            .where(Key.id == key_id, or_(Key.last_used_at.is_(None), Key.last_used_at < noted[key_id]))
            .values(last_used_at=noted[key_id])
            .execution_options(synchronize_session=False)
        )
