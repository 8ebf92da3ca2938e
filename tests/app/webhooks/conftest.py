"""A service that may call receivers on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.config import Settings
from tests.app.service import Floor
from tests.app.webhooks.receiver import LOOPBACK, Post, Receiver


@pytest.fixture
def database_url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings are read after this."""
    monkeypatch.setenv("GRAIL_WEBHOOK_PRIVATE_NETWORKS", LOOPBACK)
    monkeypatch.setenv("GRAIL_DELIVER_SECONDS", "0.05")
    monkeypatch.setenv("GRAIL_PUBLIC_URL", "https://grail.example.com")
    return database_url


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


@pytest.fixture
def post(floor: Floor, settings: Settings) -> Post:
    return Post(floor.caller, settings)
