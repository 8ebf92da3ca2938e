"""A lease is kept while the main thread computes, and its loss ends the computation."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.db import Database
from app.jobs import leases
from app.jobs.errors import LeaseLost
from grail.types import Interrupted, Progress
from tests.app.service import Floor
from worker.heartbeat import Heartbeat
from worker.shutdown import Shutdown

EVERY = 0.01


def running(floor: Floor) -> uuid.UUID:
    floor.ask(1)
    job_id = floor.order()
    assert floor.claim(job_id, datetime.now(UTC)) == 1
    return job_id


def until(happened: Callable[[], bool]) -> None:
    """Go on once it happened."""
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)  # yields the processor; nothing is measured by it


def compute_for_ever(beat: Heartbeat) -> None:
    """A computation that ends only when its listener raises."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        beat.report(Progress("unlearn", 0.5))
    raise AssertionError("nobody stopped it")


def test_the_lease_is_prolonged_and_the_progress_is_shown(floor: Floor) -> None:
    job_id = running(floor)
    first = floor.job(job_id).lease_until
    with Heartbeat(floor.db, job_id, 1, every_seconds=EVERY, lease_seconds=100) as beat:
        beat.report(Progress("unlearn", 0.5, 3, 6, {"forget": 1.5}))
        until(lambda: floor.job(job_id).step == 3)
    row = floor.job(job_id)
    assert first is not None and row.lease_until is not None and row.lease_until > first
    assert (row.stage, row.steps, row.losses) == ("unlearn", 6, [{"step": 3, "forget": 1.5}])


def test_a_cancelled_job_stops_its_computation(floor: Floor) -> None:
    job_id = running(floor)
    with Heartbeat(floor.db, job_id, 1, every_seconds=EVERY, lease_seconds=100) as beat:
        floor.caller.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
        with pytest.raises(LeaseLost):
            compute_for_ever(beat)
    assert floor.job(job_id).stage == "cancelled"


def test_a_cancelled_job_stops_at_the_next_step_however_long_a_heartbeat_is(floor: Floor) -> None:
    job_id = running(floor)
    with Heartbeat(floor.db, job_id, 1, every_seconds=1000, lease_seconds=1000, look_seconds=0) as beat:
        beat.report(Progress("unlearn", 0.1))
        floor.caller.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
        with pytest.raises(LeaseLost):
            beat.report(Progress("unlearn", 0.2))


def test_steps_that_follow_closely_look_at_the_job_once(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = running(floor)
    looks: list[Any] = []
    monkeypatch.setattr(leases, "check", lambda *what: looks.append(what))
    with Heartbeat(floor.db, job_id, 1, every_seconds=1000, lease_seconds=1000, look_seconds=1000) as beat:
        for step in range(50):
            beat.report(Progress("unlearn", 0.1, step, 50))
    assert len(looks) == 1


def test_a_look_that_the_database_does_not_answer_stops_nothing(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Database("postgresql://grail@/nowhere?host=/nonexistent&port=5432")
    with Heartbeat(away, uuid.uuid4(), 1, every_seconds=1000, lease_seconds=1000, look_seconds=0) as beat:
        beat.report(Progress("unlearn", 0.1))
        monkeypatch.setattr(away, "session_factory", lambda: pytest.fail("asked again before the next beat"))
        beat.report(Progress("unlearn", 0.2))
        assert beat.lost is None and beat.latest == Progress("unlearn", 0.2)


def test_a_process_that_is_to_end_stops_its_computation_but_not_before_it_knows_whether_the_job_is_its_own(
    floor: Floor,
) -> None:
    job_id = running(floor)
    shutdown = Shutdown()
    with Heartbeat(floor.db, job_id, 1, every_seconds=1000, lease_seconds=1000, shutdown=shutdown) as beat:
        beat.report(Progress("unlearn", 0.1))
        shutdown.asked = True
        with pytest.raises(Interrupted):
            beat.report(Progress("unlearn", 0.2))
    stale = Heartbeat(
        floor.db, job_id, 9, every_seconds=1000, lease_seconds=1000, look_seconds=0, shutdown=Shutdown(asked=True)
    )
    with stale, pytest.raises(LeaseLost):
        stale.report(Progress("unlearn", 0.2))


def test_a_job_that_another_worker_took_over_stops_its_computation(floor: Floor) -> None:
    job_id = running(floor)
    with Heartbeat(floor.db, job_id, 7, every_seconds=EVERY, lease_seconds=100) as beat, pytest.raises(LeaseLost):
        compute_for_ever(beat)


def test_without_a_database_it_goes_on_until_the_lease_would_have_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Database("postgresql://grail@/nowhere?host=/nonexistent&port=5432")
    sessions = away.session_factory
    lost = Heartbeat(away, uuid.uuid4(), 1, every_seconds=EVERY, lease_seconds=0.05)
    with lost as beat, pytest.raises(LeaseLost):
        compute_for_ever(beat)
    with Heartbeat(away, uuid.uuid4(), 1, every_seconds=EVERY, lease_seconds=1000) as beat:
        tried: list[Any] = []
        monkeypatch.setattr(away, "session_factory", lambda: tried.append(1) or sessions())
        until(lambda: len(tried) >= 3)
        beat.report(Progress("unlearn", 0.1))
    assert beat.lost is None


@pytest.mark.parametrize("sqlstate", ["40P01", "55P03"])
def test_a_beat_that_fails_once_is_followed_by_the_next(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, sqlstate: str
) -> None:
    """A deadlock or a lock timeout must not silence the thread: the lease would run out under a healthy worker."""
    job_id = running(floor)
    beat, calls = leases.heartbeat, 0

    def once(*args: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise failed_with(floor, sqlstate)
        beat(*args, **named)

    monkeypatch.setattr(leases, "heartbeat", once)
    with Heartbeat(floor.db, job_id, 1, every_seconds=EVERY, lease_seconds=100) as listener:
        listener.report(Progress("unlearn", 0.5, 3, 6))
        until(lambda: floor.job(job_id).step == 3)
        assert listener.lost is None
    assert calls >= 2


def failed_with(floor: Floor, sqlstate: str) -> OperationalError:
    """What the database says of itself in such a case."""
    raising = text(f"DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '{sqlstate}'; END $$")
    with floor.db.engine.connect() as connection, pytest.raises(OperationalError) as caught:
        connection.execute(raising)
    return caught.value


def test_leaving_ends_the_thread(floor: Floor) -> None:
    job_id = running(floor)
    with Heartbeat(floor.db, job_id, 1, every_seconds=1000, lease_seconds=1000) as beat:
        assert beat._thread.is_alive()
    assert not beat._thread.is_alive()
