"""A served model, and what was sent to the queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app import queue
from app.db import Database
from tests.app.batches.served import Service


@pytest.fixture
def served(db: Database, tmp_path: Path) -> Service:
    return Service(db, tmp_path)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, ...]]]:
    """Messages that left after a commit."""
    messages: list[tuple[str, ...]] = []
    monkeypatch.setattr(queue, "send", lambda *message: messages.append(message))
    return messages
