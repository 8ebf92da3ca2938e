"""The border of a job: whatever goes wrong ends as a failed job with words for people, and the served version stays."""

from __future__ import annotations

import errno
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import SafetensorError
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.config import Settings
from app.db import Database, transaction
from app.errors import Unavailable
from app.jobs.errors import LeaseLost
from app.lifecycle import JobState, RequestState
from app.tables import Adapter, Example, Job
from app.tables.content import Content
from grail.data.tokenise import TooLong
from grail.train import NonFinite
from grail.types import Interrupted
from tests.app.service import Floor, later
from worker import job as worker_job
from worker.job import work

SECRET = "Ottoline Brandmayr"


def failing(floor: Floor, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> tuple[str, uuid.UUID]:
    """A job whose computation ends with `error`: (its request, its id)."""

    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(worker_job, "load_model", broken)
    asked = floor.ask(1)
    job_id = floor.order()
    work(floor.db, floor.settings, job_id)
    return asked, job_id


def error_of(floor: Floor, job_id: uuid.UUID) -> dict[str, Any]:
    return dict(floor.caller.call("operator", "GET", f"/v1/jobs/{job_id}")["error"])


@pytest.mark.parametrize(
    ("error", "kind", "state", "tries", "breaker"),
    [
        (NonFinite("the forget loss is not finite"), "not-finite", RequestState.QUEUED, 1, "closed"),
        (SafetensorError(SECRET), "broken-weights", RequestState.QUEUED, 0, "open"),
        (OSError(errno.ENOSPC, SECRET), "storage-full", RequestState.QUEUED, 0, "open"),
        (MemoryError(), "out-of-memory", RequestState.NEEDS_ATTENTION, 1, "closed"),
        (ValueError(SECRET), "unexpected", RequestState.QUEUED, 1, "closed"),
    ],
)
def test_an_error_ends_the_job_with_words_and_the_served_version_stays(
    floor: Floor,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    kind: str,
    state: RequestState,
    tries: int,
    breaker: str,
) -> None:
    asked, job_id = failing(floor, monkeypatch, error)
    assert floor.job(job_id).state is JobState.FAILED
    said = error_of(floor, job_id)
    assert (said["type"], bool(said["mend"])) == (kind, True)
    assert SECRET not in str(said)
    row = floor.request(asked)
    assert (row.state, row.tries, row.completed_at) == (state, tries, None)
    assert floor.versions() == [(1, "published", True)]
    assert floor.caller.call("operator", "GET", "/v1/models/people")["breaker"]["state"] == breaker


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, SECRET), TimeoutError(SECRET), ConnectionResetError(SECRET),
        OperationalError("UPDATE", {}, Exception("deadlock")), Unavailable("the database does not answer"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_is_away_for_a_while_puts_the_job_off_and_costs_no_try(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    asked, job_id = failing(floor, monkeypatch, error)
    row = floor.job(job_id)
    assert (row.state, row.put_off, row.attempts, row.lease_owner) == (JobState.QUEUED, 1, 0, None)
    assert row.not_before is not None and row.not_before > row.created_at
    assert (floor.request(asked).state, floor.request(asked).tries) == (RequestState.BATCHED, 0)
    assert SECRET not in str(row.error)
    with transaction(floor.db) as session:  # however slow this machine is, its time has not come yet
        session.get_one(Job, job_id).not_before = datetime.now(UTC) + timedelta(hours=1)
    work(floor.db, floor.settings, job_id)
    assert floor.job(job_id).fencing_token == 1, "it is left alone until its time"


def test_a_text_that_does_not_fit_is_set_aside_with_its_request_and_the_others_go_on_at_once(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [floor.ask(number) for number in (1, 2, 3)]
    (item,) = floor.forget_items(asked[1])
    job_id = floor.order()

    def broken(*_: Any, **__: Any) -> None:
        raise TooLong(str(item), 70, 64)

    monkeypatch.setattr(worker_job, "load_model", broken)
    work(floor.db, floor.settings, job_id)
    assert [floor.request(one).state for one in asked] == ["batched", "needs_attention", "batched"]
    assert [floor.request(one).tries for one in asked] == [0, 1, 0]
    assert (floor.request(asked[1]).outcome or {})["result"] == "text-too-long"
    (fresh,) = floor.caller.call("operator", "GET", "/v1/jobs", params={"state": "queued"})["items"]
    shown = floor.caller.call("operator", "GET", f"/v1/jobs/{fresh['id']}")
    assert set(shown["request_ids"]) == {asked[0], asked[2]}


def test_a_worker_that_was_told_to_end_gives_its_job_back_as_it_was(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: Any, **__: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(worker_job, "load_model", told)
    asked = floor.ask(1)
    job_id = floor.order()
    work(floor.db, floor.settings, job_id)
    row = floor.job(job_id)
    assert (row.state, row.attempts, row.put_off, row.error) == (JobState.QUEUED, 0, 0, None)
    assert (floor.request(asked).state, floor.request(asked).tries) == (RequestState.BATCHED, 0)
    monkeypatch.setattr(worker_job.SHUTDOWN, "asked", True)
    work(floor.db, floor.settings, job_id)
    assert floor.job(job_id).fencing_token == 1, "it takes up nothing more"


def test_a_doorbell_is_answered_with_the_job_whose_turn_it_is(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    floor.register("works")
    for model in ("people", "works"):
        floor.ask(1, model=model)
    first, second = floor.order("people"), floor.order("works")
    with transaction(floor.db) as session:
        for job_id, days in ((first, 20), (second, 2)):
            session.get_one(Job, job_id).due_at = datetime.now(UTC) + timedelta(days=days)
    monkeypatch.setattr(worker_job, "load_model", never)
    work(floor.db, floor.settings, first)
    assert [floor.job(job_id).fencing_token for job_id in (first, second)] == [0, 1]


def test_a_worker_leaves_what_does_not_fit_it_to_others(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(worker_job, "load_model", never)
    floor.ask(1)
    job_id = floor.order()
    needed = floor.job(job_id).needed_bytes or 0
    small = settings.model_copy(update={"worker_memory_bytes": needed - 1})
    work(floor.db, small, job_id)
    assert floor.job(job_id).fencing_token == 0
    work(floor.db, settings.model_copy(update={"worker_memory_bytes": needed}), job_id)
    assert floor.job(job_id).fencing_token == 1


def test_training_that_left_the_numbers_is_ordered_again_at_half_the_rate(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job_id = failing(floor, monkeypatch, NonFinite("x"))
    first = floor.job(job_id).settings["unlearn"]
    second = floor.job(floor.order()).settings["unlearn"]
    assert second["learning_rate"] == first["learning_rate"] / 2
    assert second["seed"] == first["seed"] + 1


def test_a_starting_version_that_was_damaged_is_not_computed_on(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_job, "load_model", never)
    floor.ask(1)
    job_id = floor.order()
    with floor.db.session_factory() as session:
        directory = Path(session.scalars(select(Adapter.directory)).one())
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    work(floor.db, floor.settings, job_id)
    assert error_of(floor, job_id)["type"] == "version-damaged"


def test_a_base_that_was_changed_is_not_computed_on(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_job, "load_model", never)
    floor.ask(1)
    job_id = floor.order()
    path = floor.base / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    work(floor.db, floor.settings, job_id)
    assert error_of(floor, job_id)["type"] == "base-changed"


def test_a_base_that_is_gone_says_so(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_job, "load_model", never)
    floor.ask(1)
    job_id = floor.order()
    (floor.base / "model.safetensors").unlink()
    work(floor.db, floor.settings, job_id)
    assert error_of(floor, job_id)["type"] in {"base-changed", "files-missing"}


def test_a_base_is_placed_as_the_workers_environment_says(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def load(*_: Any, **how: Any) -> None:
        seen.update(how)
        raise MemoryError

    monkeypatch.setattr(worker_job, "load_model", load)
    monkeypatch.setenv("GRAIL_DEVICE", "cuda:3")
    monkeypatch.setenv("GRAIL_DEVICE_MAP", "auto")
    floor.ask(1)
    work(floor.db, floor.settings, floor.order())
    assert (seen["device"], seen["device_map"], seen["quantisation"]) == ("cuda:3", "auto", "none")


def test_a_placement_that_there_is_not_ends_the_job_with_words(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_job, "load_model", never)
    monkeypatch.setenv("GRAIL_QUANTISATION", "int3")
    floor.ask(1)
    job_id = floor.order()
    work(floor.db, floor.settings, job_id)
    assert error_of(floor, job_id)["type"] == "wrong-placement"


def test_a_worker_that_lost_its_job_stores_no_report(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    floor.ask(1)
    job_id = floor.order()
    assert floor.claim(job_id) == 1
    monkeypatch.setattr(worker_job, "_document", lambda *_: {})
    monkeypatch.setattr(worker_job, "store_report", never)
    inputs = SimpleNamespace(job_id=job_id)
    outcome = SimpleNamespace(result=SimpleNamespace(requests={}))
    with pytest.raises(LeaseLost):
        worker_job._hand_in(floor.db, floor.settings, inputs, 2, None, outcome, None, None)  # type: ignore[arg-type]


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("it was computed on")


def test_a_strategy_that_passes_over_the_whole_batch_fails_the_job_before_a_model_is_loaded(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_job, "load_model", never)
    policy = {"policy": {"unlearn": {"strategy": "copyright"}}}
    floor.caller.call("operator", "PATCH", "/v1/models/people", json=policy)
    asked = floor.ask(1)
    job_id = floor.order()
    work(floor.db, floor.settings, job_id)
    said = error_of(floor, job_id)
    assert (said["type"], "strategy copyright names none" in said["detail"]) == ("nothing-named", True)
    assert floor.job(job_id).state is JobState.FAILED
    assert floor.request(asked).state is RequestState.NEEDS_ATTENTION, "no further try could mend it"
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"unlearn": {"strategy": "combined"}}})
    assert floor.job(floor.order(include_attention=True)).state is JobState.QUEUED


def test_rows_that_make_no_example_fail_the_job_instead_of_waiting_for_ever(floor: Floor) -> None:
    """Such a row can not come in over HTTP any more; were there one, each claim would be rolled back and rung again."""
    asked = floor.ask(1)
    job_id = floor.order()
    with transaction(floor.db) as session:
        for example in session.scalars(select(Example)):
            example.content = Content("s", "", " ")
    work(floor.db, floor.settings, job_id)
    assert floor.job(job_id).state is JobState.FAILED
    assert error_of(floor, job_id)["type"] == "unexpected"
    assert floor.request(asked).state is RequestState.QUEUED


@pytest.mark.parametrize("how", ["done", "taken"])
def test_what_there_is_nothing_to_do_about_is_left_alone(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(worker_job, "load_model", never)
    floor.ask(1)
    job_id = floor.work() if how == "done" else floor.order()
    if how == "taken":
        floor.claim(job_id, later(1e6))  # a lease that outlasts the test run
    before = floor.job(job_id).fencing_token
    for rung in (job_id, uuid.uuid4()):
        work(floor.db, floor.settings, rung)
    assert floor.job(job_id).fencing_token == before


def test_a_job_whose_lease_is_lost_is_left_to_the_one_who_has_it(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken_over(*_: Any, **__: Any) -> None:
        floor.claim(job_id, later(1e6))
        raise RuntimeError("noticed only now")

    monkeypatch.setattr(worker_job, "load_model", taken_over)
    floor.ask(1)
    job_id = floor.order()
    work(floor.db, floor.settings, job_id)
    row = floor.job(job_id)
    assert (row.state, row.fencing_token, row.error) == (JobState.RUNNING, 2, None)


def test_a_lost_lease_is_no_failure(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, job_id = failing(floor, monkeypatch, LeaseLost(uuid.uuid4(), 1))
    assert floor.job(job_id).state is JobState.RUNNING
    assert floor.request(asked).tries == 0


def test_a_database_that_stays_away_leaves_the_job_to_its_lease(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Database("postgresql://grail@/nowhere?host=/nonexistent&port=5432")
    tell, tried = worker_job._tell, []

    def gone(_: Database, settings: Settings, *rest: Any) -> None:
        tell(away, settings.model_copy(update={"lease_seconds": 0.3}), *rest)

    def broken(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(worker_job, "_tell", gone)
    monkeypatch.setattr(worker_job, "load_model", broken)
    asked = floor.ask(1)
    job_id = floor.order()
    work(floor.db, floor.settings, job_id)
    assert tried == [1]
    row = floor.job(job_id)
    assert (row.state, row.error) == (JobState.RUNNING, None)
    assert floor.request(asked).state is RequestState.RUNNING
    assert floor.claim(job_id, later(1e6)) == 2
