"""A service with callers of every role: one a test, or one a module where tests leave nothing that others would see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.config import Settings, load_settings
from app.db import Database
from app.embedded.services import EmbeddedServices
from app.main import create_app
from tests.app.service import Caller, Floor
from tests.fixtures.databases import Databases


@pytest.fixture
def caller(client: TestClient, db: Database) -> Caller:
    return Caller(client, db)


@pytest.fixture
def floor(caller: Caller, settings: Settings, tmp_path: Path) -> Floor:
    """A model `people` with files on disk, nothing asked of it yet."""
    made = Floor(caller, settings, tmp_path)
    made.register()
    return made


@pytest.fixture(scope="module")
def shared(
    services: EmbeddedServices, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Floor]:
    """The same for a whole module."""
    place, name = tmp_path_factory.mktemp("shared"), databases.take()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAIL_DATABASE_URL", services.postgres.url(name))
        patch.setenv("GRAIL_BROKER_URL", services.broker_url)
        patch.setenv("GRAIL_DATA_DIR", str(place / "data"))
        patch.setenv("GRAIL_MODEL_ROOTS", f'["{place}"]')
        load_settings.cache_clear()
        settings = load_settings()
        database = Database(settings.database_url, pool_size=4)
        with TestClient(create_app(settings), raise_server_exceptions=False) as client:
            made = Floor(Caller(client, database), settings, place)
            made.register()
            yield made
        database.dispose()
        load_settings.cache_clear()
    databases.give_back(name)
