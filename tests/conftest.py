"""Fixtures: real Postgres and Valkey for the session, an empty database for each test."""

from __future__ import annotations

import base64
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault(
    "GRAIL_RATE_LIMITS",
    '{"requester": {"read": 1000000000, "write": 1000000000, "import": 1000000000}, '
    '"operator": {"read": 1000000000, "write": 1000000000, "import": 1000000000}, '
    '"officer": {"read": 1000000000, "write": 1000000000, "import": 1000000000}, '
    '"admin": {"read": 1000000000, "write": 1000000000, "import": 1000000000}}',
)
os.environ.setdefault("GRAIL_RATE_FAILURES_PER_ADDRESS", str(10**9))  # tests of limits set their own
os.environ.setdefault("GRAIL_MASTER_SECRET", "a secret of tests and of nobody else at all")
os.environ.setdefault("GRAIL_KEY_ENCRYPTION_KEYS", f"1:{base64.b64encode(bytes(range(32))).decode()}")
if "GRAIL_KEY_STORE_URL" not in os.environ:
    KEYS = tempfile.TemporaryDirectory(prefix="grail-keys-", ignore_cleanup_errors=True)
    os.environ["GRAIL_KEY_STORE_URL"] = f"sqlite:///{KEYS.name}/keys.sqlite3"
    os.environ["GRAIL_KEY_TOMBSTONES_FILE"] = f"{KEYS.name}/tombstones"

from app.auth import Role
from app.config import Settings, load_settings
from app.db import Database, transaction
from app.embedded.services import EmbeddedServices
from app.keys.service import create_key
from tests.fixtures.databases import TEMPLATE, Databases

LONG = (
    "e2e/test_erasure", "e2e/test_kills", "e2e/test_import_kills", "e2e/test_evidence", "e2e/test_real_model",
    "faults/test_faults", "cli/test_cli_stack", "embedded/test_embedded_lifecycle", "e2e/test_stops",
    "worker/test_ways", "app/test_contract", "reports/test_reports_pdf", "cli/test_cli_doctor", "cli/test_cli_commands",
    "worker/test_pipeline", "test_without_a_pause", "test_rows_by_index", "e2e/test_events",
    "embedded/test_embedded_kills", "test_secret_rotation", "test_mask_rules", "reports/test_reports_api",
    "jobs/test_leases", "test_placement", "test_report_bundles", "test_cli_backup_embedded", "test_weights_end_kills",
    "test_certificates_issued_once", "test_cli_keys_rotate",
)  # fmt: skip
"""Files that take long, which begin first: at the end no process works on one while the others have nothing to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((number for number, name in enumerate(LONG) if f"{name}.py::" in item.nodeid), len(LONG))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file; those that share one running service are one."""
    from xdist.scheduler import LoadFileScheduling

    class BySharedFile(LoadFileScheduling):  # type: ignore[misc]  # xdist is not annotated
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "e2e" if any(f"{name}.py" in file for name in LONG[:4]) else file

    return BySharedFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """What is imported lives until the end: no collection has to look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A test that sets logging up binds it to a stream that is closed after it: the next one must not write there."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that everybody may enter, unlike pytest's."""
    made = Path(tempfile.mkdtemp(prefix="grail-test-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServices]:
    directory = tmp_path_factory.mktemp("servers")
    with EmbeddedServices(directory, fsync=False) as running:
        yield running
    running.destroy()  # its data lies outside of pytest's directory when root runs the tests


@pytest.fixture(scope="session")
def databases(services: EmbeddedServices) -> Iterator[Databases]:
    """With what statements compile to kept for all of a process's engines: each test makes new ones."""
    found = Databases(services)
    known = Database(services.postgres.url(TEMPLATE)).engine
    known.connect().close()  # the dialect asks the server for its version when it first connects
    known.dispose()

    def create(url: str, **options: Any) -> Engine:
        made = create_engine(url, **options)
        made.dialect, made._compiled_cache = known.dialect, known._compiled_cache
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.db.create_engine", create)
        yield found


@pytest.fixture
def database_url(services: EmbeddedServices, databases: Databases) -> Iterator[str]:
    name = databases.take()
    yield services.postgres.url(name)
    databases.give_back(name)


@pytest.fixture
def settings(
    database_url: str, services: EmbeddedServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    monkeypatch.setenv("GRAIL_DATABASE_URL", database_url)
    monkeypatch.setenv("GRAIL_BROKER_URL", services.broker_url)
    monkeypatch.setenv("GRAIL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GRAIL_MODEL_ROOTS", f'["{tmp_path}"]')
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url, pool_size=4)
    yield database
    database.dispose()


@pytest.fixture
def session(db: Database) -> Iterator[Session]:
    """A session whose work is kept for the test only: flush to see it, commit through `transaction(db)`."""
    with db.session_factory() as opened:
        yield opened
        opened.rollback()


@dataclass(frozen=True)
class Keys:
    """One key a role, and a second requester who must not see the first one's requests."""

    requester: str
    other: str
    operator: str
    officer: str
    admin: str

    def header(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {getattr(self, name)}"}


@pytest.fixture
def keys(db: Database) -> Keys:
    roles = {"requester": Role.REQUESTER, "other": Role.REQUESTER}
    roles |= {role.value: role for role in (Role.OPERATOR, Role.OFFICER, Role.ADMIN)}
    with transaction(db) as session:
        return Keys(**{name: create_key(session, name, role)[1] for name, role in roles.items()})


@pytest.fixture
def api(settings: Settings) -> FastAPI:
    from app.main import create_app

    return create_app(settings)


@pytest.fixture
def client(api: FastAPI) -> Iterator[TestClient]:
    with TestClient(api, raise_server_exceptions=False) as opened:
        yield opened
