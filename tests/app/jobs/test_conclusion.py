"""What follows from a verdict, an error or a person's word, for the job, its candidate and its requests."""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.db import transaction
from app.jobs.failures import FailureKind
from app.jobs.verdicts import changed_settings
from app.lifecycle import JobState, RequestState
from app.tables import Adapter, Audit, Job, ServedModel
from grail.config import UnlearnConfig
from tests.app.service import BAD, GOOD, LEASE, NOW, Floor, later, slug

WHY = "the intervals are too wide to sign this off"


def outcome(floor: Floor, asked: str) -> dict[str, Any]:
    return dict(floor.caller.call("requester", "GET", f"/v1/requests/{asked}")["outcome"])


def evaluated(floor: Floor, verdict: Any = GOOD, **more: Any) -> uuid.UUID:
    """A job with a verdict that nobody drew the consequence of."""
    job_id = floor.order()
    token = floor.claim(job_id)
    assert token is not None
    floor.evaluate(job_id, token, verdict, **more)
    return job_id


def audit_count(floor: Floor) -> int:
    with floor.db.session_factory() as session:
        return session.scalar(select(func.count()).select_from(Audit)) or 0


# Published


def test_a_good_verdict_publishes_the_candidate_and_completes_its_requests(floor: Floor) -> None:
    one, two = floor.ask(1), floor.ask(2, role="other")
    job_id = floor.work()
    job = floor.caller.call("operator", "GET", f"/v1/jobs/{job_id}")
    assert (job["state"], job["stage"], job["progress"], job["error"]) == ("published", "published", 1.0, None)
    assert (job["start_adapter"]["version"], job["candidate_adapter"]["version"]) == (1, 2)
    assert job["finished_at"]
    assert floor.versions() == [(2, "published", True), (1, "superseded", False)]
    assert floor.model().alias_revision == 1
    for asked in (one, two):
        row = floor.request(asked)
        assert (row.state, row.completed_at, row.tries) == (RequestState.PUBLISHED, NOW, 0)
        assert (row.outcome or {})["result"] == "published"
        assert (row.outcome or {})["adapter_version"] == 2
        assert (row.outcome or {})["job_id"] == str(job_id)


def test_a_consequence_is_drawn_once_however_often_it_is_asked_for(floor: Floor) -> None:
    floor.ask(1)
    job_id = floor.work()
    before = (audit_count(floor), floor.model().alias_revision, floor.versions())
    for _ in range(3):
        assert floor.conclude(job_id, later(60)) == "published"
    assert (audit_count(floor), floor.model().alias_revision, floor.versions()) == before


def test_two_that_draw_the_consequence_at_the_same_time_publish_one_version(floor: Floor) -> None:
    floor.ask(1)
    job_id = evaluated(floor)
    start, states = threading.Barrier(2), []

    def race() -> None:
        start.wait(timeout=60)
        states.append(floor.conclude(job_id))

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == ["published", "published"]
    assert floor.model().alias_revision == 1
    assert floor.versions() == [(2, "published", True), (1, "superseded", False)]


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
def test_a_job_without_a_verdict_has_no_consequence(floor: Floor, state: JobState) -> None:
    floor.ask(1)
    job_id = floor.order()
    if state is JobState.RUNNING:
        floor.claim(job_id)
    before = audit_count(floor)
    assert floor.conclude(job_id) == str(state)
    assert audit_count(floor) == before
    assert floor.conclude(uuid.uuid4()) == "None"


def test_when_the_alias_moved_the_job_fails_and_its_requests_try_again(floor: Floor) -> None:
    asked = floor.ask(1)
    job_id = evaluated(floor)
    with transaction(floor.db) as session:  # past all rules: as a second installation on the same database might
        model = session.scalars(select(ServedModel)).one()
        model.active_adapter_id = None
        model.alias_revision += 1
    assert floor.conclude(job_id) == "failed"
    job = floor.job(job_id)
    assert (job.error or {})["type"] == "alias-moved"
    assert (job.error or {})["mend"]
    assert floor.versions() == [(2, "rejected", False), (1, "published", False)]
    row = floor.request(asked)
    assert (row.state, row.tries, row.completed_at) == (RequestState.QUEUED, 1, None)


def test_when_the_candidate_was_damaged_the_job_fails_and_the_served_version_stays(floor: Floor) -> None:
    asked = floor.ask(1)
    job_id = evaluated(floor)
    with floor.db.session_factory() as session:
        directory = session.scalars(select(Adapter.directory).where(Adapter.version == 2)).one()
    (Path(directory) / "adapter_model.safetensors").unlink()
    assert floor.conclude(job_id) == "failed"
    assert (floor.job(job_id).error or {})["type"] == "version-damaged"
    assert floor.versions() == [(2, "rejected", False), (1, "published", True)]
    assert floor.request(asked).state is RequestState.QUEUED


