"""Claims, leases and fencing: one worker at a time, and one that lost its job can write nothing."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters.files import WrittenVersion
from app.db import transaction
from app.jobs import service as jobs
from app.jobs.errors import LeaseLost
from app.jobs.failures import Failure, FailureKind
from app.jobs.leases import MAX_ATTEMPTS
from app.jobs.progress import MAX_POINTS, SPANS, overall, with_losses
from app.lifecycle import JobState, RequestState
from app.tables import Adapter, Audit, Batch, Job, Report, Request
from grail.types import Progress
from tests.app.service import GOOD, LEASE, NOW, Floor, later

DIGEST = "ab" * 32
WRITTEN = WrittenVersion("people-v000002-abababab", 2, DIGEST, Path("/nowhere"), {})


@pytest.fixture
def job(floor: Floor) -> uuid.UUID:
    """A queued job of one request."""
    floor.ask(1)
    return floor.order()


def everything(floor: Floor) -> dict[str, list[tuple[Any, ...]]]:
    """All that a worker could write."""
    with floor.db.session_factory() as session:
        return {
            table.__tablename__: sorted(
                tuple(map(repr, row)) for row in session.execute(select(*table.__table__.columns)).all()
            )
            for table in (Job, Request, Report, Adapter, Audit)
        }


def member_states(floor: Floor) -> set[str]:
    with floor.db.session_factory() as session:
        return {str(state) for state in session.scalars(select(Request.state))}


def test_a_claim_takes_the_job_and_its_requests(floor: Floor, job: uuid.UUID) -> None:
    assert floor.claim(job, owner="gpu-1") == 1
    row = floor.job(job)
    assert (row.state, row.lease_owner, row.attempts, row.fencing_token) == (JobState.RUNNING, "gpu-1", 1, 1)
    assert row.lease_until == later(LEASE)
    assert row.started_at == NOW
    assert member_states(floor) == {"running"}


def test_a_job_that_is_taken_is_not_taken_again(floor: Floor, job: uuid.UUID) -> None:
    assert floor.claim(job) == 1
    before = everything(floor)
    assert floor.claim(job, later(1)) is None
    assert floor.claim(job, later(LEASE)) is None, "the lease holds to its last moment"
    assert everything(floor) == before


@pytest.mark.parametrize("state", [s for s in JobState if s not in {JobState.QUEUED, JobState.RUNNING}])
def test_a_job_past_its_run_is_never_taken_again(floor: Floor, job: uuid.UUID, state: JobState) -> None:
    final = state in {JobState.PUBLISHED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED}
    with transaction(floor.db) as session:
        row = session.get_one(Job, job)
        row.state, row.finished_at = state, NOW if final else None
    assert floor.claim(job, later(1e6)) is None
    assert floor.job(job).state is state


def test_a_job_that_never_was_is_not_taken(floor: Floor) -> None:
    assert floor.claim(uuid.uuid4()) is None


def test_of_many_claimers_at_the_same_time_exactly_one_gets_the_job(floor: Floor, job: uuid.UUID) -> None:
    start, tokens = threading.Barrier(4), []

    def race(number: int) -> None:
        start.wait(timeout=60)
        tokens.append(floor.claim(job, owner=f"worker-{number}"))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tokens, key=str) == [1, None, None, None]
    assert floor.job(job).attempts == 1


def second_job(floor: Floor, first: uuid.UUID) -> uuid.UUID:
    """Another queued job of the same model, which no planner would make."""
    with transaction(floor.db) as session:
        one = session.get_one(Job, first)
        batch = Batch(served_model_id=one.served_model_id, reason="manual")
        session.add(batch)
        session.flush()
        other = Job(
            served_model_id=one.served_model_id, batch_id=batch.id, settings=one.settings, gate=one.gate,
            start_adapter_id=one.start_adapter_id,
        )  # fmt: skip
        session.add(other)
        session.flush()
        return other.id


def test_of_two_jobs_of_one_model_one_is_at_work_however_they_are_claimed(floor: Floor, job: uuid.UUID) -> None:
    other = second_job(floor, job)
    start, tokens = threading.Barrier(2), []

    def race(job_id: uuid.UUID) -> None:
        start.wait(timeout=60)
        tokens.append((job_id, floor.claim(job_id)))

    threads = [threading.Thread(target=race, args=(job_id,)) for job_id in (job, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    at_work = [job_id for job_id in (job, other) if floor.job(job_id).state is JobState.RUNNING]
    assert len(at_work) <= 1  # the second job has no member: it is cancelled when it comes first
    assert {token for _, token in tokens} <= {1, None}
    assert floor.claim(job) in {1, None}
    assert floor.job(job).state is JobState.RUNNING


def test_a_lease_that_ran_out_is_taken_over_with_a_higher_token_and_what_was_made(floor: Floor, job: uuid.UUID) -> None:
    assert floor.claim(job, owner="first") == 1
    with transaction(floor.db) as session:
        jobs.store_artefact(session, job, 1, "original", DIGEST, 1.25)
    assert floor.claim(job, later(LEASE + 0.001), owner="second") == 2
    row = floor.job(job)
    assert (row.state, row.lease_owner, row.attempts) == (JobState.RUNNING, "second", 2)
    assert row.started_at == NOW
    assert (row.artefacts, row.timings) == ({"original": DIGEST}, {"original": 1.25})
    assert member_states(floor) == {"running"}


LATE: dict[str, Callable[[Session, Floor, uuid.UUID, int], Any]] = {
    "heartbeat": lambda session, floor, job, token: jobs.heartbeat(session, job, token, NOW, LEASE),
    "progress": lambda session, floor, job, token: jobs.heartbeat(
        session, job, token, NOW, LEASE, Progress("unlearn", 0.5, 3, 9, {"forget": 1.0})
    ),
    "artefact": lambda session, floor, job, token: jobs.store_artefact(session, job, token, "masks", DIGEST, 1.0),
    "evaluated": lambda session, floor, job, token: jobs.evaluated(
        session, job, token, dict(GOOD), None, DIGEST, {}, {}, now=NOW
    ),
    "fail": lambda session, floor, job, token: jobs.fail(
        session, job, token, Failure(FailureKind.UNKNOWN, {"type": "x"}), NOW
    ),
    "transient": lambda session, floor, job, token: jobs.fail(
        session, job, token, Failure(FailureKind.TRANSIENT, {"type": "x"}), NOW
    ),
    "give back": lambda session, floor, job, token: jobs.give_back(session, job, token, NOW),
    "version": lambda session, floor, job, token: jobs.next_version(session, job, token),
    "look": lambda session, floor, job, token: jobs.check(session, job, token),
    "candidate": lambda session, floor, job, token: jobs.evaluated(
        session, job, token, dict(GOOD), WRITTEN, DIGEST, {}, {}, now=NOW
    ),
    "held": lambda session, floor, job, token: jobs.held(session, job, token),
}


@pytest.mark.parametrize("write", LATE.values(), ids=LATE)
@pytest.mark.parametrize("how", ["taken over", "cancelled", "evaluated", "never claimed", "gone"])
def test_a_stale_token_writes_nothing(
    floor: Floor, job: uuid.UUID, how: str, write: Callable[[Session, Floor, uuid.UUID, int], Any]
) -> None:
    target, token = job, 1
    if how == "gone":
        target = uuid.uuid4()
    elif how == "never claimed":
        token = 0
    else:
        assert floor.claim(job) == 1
    if how == "taken over":
        assert floor.claim(job, later(LEASE * 2)) == 2
    elif how == "cancelled":
        floor.caller.call("operator", "POST", f"/v1/jobs/{job}/cancel")
    elif how == "evaluated":
        floor.evaluate(job, 1)
    before = everything(floor)
    with pytest.raises(LeaseLost), transaction(floor.db) as session:
        write(session, floor, target, token)
    assert everything(floor) == before


@pytest.mark.parametrize("write", LATE.values(), ids=LATE)
def test_the_same_write_with_the_right_token_is_taken(
    floor: Floor, job: uuid.UUID, write: Callable[[Session, Floor, uuid.UUID, int], Any]
) -> None:
    assert floor.claim(job) == 1
    assert floor.claim(job, later(LEASE * 2)) == 2
    with transaction(floor.db) as session:
        write(session, floor, job, 2)


def test_a_heartbeat_prolongs_the_lease_and_shows_the_progress(floor: Floor, job: uuid.UUID) -> None:
    floor.claim(job)
    for seconds, share, step in ((10, 0.25, 10), (20, 0.5, 20)):
        with transaction(floor.db) as session:
            progress = Progress("unlearn", share, step, 40, {"forget": 2.0 / step, "retain": 0.5})
            jobs.heartbeat(session, job, 1, later(seconds), LEASE, progress)
    assert floor.job(job).lease_until == later(20 + LEASE)
    shown = floor.caller.call("operator", "GET", f"/v1/jobs/{job}")
    assert (shown["stage"], shown["step"], shown["steps"]) == ("unlearn", 20, 40)
    assert shown["losses"] == [
        {"step": 10, "forget": 0.2, "retain": 0.5}, {"step": 20, "forget": 0.1, "retain": 0.5},
    ]  # fmt: skip
    low, high = SPANS["unlearn"]
    assert shown["progress"] == pytest.approx(low + (high - low) / 2)


def test_losses_that_are_no_numbers_do_not_stop_the_heartbeat(floor: Floor, job: uuid.UUID) -> None:
    """JSON has no NaN: a heartbeat that failed on it would lose the lease."""
    floor.claim(job)
    with transaction(floor.db) as session:
        losses = {"forget": float("nan"), "retain": float("inf")}
        jobs.heartbeat(session, job, 1, later(5), LEASE, Progress("unlearn", 0.1, 1, 10, losses))
    assert floor.job(job).lease_until == later(5 + LEASE)
    assert floor.job(job).losses == []


def test_a_job_that_kills_its_workers_is_given_up_and_its_requests_are_shown_to_a_person(floor: Floor) -> None:
    asked = floor.ask(1)
    job = floor.order()
    now = NOW
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert floor.claim(job, now) == attempt
        now = later(attempt * (LEASE + 1))
    assert floor.claim(job, now) is None
    row = floor.job(job)
    assert row.state is JobState.FAILED
    assert (row.error or {})["type"] == "workers-died"
    request = floor.request(asked)
    assert (request.state, request.tries, request.completed_at) == (RequestState.NEEDS_ATTENTION, 1, None)
    assert floor.claim(job, later(1e6)) is None


def test_a_job_that_everybody_left_is_cancelled(floor: Floor, job: uuid.UUID) -> None:
    with transaction(floor.db) as session:
        for request in session.scalars(select(Request)):
            request.state, request.completed_at = RequestState.WITHDRAWN, NOW
    assert floor.claim(job) is None
    assert floor.job(job).state is JobState.CANCELLED


def test_a_job_starts_from_the_version_that_is_active_when_it_is_claimed(floor: Floor) -> None:
    floor.ask(1)
    floor.work()
    floor.ask(2)
    job = floor.order()
    ask = {"reason": "back to the first one, for a while"}
    floor.caller.call("officer", "POST", "/v1/models/people/adapters/1/activate", json=ask)
    floor.claim(job)
    shown = floor.caller.call("operator", "GET", f"/v1/jobs/{job}")
    assert shown["start_adapter"]["version"] == 1
    floor.claim(job, later(LEASE * 2))
    assert floor.caller.call("operator", "GET", f"/v1/jobs/{job}")["start_adapter"]["version"] == 1


def test_an_outcome_that_is_none_is_refused_before_anything_is_written(floor: Floor, job: uuid.UUID) -> None:
    floor.claim(job)
    before = everything(floor)
    with pytest.raises(ValueError, match="unknown outcomes"), transaction(floor.db) as session:
        jobs.evaluated(session, job, 1, dict(GOOD), None, DIGEST, {uuid.uuid4(): "gone"}, {}, now=NOW)
    assert everything(floor) == before


def test_outcomes_of_other_peoples_examples_are_not_written(floor: Floor, job: uuid.UUID) -> None:
    stranger = floor.ask(7, role="other")
    floor.claim(job)
    (example,) = floor.forget_items(stranger)
    with transaction(floor.db) as session:
        jobs.evaluated(session, job, 1, dict(GOOD), None, DIGEST, {example: "forgotten"}, {}, now=NOW)
    shown = floor.caller.call("other", "GET", f"/v1/requests/{stranger}", params={"include": "items"})
    assert shown["contents"]["forget"][0]["outcome"] is None


# Progress, pure


def test_the_bar_never_runs_backwards_or_over() -> None:
    share = 0.0
    for stage in ("load", "unlearn", "original", "candidate", "unlearn", "nonsense", "report"):
        for part in (-1.0, 0.0, 0.5, 1.0, 7.0):
            before, share = share, overall(Progress(stage, part), share)
            assert before <= share <= 1.0
    assert share == 1.0


def test_the_curve_is_bounded_and_a_resumed_run_replaces_the_lost_part() -> None:
    curve: list[dict[str, Any]] = []
    for step in range(5000):
        curve = with_losses(curve, Progress("unlearn", 0.0, step, 5000, {"forget": float(step)}))
        assert len(curve) <= MAX_POINTS
    steps = [point["step"] for point in curve]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 4999)
    resumed = with_losses(curve, Progress("unlearn", 0.0, 100, 5000, {"forget": 1.0}))
    assert [point["step"] for point in resumed if point["step"] >= 100] == [100]
    assert with_losses(curve, Progress("unlearn", 0.5)) == curve
