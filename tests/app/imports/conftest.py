"""A service that takes files."""

from __future__ import annotations

import pytest

from app.imports import chunks
from tests.app.imports.importing import Imports
from tests.app.service import Floor


@pytest.fixture
def imports(floor: Floor) -> Imports:
    return Imports(floor)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "REQUESTS", 3)
