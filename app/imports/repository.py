"""Every statement on imports."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.tables import Import, ImportState, Key

OPEN = (ImportState.QUEUED, ImportState.RUNNING)


def find(session: Session, import_id: uuid.UUID, *, owner: uuid.UUID | None) -> Import | None:
    """One import; with `owner` only if it is theirs."""
    statement = select(Import).where(Import.id == import_id)
    if owner is not None:
        statement = statement.where(Import.created_by == owner)
    return session.scalars(statement).one_or_none()


def page(session: Session, *, owner: uuid.UUID | None, before: uuid.UUID | None, limit: int) -> list[Import]:
    """At most `limit` imports with ids below `before`, newest first."""
    statement = select(Import).order_by(Import.id.desc()).limit(limit)
    if owner is not None:
        statement = statement.where(Import.created_by == owner)
    if before is not None:
        statement = statement.where(Import.id < before)
    return list(session.scalars(statement))


def locked(session: Session, import_id: uuid.UUID, *, skip_locked: bool = False) -> Import | None:
    """An import, read afresh and held until the transaction ends; None when there is none, or another holds it."""
    statement = select(Import).where(Import.id == import_id).with_for_update(skip_locked=skip_locked)
    return session.scalars(statement.execution_options(populate_existing=True)).one_or_none()


def prolong(session: Session, import_id: uuid.UUID, token: int, until: datetime, rows: int, stored: int) -> bool:
    """Prolong the lease that belongs to the token, and note how far it has come; False when it is another's."""
    statement = (
        update(Import)
        .where(Import.id == import_id, Import.attempts == token, Import.state == ImportState.RUNNING)
        .values(lease_until=until, rows=rows, stored=stored)
        .returning(Import.id)
    )
    found = session.scalars(statement, execution_options={"synchronize_session": False})
    return found.one_or_none() is not None


def hold_key(session: Session, key_id: uuid.UUID) -> None:
    """Hold a key's row until the transaction ends: its imports are counted and added one at a time."""
    session.execute(select(Key.id).where(Key.id == key_id).with_for_update(key_share=True))


def open_of_key(session: Session, key_id: uuid.UUID) -> int:
    """How many imports of a key have not ended."""
    mine = (Import.created_by == key_id) & Import.state.in_(OPEN)
    return int(session.scalar(select(func.count()).select_from(Import).where(mine)) or 0)


def key(session: Session, key_id: uuid.UUID) -> Key:
    """The key that brought an import."""
    return session.get_one(Key, key_id)


def at_work(session: Session, now: datetime) -> int:
    """How many imports are in the hands of workers that live."""
    running = (Import.state == ImportState.RUNNING) & (Import.lease_until >= now)
    return int(session.scalar(select(func.count()).select_from(Import).where(running)) or 0)


def open_imports(session: Session) -> list[Import]:
    """Imports that have not ended, oldest first."""
    statement = select(Import).where(Import.state.in_(OPEN)).order_by(Import.id)
    return list(session.scalars(statement))
