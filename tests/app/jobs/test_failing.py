"""What follows from failures, on the real tables: whose request waits for whom, and when a model is left alone."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.db import transaction
from app.jobs import failing
from app.jobs import service as jobs
from app.jobs.failures import MOST_PUT_OFFS, FailureKind, most_jobs
from app.jobs.leases import MAX_ATTEMPTS
from app.lifecycle import JobState, RequestState
from app.tables import Job
from app.workers import service as workers
from tests.app.service import BAD, LEASE, NOW, Floor, later, slug

GB = 10**9


def put_in(floor: Floor, *numbers: int) -> tuple[list[str], uuid.UUID]:
    """(requests, their queued job)."""
    return [floor.ask(number) for number in numbers], floor.order()


def fail(floor: Floor, job_id: uuid.UUID, kind: FailureKind, now: datetime = NOW, **more: Any) -> None:
    floor.fail(job_id, floor.claim(job_id, now) or 0, kind, now, **more)


def states(floor: Floor, requests: list[str]) -> list[str]:
    return [str(floor.request(one).state) for one in requests]


def shown(floor: Floor, job_id: uuid.UUID) -> Any:
    return floor.caller.call("operator", "GET", f"/v1/jobs/{job_id}")


def breaker(floor: Floor, role: str = "operator") -> Any:
    return floor.caller.call(role, "GET", "/v1/models/people")["breaker"]


def queued(floor: Floor) -> list[Any]:
    return list(floor.caller.call("operator", "GET", "/v1/jobs", params={"state": "queued"})["items"])


def announce(floor: Floor, name: str, memory: int) -> None:
    with transaction(floor.db) as session:
        workers.announce(session, name, memory, datetime.now(NOW.tzinfo))


# Put off


def test_a_job_that_was_put_off_waits_and_goes_on_with_the_same_requests(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1, 2)
    announce(floor, "gpu-1", 16 * GB)
    fail(floor, job_id, FailureKind.TRANSIENT)
    row = floor.job(job_id)
    assert (row.state, row.put_off, row.attempts, row.finished_at) == (JobState.QUEUED, 1, 0, None)
    assert states(floor, asked) == ["batched", "batched"]
    assert row.not_before is not None and row.not_before > NOW
    assert floor.claim(job_id) is None
    assert shown(floor, job_id)["put_off"] == 1
    assert floor.claim(job_id, row.not_before) == 2


def test_after_its_last_pause_a_person_is_asked_and_no_try_is_lost(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1)
    now = NOW
    for _ in range(MOST_PUT_OFFS):
        fail(floor, job_id, FailureKind.TRANSIENT, now)
        now = floor.job(job_id).not_before or now
    assert states(floor, asked) == ["batched"]
    fail(floor, job_id, FailureKind.TRANSIENT, now)
    assert floor.job(job_id).state is JobState.FAILED
    row = floor.request(asked[0])
    assert (row.state, row.tries) == (RequestState.NEEDS_ATTENTION, 0)
    assert (row.outcome or {})["result"] == "made-up"
    assert breaker(floor)["failures"] == 1


def test_workers_that_gave_a_job_back_did_not_die_on_it(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1)
    for number in range(1, 2 * MAX_ATTEMPTS):
        assert floor.claim(job_id) == number
        with transaction(floor.db) as session:
            jobs.give_back(session, job_id, number, NOW)
        assert states(floor, asked) == ["batched"]
    assert floor.job(job_id).attempts == 0


def test_a_job_that_lacked_memory_is_for_larger_workers_only(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1, 2)
    announce(floor, "small", 16 * GB)
    announce(floor, "large", 24 * GB)
    fail(floor, job_id, FailureKind.MEMORY, offered_bytes=16 * GB)
    row = floor.job(job_id)
    assert (row.state, row.needed_bytes, row.put_off, row.not_before) == (JobState.QUEUED, 16 * GB + 1, 1, NOW)
    assert states(floor, asked) == ["batched", "batched"]
    with floor.db.session_factory() as session:
        assert jobs.claimable(session, NOW, 16 * GB) == []
        assert jobs.claimable(session, NOW, 24 * GB) == [job_id]
    assert shown(floor, job_id)["waiting_for"] is None


def test_without_a_larger_worker_what_lacked_memory_goes_on_in_halves(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1, 2)
    announce(floor, "small", 16 * GB)
    fail(floor, job_id, FailureKind.MEMORY, offered_bytes=16 * GB)
    assert floor.job(job_id).state is JobState.FAILED
    assert sorted(states(floor, asked)) == ["batched", "queued"]


def test_a_job_says_which_worker_it_waits_for(floor: Floor) -> None:
    _, job_id = put_in(floor, 1)
    assert shown(floor, job_id)["waiting_for"] == "a gpu worker"
    announce(floor, "gpu-1", 1)
    needed = shown(floor, job_id)["needed_bytes"]
    assert needed > 450_000_000, "the worker's own memory is part of it"
    assert shown(floor, job_id)["waiting_for"] == "a worker with 1 GB"
    announce(floor, "gpu-1", 16 * GB)
    assert shown(floor, job_id)["waiting_for"] is None
    with transaction(floor.db) as session:
        workers.leave(session, "gpu-1")
    assert shown(floor, job_id)["waiting_for"] == "a gpu worker"
    floor.claim(job_id)
    assert shown(floor, job_id)["waiting_for"] is None


def test_a_worker_that_was_not_seen_for_a_lease_is_not_counted(floor: Floor) -> None:
    now = datetime.now(NOW.tzinfo)
    with transaction(floor.db) as session:
        for name, ago in (("here", 1.0), ("gone", floor.settings.lease_seconds + 1)):
            workers.announce(session, name, 5, now - timedelta(seconds=ago))
        assert len(workers.memories(session, now)) == 1
        workers.announce(session, "here", 7, now + timedelta(days=2))
        assert workers.memories(session, now) == [7]


# Halves


def test_a_named_request_needs_attention_and_the_others_are_batched_at_once(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1, 2, 3)
    fail(floor, job_id, FailureKind.DATA, at_fault=[asked[1]])
    assert states(floor, asked) == ["batched", "needs_attention", "batched"]
    assert [floor.request(one).tries for one in asked] == [0, 1, 0]
    (fresh,) = queued(floor)
    assert set(shown(floor, fresh["id"])["request_ids"]) == {asked[0], asked[2]}
    assert breaker(floor)["failures"] == 0


def test_a_batch_that_fails_for_nobody_knows_whom_is_halved(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1, 2, 3)
    fail(floor, job_id, FailureKind.UNKNOWN)
    groups = Counter(floor.request(one).group_id for one in asked)
    assert sorted(groups.values()) == [1, 2] and None not in groups
    assert [floor.request(one).tries for one in asked] == [0, 0, 0]
    (fresh,) = queued(floor)
    members = shown(floor, fresh["id"])["request_ids"]
    assert len({floor.request(one).group_id for one in members}) == 1, "one half alone"
    assert states(floor, asked).count("queued") == len(asked) - len(members)


def test_a_request_that_came_to_a_verdict_may_be_batched_with_others_again(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1)
    fail(floor, job_id, FailureKind.UNKNOWN)
    assert floor.request(asked[0]).group_id is not None
    floor.work(BAD)
    assert floor.request(asked[0]).group_id is None


def test_a_job_that_kills_its_workers_is_halved_too(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1, 2)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert floor.claim(job_id, later((attempt - 1) * (LEASE + 1))) == attempt
    assert floor.claim(job_id, later(MAX_ATTEMPTS * (LEASE + 1))) is None
    assert (floor.job(job_id).error or {})["type"] == "workers-died"
    assert sorted(states(floor, asked)) == ["batched", "queued"]
    assert len(queued(floor)) == 1


def next_job(floor: Floor) -> uuid.UUID | None:
    """The job that the planner, or what failed before, made of one group."""
    found = queued(floor)
    if found:
        return uuid.UUID(found[0]["id"])
    made = jobs.batches.plan(floor.db, time_of=lambda _: later(9e6))
    return made[0] if made else None


def test_requests_that_spoil_every_job_are_isolated_and_all_others_are_published(floor: Floor) -> None:
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"max_requests_per_batch": 16}})
    asked = [floor.ask(number) for number in range(1, 8)]
    poison, taken, now = {asked[1], asked[6]}, 0, NOW
    while (job_id := next_job(floor)) is not None:
        taken += 1
        assert taken <= most_jobs(len(asked), len(poison))
        now += timedelta(hours=3)  # longer than any cool-down
        token = floor.claim(job_id, now)
        assert token is not None
        if poison.intersection(shown(floor, job_id)["request_ids"]):
            floor.fail(job_id, token, FailureKind.UNKNOWN, now)
        else:
            floor.evaluate(job_id, token, outcomes={})
            floor.conclude(job_id)
    ends = dict(zip(asked, states(floor, asked), strict=True))
    assert {one for one, end in ends.items() if end == "needs_attention"} == poison
    assert {end for one, end in ends.items() if one not in poison} == {"published"}
    assert all(floor.request(one).tries == 0 for one in asked if one not in poison)


# The breaker


def test_what_only_an_operator_can_mend_leaves_the_model_alone_until_it_is_closed(floor: Floor) -> None:
    asked, job_id = put_in(floor, 1)
    fail(floor, job_id, FailureKind.OPERATOR, datetime.now(NOW.tzinfo))
    assert states(floor, asked) == ["queued"]
    assert floor.request(asked[0]).tries == 0
    said = breaker(floor)
    assert (said["state"], said["reason"]["type"], said["reason"]["mend"]) == ("open", "made-up", "m")
    assert said["reason"]["job_id"] == str(job_id)
    assert said["tries_again_at"] > said["opened_at"]
    told = breaker(floor, "requester")
    assert (told["state"], told["reason"]) == ("open", None)
    soon = datetime.now(NOW.tzinfo) + timedelta(seconds=1)
    assert jobs.batches.plan(floor.db, time_of=lambda _: soon) == []
    refused = floor.caller.send("operator", "POST", "/v1/jobs", json={"served_model": "people"})
    assert (refused.status_code, slug(refused)) == (409, "breaker-open")
    assert "close-breaker" in refused.json()["mend"]
    preview = floor.caller.call("operator", "POST", "/v1/jobs", json={"served_model": "people", "dry_run": True})
    assert "breaker" in preview["obstacle"]
    floor.ask(2)  # requests are taken meanwhile
    for _ in range(2):
        closed = floor.caller.call("operator", "POST", "/v1/models/people/breaker/close")["breaker"]
        assert (closed["state"], closed["failures"], closed["reason"]) == ("closed", 0, None)
    assert floor.claim(floor.order()) == 1


def test_once_it_has_cooled_down_one_job_may_try_and_a_verdict_closes_it(floor: Floor) -> None:
    _, job_id = put_in(floor, 1)
    fail(floor, job_id, FailureKind.OPERATOR)
    cooled = later(floor.settings.breaker_seconds)
    assert jobs.batches.plan(floor.db, time_of=lambda _: cooled - timedelta(seconds=1)) == []
    (trial,) = jobs.batches.plan(floor.db, time_of=lambda _: later(9e6))
    assert floor.claim(trial, cooled - timedelta(seconds=1)) is None
    token = floor.claim(trial, cooled)
    assert token == 1
    floor.fail(trial, token, FailureKind.OPERATOR, cooled)
    assert floor.model().breaker_opened_at == cooled, "open again, from then on"
    (trial,) = jobs.batches.plan(floor.db, time_of=lambda _: later(9e6))
    token = floor.claim(trial, later(9e6))
    assert token == 1
    floor.evaluate(trial, token, BAD)
    floor.conclude(trial)
    assert (floor.model().breaker_failures, floor.model().breaker_opened_at) == (0, None)


def test_failures_in_a_row_open_it_and_a_verdict_in_between_does_not_let_them(floor: Floor) -> None:
    threshold = floor.settings.breaker_failures
    for number in range(1, threshold):
        _, job_id = put_in(floor, number)
        fail(floor, job_id, FailureKind.SETTINGS)
    assert (breaker(floor)["state"], breaker(floor)["failures"]) == ("closed", threshold - 1)
    floor.ask(50)
    floor.work()
    assert breaker(floor)["failures"] == 0
    for number in range(60, 60 + threshold):
        _, job_id = put_in(floor, number)
        fail(floor, job_id, FailureKind.SETTINGS, datetime.now(NOW.tzinfo))
    assert breaker(floor)["state"] == "open"


@pytest.mark.parametrize("role", ["requester", "officer"])
def test_only_operators_close_it(floor: Floor, role: str) -> None:
    floor.caller.call(role, "POST", "/v1/models/people/breaker/close", 403)


def test_a_job_that_was_queued_before_it_opened_is_kept_back_and_rung_for_when_it_is_closed(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job_id = put_in(floor, 1)
    now = datetime.now(NOW.tzinfo)
    with transaction(floor.db) as session:
        model = session.get_one(type(floor.model()), floor.model().id)
        model.breaker_failures, model.breaker_opened_at, model.breaker_error = 3, now, {"type": "made-up"}
    assert floor.claim(job_id, now) is None
    assert shown(floor, job_id)["waiting_for"] == "the model's breaker to be closed"
    rung: list[tuple[str, ...]] = []
    monkeypatch.setattr("app.queue.send", lambda *message: rung.append(message))
    floor.caller.call("operator", "POST", "/v1/models/people/breaker/close")
    assert rung == [("grail.run_job", str(job_id))]
    assert floor.claim(job_id, now) == 1


def test_a_model_that_was_served_long_ago_comes_before_one_that_was_just_served(floor: Floor) -> None:
    floor.register("works")
    floor.ask(1)
    floor.work()
    floor.ask(2)
    floor.ask(3, model="works")
    first, second = floor.order(), floor.order("works")
    with floor.db.session_factory() as session:
        assert jobs.claimable(session, NOW) == [second, first]
    with transaction(floor.db) as session:
        for job_id, days in ((first, 1), (second, 20)):
            session.get_one(Job, job_id).due_at = NOW + timedelta(days=days, hours=1)
    with floor.db.session_factory() as session:
        assert jobs.claimable(session, NOW) == [first, second], "what is due sooner comes first all the same"


# What goes wrong in what follows


def test_a_batch_that_can_not_be_made_again_leaves_no_request_and_no_job_in_limbo(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It breaks after its rows were written and its message noted: all of that goes, the failure itself stays."""
    asked, job_id = put_in(floor, 1, 2)
    make = failing.batches.batch_again

    def break_off(*given: Any) -> None:
        make(*given)
        raise RuntimeError("in the middle of it")

    with monkeypatch.context() as patch:
        patch.setattr(failing.batches, "batch_again", break_off)
        fail(floor, job_id, FailureKind.UNKNOWN)
    assert shown(floor, job_id)["state"] == "failed"
    assert states(floor, asked) == ["queued", "queued"]
    assert queued(floor) == []
    assert len(jobs.batches.plan(floor.db, time_of=lambda _: later(1))) == 1  # the planner makes it, at its next pass
