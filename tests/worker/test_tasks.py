"""Tasks: a message with an id, a call, and a border at which no text of an error passes."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from app.audit_log import signing
from app.batches import service as batches
from app.bundles import model_keys
from app.config import Settings, load_settings
from app.db import Database
from app.errors import Unavailable
from app.logs import configure_logs
from tests.app.bundles.concluded import concluded
from tests.app.service import Floor

SECRET = "Ottoline Brandmayr"


@pytest.fixture
def tasks(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tasks as a worker has them, on this test's database."""
    import worker.tasks as module
    from worker.celery import celery

    for name in ("plan_batches", "run_job", "publish_job", "sweep", "deliver", "number_leaves", "issue_checkpoint",
                 "bundle_reports"):
        monkeypatch.setitem(celery.tasks[f"grail.{name}"].__dict__, "db", floor.db)
    return module


@pytest.fixture
def logged() -> Iterator[Any]:
    written = io.StringIO()
    with redirect_stdout(written), redirect_stderr(written):
        configure_logs("DEBUG")
        yield lambda: [json.loads(line) for line in written.getvalue().splitlines() if line.startswith("{")]


def test_every_task_is_routed_and_sends_ids_as_json_only(tasks: ModuleType) -> None:
    from app.queue import QUEUES
    from worker.celery import celery

    ours = {name for name in celery.tasks if name.startswith("grail.")}
    assert ours == set(QUEUES)
    assert QUEUES["grail.run_job"] == {"queue": "gpu"}
    assert {route["queue"] for name, route in QUEUES.items() if name != "grail.run_job"} == {"control"}
    assert celery.conf.accept_content == ["json"]
    assert celery.conf.task_serializer == "json"
    assert celery.conf.task_acks_late and celery.conf.worker_prefetch_multiplier == 1
    rung = {entry["task"] for entry in celery.conf.beat_schedule.values()}
    assert rung == {"grail.plan_batches", "grail.sweep", "grail.deliver", "grail.remove_orphans"} | {
        "grail.number_leaves", "grail.issue_checkpoint", "grail.bundle_reports",
    }  # fmt: skip


def test_the_planner_makes_jobs_and_the_publisher_draws_consequences(tasks: ModuleType, floor: Floor) -> None:
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"window_seconds": 0}})
    asked = floor.ask(1)
    tasks.plan_batches()
    assert floor.request(asked).state == "batched"
    job_id = uuid.UUID(floor.caller.call("operator", "GET", "/v1/jobs")["items"][0]["id"])
    floor.claim(job_id)
    floor.evaluate(job_id, 1)
    tasks.publish_job(str(job_id))
    tasks.publish_job(str(job_id))
    assert floor.request(asked).state == "published"
    tasks.sweep()
    tasks.deliver()


def test_a_served_model_that_can_not_be_planned_holds_up_no_other(
    tasks: ModuleType, floor: Floor, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.register("other", window_seconds=0)
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"window_seconds": 0}})
    first, second = floor.ask(1), floor.ask(2, model="other")
    plan, bad = batches.plan_model, floor.model().id

    def broken(session: Any, model_id: uuid.UUID, now: Any) -> Any:
        made = plan(session, model_id, now)
        if model_id == bad:
            raise KeyError(SECRET)
        return made

    monkeypatch.setattr(batches, "plan_model", broken)
    tasks.plan_batches()
    assert (floor.request(first).state, floor.request(second).state) == ("received", "batched")
    (line,) = [line for line in logged() if line["event"] == "part_failed"]
    assert (line["kind"], line["served_model_id"]) == ("KeyError", str(bad))


def test_a_message_about_nothing_or_about_what_is_done_does_nothing(tasks: ModuleType, floor: Floor) -> None:
    floor.ask(1)
    done = floor.work()
    before = floor.versions()
    for job_id in (done, uuid.uuid4()):
        tasks.run_job(str(job_id))
        tasks.publish_job(str(job_id))
    assert floor.versions() == before
    assert floor.job(done).attempts == 1


def test_an_errors_text_is_not_logged_and_goes_no_further(
    tasks: ModuleType, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr(tasks.jobs, "conclude", broken)
    job_id = str(uuid.uuid4())
    assert tasks.publish_job(job_id) is None
    (line,) = logged()
    assert (line["event"], line["kind"], line["task"], line["ids"]) == (
        "task_failed", "KeyError", "grail.publish_job", [job_id],
    )  # fmt: skip
    assert "test_tasks.py:" in line["where"]
    assert SECRET not in json.dumps(line)


def test_a_database_that_is_away_puts_a_task_off(
    tasks: ModuleType, logged: Any, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    from worker.celery import celery

    away = Database("postgresql://grail@/nowhere?host=/nonexistent&port=5432")
    for name in ("plan_batches", "run_job", "publish_job", "sweep"):
        monkeypatch.setitem(celery.tasks[f"grail.{name}"].__dict__, "db", away)
    tasks.plan_batches()
    tasks.sweep()
    tasks.publish_job(str(uuid.uuid4()))
    tasks.run_job(str(uuid.uuid4()))
    assert [line["event"] for line in logged()] == ["task_put_off"] * 4
    assert {line["kind"] for line in logged()} == {Unavailable.type}


def test_a_message_that_is_none_is_noted_and_dropped(tasks: ModuleType, logged: Any) -> None:
    tasks.run_job("not-an-id")
    (line,) = logged()
    assert (line["event"], line["kind"]) == ("task_failed", "ValueError")


def test_leaves_are_numbered_and_wait_for_a_key_that_signs_them(
    tasks: ModuleType, floor: Floor, logged: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    floor.ask(1)
    tasks.number_leaves()
    tasks.issue_checkpoint()
    state = floor.caller.call("admin", "GET", "/v1/log")
    assert (state["size"] > 5, state["waiting"], state["checkpoint_size"]) == (True, 0, None)
    said = [line for line in logged() if line["event"] == "log_not_signed"]
    assert [line["kind"] for line in said] == ["no-signing-key"] and "GRAIL_SIGNING_KEY_FILE" in said[0]["mend"]
    monkeypatch.setenv("GRAIL_SIGNING_KEY_FILE", str(signing.ensure_file(tmp_path)))
    monkeypatch.setenv("GRAIL_LOG_ORIGIN", "log.example.com")
    load_settings.cache_clear()
    tasks.issue_checkpoint()
    assert floor.caller.call("admin", "GET", "/v1/log")["checkpoint_size"] == state["size"]


def test_reports_are_bundled_by_one_ring_at_a_time(
    tasks: ModuleType, floor: Floor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRAIL_SIGNING_KEY_FILE", str(signing.ensure_file(tmp_path)))
    monkeypatch.setenv("GRAIL_MODEL_SIGNING_KEY_FILE", str(model_keys.ensure_file(tmp_path)))
    monkeypatch.setenv("GRAIL_LOG_ORIGIN", "log.example.com")
    load_settings.cache_clear()
    path = f"/v1/jobs/{concluded(floor)}/report.zip"
    with tasks.bundle_reports.turn:
        tasks.bundle_reports()
    assert floor.caller.send("admin", "GET", path).status_code == 409
    tasks.bundle_reports()
    tasks.bundle_reports()
    assert floor.caller.send("admin", "GET", path).status_code == 200
    signed = floor.caller.call("admin", "GET", "/v1/models/people/adapters/2/attestations")["items"]
    assert len(signed) == 5