# Known to the base


def test_requests_whose_every_item_the_base_knows_end_as_in_base_without_a_version(floor: Floor) -> None:
    asked = floor.ask(1, 2)
    verdict = {"ok": True, "checks": [{"name": "certified_forget_items", "scope": "privacy", "ok": True}]}
    job_id = floor.order()
    floor.claim(job_id)
    known = dict.fromkeys(floor.forget_items(asked), "in_base")
    floor.evaluate(job_id, 1, verdict, candidate=False, outcomes=known)
    assert floor.conclude(job_id) == "published"
    assert floor.versions() == [(1, "published", True)]
    assert floor.model().alias_revision == 0
    assert floor.request(asked).state is RequestState.PUBLISHED
    said = outcome(floor, asked)
    assert (said["result"], said["adapter_version"], said["in_base"], said["forget_items"]) == ("in_base", None, 2, 2)


def test_of_a_rejected_job_only_what_the_base_does_not_know_tries_again(floor: Floor) -> None:
    known, partly, fresh = floor.ask(1), floor.ask(2, 3), floor.ask(4)
    outcomes = {
        floor.forget_items(known)[0]: "in_base",
        floor.forget_items(partly)[0]: "in_base",
        floor.forget_items(partly)[1]: "not_forgotten",
        floor.forget_items(fresh)[0]: "not_forgotten",
    }
    floor.conclude(evaluated(floor, BAD, outcomes=outcomes))
    assert floor.request(known).state is RequestState.PUBLISHED
    assert outcome(floor, known)["result"] == "in_base"
    for asked in (partly, fresh):
        assert (floor.request(asked).state, floor.request(asked).tries) == (RequestState.QUEUED, 1)
        assert outcome(floor, asked)["result"] == "rejected"


# Rejected


def test_a_bad_verdict_keeps_the_served_version_and_sends_its_requests_back_with_changed_settings(floor: Floor) -> None:
    asked = floor.ask(1)
    due = floor.request(asked).due_at
    job_id = floor.work(BAD)
    job = floor.job(job_id)
    assert (job.state, job.error) == (JobState.REJECTED, None)
    assert floor.versions() == [(2, "rejected", False), (1, "published", True)]
    row = floor.request(asked)
    assert (row.state, row.tries, row.completed_at, row.due_at) == (RequestState.QUEUED, 1, None, due)
    assert row.settings == changed_settings(job.settings["unlearn"], BAD)
    again = floor.job(floor.order())
    for name, value in row.settings.items():
        assert again.settings["unlearn"][name] == value != job.settings["unlearn"][name]
    assert again.settings["tries"] == 1


def test_the_third_bad_verdict_shows_the_request_to_a_person_with_its_clock_running(floor: Floor) -> None:
    asked = floor.ask(1)
    due = floor.request(asked).due_at
    seeds = []
    for tries in (1, 2, 3):
        job_id = floor.work(BAD)
        seeds.append(floor.job(job_id).settings["unlearn"]["seed"])
        row = floor.request(asked)
        assert row.tries == tries
        assert row.state is (RequestState.QUEUED if tries < 3 else RequestState.NEEDS_ATTENTION)
    assert len(set(seeds)) == 3
    shown = floor.caller.call("requester", "GET", f"/v1/requests/{asked}")
    assert (shown["completed_at"], shown["days_left"] in (29, 30)) == (None, True)
    assert floor.request(asked).due_at == due
    assert floor.caller.refused("operator", "POST", "/v1/jobs", json={"served_model": "people"}) == (
        409, "nothing-pending",
    )  # fmt: skip
    floor.order(include_attention=True)
    assert (floor.request(asked).state, floor.request(asked).tries) == (RequestState.BATCHED, 0)


def test_a_number_of_a_rejected_version_is_not_used_again(floor: Floor) -> None:
    floor.ask(1)
    floor.work(BAD)
    floor.work(GOOD)
    assert floor.versions() == [(3, "published", True), (2, "rejected", False), (1, "superseded", False)]


@pytest.mark.parametrize(
    "checks",
    [
        [{"name": "min_cus", "ok": False}],
        [{"name": "min_rs", "ok": False}],
        [{"name": "max_forget_gap", "ok": False}],
        [
            {"name": "max_ppl_ratio", "ok": False},
            {"name": "min_request_cus", "ok": False},
            {"name": "min_rs", "ok": False},
        ],
        [{"name": "something_new", "ok": False}],
        [],
    ],
)
def test_changed_settings_are_settings_however_often_they_change(checks: list[dict[str, Any]]) -> None:
    settings = UnlearnConfig(seed=2**31 - 2).as_dict()
    for _ in range(60):
        changes = changed_settings(settings, {"ok": False, "checks": checks})
        assert changes["seed"] != settings["seed"]
        settings = UnlearnConfig(**{**settings, **changes}).as_dict()


