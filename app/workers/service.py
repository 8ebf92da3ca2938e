"""Rules of workers: who counts as there."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.config import load_settings
from app.workers import repository

FORGOTTEN_AFTER = timedelta(days=1)


def announce(session: Session, name: str, memory_bytes: int, now: datetime) -> None:
    """A worker says that it is there; rows of those long gone are removed."""
    repository.forget(session, now - FORGOTTEN_AFTER)
    repository.put(session, name[:128], memory_bytes, now)


def leave(session: Session, name: str) -> None:
    """A worker that ends in order says so."""
    repository.take_away(session, name[:128])


def memories(session: Session, now: datetime) -> list[int]:
    """Memory in bytes of every worker that was seen within a lease's length."""
    return repository.memories(session, now - timedelta(seconds=load_settings().lease_seconds))
