"""Alive and ready: each part that is missing is named with a way out, to anybody, and nothing else is told."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from app import schema
from app.config import Settings
from app.main import create_app


def readiness(settings: Settings, **changes: object) -> tuple[int, dict[str, str]]:
    with TestClient(create_app(settings.model_copy(update=changes))) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        answer = client.get("/readyz")
    assert answer.json()["ready"] == (answer.status_code == 200)
    return answer.status_code, answer.json()["checks"]


def test_with_everything_there_the_service_is_ready(settings: Settings) -> None:
    assert readiness(settings) == (200, {"database": "ok", "schema": "ok", "broker": "ok"})


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