# Failed


def test_an_error_that_a_further_try_could_mend_sends_requests_back(floor: Floor) -> None:
    asked = floor.ask(1)
    job_id = floor.order()
    floor.fail(job_id, floor.claim(job_id) or 0, FailureKind.SETTINGS, changes={"seed": 5, "learning_rate": 1e-4})
    job = floor.caller.call("operator", "GET", f"/v1/jobs/{job_id}")
    assert (job["state"], job["error"]["type"]) == ("failed", "made-up")
    row = floor.request(asked)
    assert (row.state, row.tries, row.settings) == (RequestState.QUEUED, 1, {"seed": 5, "learning_rate": 1e-4})
    again = floor.job(floor.order()).settings["unlearn"]
    assert (again["seed"], again["learning_rate"]) == (5, 1e-4)


def test_changes_of_several_tries_add_up(floor: Floor) -> None:
    asked = floor.ask(1)
    for changes in ({"seed": 1, "learning_rate": 1e-3}, {"seed": 2, "retain_weight": 4.0}):
        job_id = floor.order()
        floor.fail(job_id, floor.claim(job_id) or 0, FailureKind.SETTINGS, changes=changes)
    assert floor.request(asked).settings == {"seed": 2, "learning_rate": 1e-3, "retain_weight": 4.0}


def test_the_last_error_shows_the_request_to_a_person(floor: Floor) -> None:
    asked = floor.ask(1)
    for _ in range(3):
        job_id = floor.order()
        floor.fail(job_id, floor.claim(job_id) or 0, FailureKind.SETTINGS, changes={})
    row = floor.request(asked)
    assert (row.state, row.tries, row.completed_at) == (RequestState.NEEDS_ATTENTION, 3, None)


def test_an_error_that_no_try_can_mend_shows_the_request_to_a_person_at_once(floor: Floor) -> None:
    asked = floor.ask(1)
    job_id = floor.order()
    floor.fail(job_id, floor.claim(job_id) or 0, FailureKind.SETTINGS)
    row = floor.request(asked)
    assert (row.state, row.tries, row.completed_at) == (RequestState.NEEDS_ATTENTION, 1, None)
    assert floor.versions() == [(1, "published", True)]


# Cancelled


@pytest.mark.parametrize("running", [False, True])
def test_a_cancelled_job_hands_its_requests_to_a_person_without_using_a_try(floor: Floor, running: bool) -> None:
    asked = floor.ask(1)
    job_id = floor.order()
    if running:
        floor.claim(job_id)
    shown = floor.caller.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    assert (shown["state"], shown["stage"]) == ("cancelled", "cancelled")
    assert shown["finished_at"]
    row = floor.request(asked)
    assert (row.state, row.tries, row.completed_at) == (RequestState.NEEDS_ATTENTION, 0, None)
    assert floor.claim(job_id, later(LEASE * 10)) is None
    answer = floor.caller.send("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, slug(answer), answer.json()["state"]) == (409, "not-cancellable", "cancelled")
    floor.order(include_attention=True)


@pytest.mark.parametrize("how", ["evaluated", "published", "rejected"])
def test_a_job_at_its_end_is_not_cancelled(floor: Floor, how: str) -> None:
    floor.ask(1)
    job_id = evaluated(floor, BAD if how == "rejected" else GOOD)
    if how != "evaluated":
        floor.conclude(job_id)
    before = audit_count(floor)
    answer = floor.caller.send("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, slug(answer), answer.json()["state"]) == (409, "not-cancellable", how)
    assert audit_count(floor) == before


# An officer's word


@pytest.fixture
def awaiting(floor: Floor) -> tuple[Floor, str, uuid.UUID]:
    """A job that awaits approval, and its request."""
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"require_approval": True}})
    asked = floor.ask(1)
    job_id = floor.work()
    assert floor.job(job_id).state is JobState.AWAITING_APPROVAL
    return floor, asked, job_id


def test_where_approval_is_required_nothing_is_published_without_it(awaiting: tuple[Floor, str, uuid.UUID]) -> None:
    floor, asked, job_id = awaiting
    assert floor.versions() == [(2, "candidate", False), (1, "published", True)]
    assert floor.request(asked).state is RequestState.AWAITING_APPROVAL
    assert floor.conclude(job_id) == "awaiting_approval"
    for action in ("approve", "refuse"):
        body = {"reason": WHY} if action == "refuse" else None
        found = floor.caller.refused("operator", "POST", f"/v1/jobs/{job_id}/{action}", json=body)
        assert found == (403, "forbidden")
    shown = floor.caller.call("officer", "POST", f"/v1/jobs/{job_id}/approve")
    assert shown["state"] == "published"
    assert floor.versions() == [(2, "published", True), (1, "superseded", False)]
    assert floor.request(asked).state is RequestState.PUBLISHED
    with floor.db.session_factory() as session:
        leaf = json.loads(session.scalars(select(Audit.leaf).where(Audit.event == "job.approved")).one())
    assert leaf["fields"]["key_id"] == str(floor.caller.who["officer"].key_id)


