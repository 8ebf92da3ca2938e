"""A gpu worker is seen from its start to its end, and says what it has."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from app.config import Settings
from app.db import Database
from app.workers import service as workers
from worker.presence import Presence, worker_name


def until(happened: Callable[[], bool]) -> None:
    """Go on once it happened."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)  # yields the processor; nothing is measured by it


def seen(db: Database) -> list[int]:
    with db.session_factory() as session:
        return workers.memories(session, datetime.now(UTC))


def test_it_announces_itself_until_it_ends(db: Database, settings: Settings) -> None:
    presence = Presence(db, settings.model_copy(update={"worker_memory_bytes": 5_000, "heartbeat_seconds": 0.01}))
    presence.begin()
    until(lambda: seen(db) == [5_000])
    presence.end()
    assert seen(db) == []
    assert ":" in worker_name()


def test_a_database_that_is_away_does_not_end_it(
    db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Database("postgresql://grail@/nowhere?host=/nonexistent&port=5432")
    presence = Presence(away, settings.model_copy(update={"worker_memory_bytes": 5_000, "heartbeat_seconds": 0.01}))
    presence.begin()
    presence.db = db
    until(lambda: seen(db) == [5_000])
    presence.db = away
    presence.end()
