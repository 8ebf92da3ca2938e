"""Database or broker away, at the start and in the middle: a clear word, nothing half-done, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from sqlalchemy import func, make_url, select, text

from app.config import Settings, load_settings
from app.db import Database, transaction
from app.embedded.services import EmbeddedServices
from app.errors import Unavailable
from app.jobs import service as jobs
from app.main import create_app
from app.requests import service
from app.tables import Audit, Job, Request
from tests.app.service import Floor, slug
from tests.app.test_openapi import BODIES, GUARDED, address
from tests.fixtures.served import question

BODY = {"served_model": "people", "domain": "privacy", "forget": [question(1)], "retain": [question(2)]}
CUT = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
)


def cut_connections(services: EmbeddedServices, database_url: str) -> None:
    """What a server does to its clients when it stops; they are cut once this returns."""
    outside = Database(services.postgres.url("grail"))
    with outside.engine.connect() as connection:
        connection.execute(CUT, {"name": make_url(database_url).database})
    outside.dispose()


def counted(floor: Floor, *tables: Any) -> list[int]:
    with floor.db.session_factory() as session:
        return [session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


# The database


@pytest.mark.parametrize(
    "url", ["postgresql://grail@/nowhere?host=/nonexistent&port=5432", "postgresql://grail:hunter2@127.0.0.1:1/grail"]
)
def test_without_a_database_every_operation_says_so_and_when_to_come_back(settings: Settings, url: str) -> None:
    api = create_app(settings.model_copy(update={"database_url": url}))
    with TestClient(api) as client:
        for method, path in GUARDED:
            headers = {"Authorization": "Bearer grail_00000000_x"}
            answer = client.request(method, address(path), headers=headers, json=BODIES.get((method, path)))
            assert (answer.status_code, slug(answer)) == (503, "unavailable"), (method, path)
            assert int(answer.headers["retry-after"]) > 0
            assert "hunter2" not in answer.text


@pytest.mark.parametrize("when", ["before", "after", "commit"])
def test_a_database_that_goes_away_in_the_middle_of_a_request_is_a_503_and_nothing_is_stored(
    floor: Floor, services: EmbeddedServices, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    submit = service.submit
    before = counted(floor, Request, Audit)

    def cut(session: Any, *rest: Any, **more: Any) -> Any:
        if when == "before":
            session.connection()  # else the pool would replace it
            cut_connections(services, floor.settings.database_url)
        view = submit(session, *rest, **more)
        if when == "after":
            cut_connections(services, floor.settings.database_url)
            session.execute(text("SELECT 1"))
        elif when == "commit":
            cut_connections(services, floor.settings.database_url)
        return view

    monkeypatch.setattr(service, "submit", cut)
    answer = floor.caller.send("requester", "POST", "/v1/requests", json=BODY)
    assert (answer.status_code, slug(answer)) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert ("look whether" in answer.json()["mend"]) == (when == "commit")
    monkeypatch.undo()
    floor.db.dispose()
    assert counted(floor, Request, Audit) == before
    assert floor.caller.send("requester", "POST", "/v1/requests", json=BODY).status_code == 202


def test_connections_that_were_cut_while_idle_are_replaced(floor: Floor, services: EmbeddedServices) -> None:
    asked = floor.ask(1)
    cut_connections(services, floor.settings.database_url)
    assert floor.caller.call("requester", "GET", f"/v1/requests/{asked}")["id"] == asked


def test_when_every_connection_is_taken_the_answer_is_a_503(floor: Floor) -> None:
    database = Database(floor.settings.database_url, pool_size=1, timeout_seconds=1)
    api = create_app(floor.settings)
    api.state.db.dispose()
    api.state.db = database
    with TestClient(api) as client, database.engine.connect(), database.engine.connect():
        answer = client.get("/v1/models", headers=floor.caller.header("requester"))
        assert (answer.status_code, slug(answer)) == (503, "unavailable")
        with pytest.raises(Unavailable), transaction(database) as session:
            session.execute(text("SELECT 1"))
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["broker"]) == (503, "ok")


def test_a_transaction_whose_server_went_away_says_so_and_a_deadlock_is_the_callers_to_repeat(
    floor: Floor, services: EmbeddedServices
) -> None:
    with pytest.raises(Unavailable, match="does not answer"), transaction(floor.db) as session:
        session.execute(text("SELECT 1"))
        cut_connections(services, floor.settings.database_url)
        session.execute(text("SELECT 1"))
    from sqlalchemy.exc import OperationalError

    with pytest.raises(OperationalError, match="lock timeout"), transaction(floor.db) as holder:
        holder.execute(text("LOCK TABLE key"))
        with transaction(floor.db) as session:
            session.execute(text("SET LOCAL lock_timeout = '1ms'"))
            session.execute(text("LOCK TABLE key"))


# The broker


@pytest.fixture
def unplugged(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> Iterator[Floor]:
    """The same service, its broker away until `plug_in`."""
    monkeypatch.setenv("GRAIL_BROKER_URL", "redis+socket:///nonexistent/valkey.sock")
    load_settings.cache_clear()
    yield floor
    load_settings.cache_clear()


def sweep(floor: Floor) -> list[Any]:
    with transaction(floor.db) as session:
        return jobs.sweep(session, floor.job(only_job(floor)).created_at)


def only_job(floor: Floor) -> Any:
    with floor.db.session_factory() as session:
        return session.scalars(select(Job.id)).one()


def test_without_a_broker_requests_are_taken_and_jobs_are_rung_once_it_is_back(
    unplugged: Floor, services: EmbeddedServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor = unplugged
    asked = floor.ask(1)
    job_id = floor.order()
    assert floor.caller.call("requester", "GET", f"/v1/requests/{asked}")["state"] == "batched"
    assert sweep(floor) == [job_id], "rung, though nobody hears it"
    monkeypatch.setenv("GRAIL_BROKER_URL", services.broker_url)
    load_settings.cache_clear()
    with redis.Redis.from_url(services.valkey.redis_url()) as connection:
        connection.delete("gpu")
        assert sweep(floor) == [job_id]
        assert connection.llen("gpu") == 1
        connection.delete("gpu")


def test_a_broker_without_room_costs_nothing_but_the_bell(floor: Floor, services: EmbeddedServices) -> None:
    with redis.Redis.from_url(services.valkey.redis_url()) as connection:
        connection.config_set("maxmemory", 1)
        try:
            floor.ask(1)
            job_id = floor.order()
        finally:
            connection.config_set("maxmemory", 0)
        connection.delete("gpu")
        assert floor.job(job_id).state == "queued"
        assert sweep(floor) == [job_id]
        assert connection.llen("gpu") == 1
        connection.delete("gpu")


def test_who_stands_still_in_a_transaction_loses_its_rows(floor: Floor) -> None:
    """As a process does that is stopped in the middle: it holds what it locked for a while, and not until it wakes."""
    still = Database(floor.settings.database_url, pool_size=1, idle_seconds=0.2)
    locked = text("SELECT 1 FROM served_model FOR UPDATE")
    with pytest.raises(Unavailable), transaction(still) as stopped:
        stopped.execute(locked)
        with transaction(floor.db) as other:
            other.execute(text("SET LOCAL lock_timeout = '30s'"))
            other.execute(locked)
        stopped.execute(text("SELECT 1"))
    still.dispose()
