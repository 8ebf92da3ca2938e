"""A database without any table."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from app.embedded.services import EmbeddedServices


@pytest.fixture
def empty_url(services: EmbeddedServices) -> Iterator[str]:
    """A database without any table."""
    name = f"empty_{uuid.uuid4().hex[:12]}"
    services.postgres.create_database(name)
    yield services.postgres.url(name)
    services.postgres.drop_database(name)