def test_a_refusal_keeps_the_served_version_and_shows_the_requests_to_a_person(
    awaiting: tuple[Floor, str, uuid.UUID],
) -> None:
    floor, asked, job_id = awaiting
    shown = floor.caller.call("officer", "POST", f"/v1/jobs/{job_id}/refuse", json={"reason": WHY})
    assert (shown["state"], shown["error"]["type"], shown["error"]["detail"]) == ("rejected", "refused", WHY)
    assert floor.versions() == [(2, "rejected", False), (1, "published", True)]
    row = floor.request(asked)
    assert (row.state, row.tries, row.completed_at) == (RequestState.NEEDS_ATTENTION, 0, None)
    assert outcome(floor, asked)["result"] == "refused"
    with floor.db.session_factory() as session:
        leaves = session.scalars(select(Audit.leaf)).all()
    assert not any(WHY.encode() in leaf for leaf in leaves)
    assert sum(hashlib.sha256(WHY.encode()).hexdigest().encode() in leaf for leaf in leaves) == 1


@pytest.mark.parametrize("action", ["approve", "refuse"])
def test_only_what_awaits_approval_is_decided(awaiting: tuple[Floor, str, uuid.UUID], action: str) -> None:
    floor, _, job_id = awaiting
    body = {"reason": WHY} if action == "refuse" else None
    missing = floor.caller.refused("officer", "POST", f"/v1/jobs/{uuid.uuid4()}/{action}", json=body)
    assert missing == (404, "not-found")
    floor.caller.call("officer", "POST", f"/v1/jobs/{job_id}/{action}", json=body)
    answer = floor.caller.send("officer", "POST", f"/v1/jobs/{job_id}/{action}", json=body)
    assert (answer.status_code, slug(answer)) == (409, "not-awaiting-approval")


@pytest.mark.parametrize(
    "body", [{}, {"reason": "too short"}, {"reason": "r" * 2001}, {"reason": " " * 20}, {"why": WHY}]
)
def test_a_refusal_needs_a_reason(shared: Floor, body: dict[str, Any]) -> None:
    found = shared.caller.refused("officer", "POST", f"/v1/jobs/{uuid.uuid4()}/refuse", json=body)
    assert found == (422, "unprocessable")


def test_an_approval_that_can_not_be_carried_out_leaves_everything_as_it_was(
    awaiting: tuple[Floor, str, uuid.UUID],
) -> None:
    floor, asked, job_id = awaiting
    with floor.db.session_factory() as session:
        directory = Path(session.scalars(select(Adapter.directory).where(Adapter.version == 2)).one())
    whole = (directory / "adapter_model.safetensors").read_bytes()
    (directory / "adapter_model.safetensors").write_bytes(whole[:-1])
    path = f"/v1/jobs/{job_id}/approve"
    assert floor.caller.refused("officer", "POST", path) == (500, "version-damaged")
    (directory / "adapter_model.safetensors").write_bytes(whole)
    with transaction(floor.db) as session:
        model = session.scalars(select(ServedModel)).one()
        served, model.active_adapter_id = model.active_adapter_id, None
    assert floor.caller.refused("officer", "POST", path) == (409, "alias-moved")
    assert floor.job(job_id).state is JobState.AWAITING_APPROVAL
    assert floor.request(asked).state is RequestState.AWAITING_APPROVAL
    with transaction(floor.db) as session:
        session.scalars(select(ServedModel)).one().active_adapter_id = served
    assert floor.caller.call("officer", "POST", path)["state"] == "published"


def test_a_withdrawn_request_is_nobodys_business_any_more(floor: Floor) -> None:
    gone, stays = floor.ask(1), floor.ask(2, role="other")
    first = floor.order()
    floor.caller.call("requester", "DELETE", f"/v1/requests/{gone}")
    assert floor.job(first).state is JobState.CANCELLED
    with floor.db.session_factory() as session:
        second = session.scalars(select(Job.id).where(Job.state == JobState.QUEUED)).one()
    floor.claim(second)
    floor.evaluate(second, 1)
    floor.conclude(second, NOW + timedelta(seconds=1))
    assert floor.request(gone).state is RequestState.WITHDRAWN
    assert floor.request(stays).state is RequestState.PUBLISHED
