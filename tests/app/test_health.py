"""Alive and ready: each part that is missing is named with a way out, to anybody, and nothing else is told."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app import schema
from app.audit_log.checkpoints import issue_checkpoint
from app.audit_log.sequencing import number_all
from app.config import Settings
from app.db import Database, transaction
from app.main import create_app
from app.trust.keys import Ed25519Signer
from app.workers.service import announce
from tests.app.service import Floor


def answered(settings: Settings, **changes: object) -> tuple[int, dict[str, str], dict[str, str]]:
    with TestClient(create_app(settings.model_copy(update=changes))) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        answer = client.get("/readyz")
    assert answer.json()["ready"] == (answer.status_code == 200)
    return answer.status_code, answer.json()["checks"], answer.json()["warnings"]


def readiness(settings: Settings, **changes: object) -> tuple[int, dict[str, str]]:
    return answered(settings, **changes)[:2]


def test_with_everything_there_the_service_is_ready(settings: Settings) -> None:
    assert readiness(settings) == (200, {"database": "ok", "schema": "ok", "broker": "ok", "storage": "ok"})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://grail@/nowhere?host=/nonexistent&port=5432",
        "postgresql://grail:hunter2@127.0.0.1:1/grail",
    ],
)
def test_without_a_database_it_is_alive_and_says_what_is_missing(settings: Settings, url: str) -> None:
    status, checks = readiness(settings, database_url=url)
    assert (status, checks["schema"], checks["broker"]) == (503, "unknown", "ok")
    assert "GRAIL_DATABASE_URL" in checks["database"]
    assert "hunter2" not in str(checks)


@pytest.mark.parametrize("url", ["redis+socket:///nonexistent/valkey.sock", "redis://:hunter2@127.0.0.1:1/0"])
def test_without_a_broker_it_says_that_requests_are_still_taken(settings: Settings, url: str) -> None:
    status, checks = readiness(settings, broker_url=url)
    assert (status, checks["database"], checks["schema"]) == (503, "ok", "ok")
    assert "requests are still taken" in checks["broker"]
    assert "hunter2" not in str(checks)


def test_a_database_without_the_newest_schema_is_not_ready(settings: Settings) -> None:
    schema.downgrade(settings.database_url)
    status, checks = readiness(settings)
    assert (status, checks["database"]) == (503, "ok")
    assert "grail migrate" in checks["schema"]
    schema.upgrade(settings.database_url)
    assert readiness(settings)[0] == 200


def test_a_database_that_is_newer_is_ready_with_a_word(settings: Settings, db: Database) -> None:
    """While a version is rolled out, processes of the one before go on."""
    with db.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'of a later version'"))
    status, checks, warnings = answered(settings)
    assert (status, checks["schema"]) == (200, "ok")
    assert "newer" in warnings["schema"]


def test_a_data_directory_that_can_not_be_made_is_not_ready(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, checks = readiness(settings, data_dir=tmp_path / "file" / "data")
    assert (status, checks["database"]) == (503, "ok")
    assert "GRAIL_DATA_DIR" in checks["storage"] and str(tmp_path) not in checks["storage"]


def test_missing_workers_and_files_of_models_are_warnings_without_names(floor: Floor) -> None:
    status, _, warnings = answered(floor.settings)
    assert (status, set(warnings)) == (200, {"workers", "log"})
    with transaction(floor.db) as session:
        announce(session, "machine:1", 10**9, datetime.now(UTC))
    number_all(floor.db)
    with transaction(floor.db) as session:
        issue_checkpoint(session, [Ed25519Signer.new("log.example.com")], datetime.now(UTC))
    assert answered(floor.settings)[2] == {}
    shutil.rmtree(floor.base)
    status, _, warnings = answered(floor.settings)
    assert (status, set(warnings)) == (200, {"models"})
    assert warnings["models"].startswith("1 of 1 served models")
    assert "people" not in str(warnings) and str(floor.directory) not in str(warnings)
