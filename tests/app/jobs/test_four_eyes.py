"""Where two officers are asked, two different ones let a candidate through, and one is enough to turn it down."""

from __future__ import annotations

import json
import threading
import uuid
from typing import Any

import pytest
from sqlalchemy import select, update

from app.auth import Principal, Role
from app.db import transaction
from app.jobs import service as jobs
from app.jobs.errors import AlreadyApproved, NotAwaitingApproval
from app.keys.service import create_key
from app.lifecycle import JobState, RequestState
from app.tables import Approval, Audit, Key
from tests.app.service import NOW, Floor, slug

WHY = "The intervals are too wide to sign off."


def policy(floor: Floor, **fields: Any) -> None:
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": fields})


@pytest.fixture
def awaiting(floor: Floor) -> tuple[Floor, str, uuid.UUID]:
    """A job that two officers have to approve, and its request; `require_approval` is left as it is."""
    policy(floor, approvals_required=2)
    asked = floor.ask(1)
    job_id = floor.work()
    assert floor.job(job_id).state is JobState.AWAITING_APPROVAL
    return floor, asked, job_id


def second_officer(floor: Floor, name: str = "second") -> Principal:
    with transaction(floor.db) as session:
        row, plaintext = create_key(session, name, Role.OFFICER)
    floor.caller.keys[name] = plaintext
    return Principal(row.id, name, Role.OFFICER)


def approve(floor: Floor, job_id: uuid.UUID, role: str, expect: int = 200) -> Any:
    return floor.caller.call(role, "POST", f"/v1/jobs/{job_id}/approve", expect)


def leaves(floor: Floor) -> list[dict[str, Any]]:
    with floor.db.session_factory() as session:
        found = session.scalars(select(Audit.leaf).where(Audit.event == "job.approved").order_by(Audit.id)).all()
    return [json.loads(leaf)["fields"] for leaf in found]


def test_two_different_officers_publish_and_one_does_not(awaiting: tuple[Floor, str, uuid.UUID]) -> None:
    floor, asked, job_id = awaiting
    second_officer(floor)
    assert floor.caller.call("operator", "GET", f"/v1/jobs/{job_id}")["approvals_missing"] == 2
    shown = approve(floor, job_id, "officer")
    assert (shown["state"], shown["approvals_missing"]) == ("awaiting_approval", 1)
    assert floor.versions() == [(2, "candidate", False), (1, "published", True)]
    (listed,) = floor.caller.call("officer", "GET", "/v1/jobs?state=awaiting_approval")["items"]
    assert listed["approvals_missing"] == 1
    shown = approve(floor, job_id, "second")
    assert (shown["state"], shown["approvals_missing"]) == ("published", None)
    assert floor.versions() == [(2, "published", True), (1, "superseded", False)]
    assert floor.request(asked).state is RequestState.PUBLISHED
    first, second = leaves(floor)
    assert (first["missing"], second["missing"]) == (1, 0)
    assert first["key_id"] == str(floor.caller.who["officer"].key_id) != second["key_id"]


def test_the_same_officer_twice_is_refused_with_a_new_key_too(awaiting: tuple[Floor, str, uuid.UUID]) -> None:
    floor, _, job_id = awaiting
    approve(floor, job_id, "officer")
    with transaction(floor.db) as session:
        row, plaintext = create_key(session, "officer's next", Role.OFFICER)
        session.execute(update(Key).where(Key.id == row.id).values(holder_id=floor.caller.who["officer"].key_id))
    floor.caller.keys["rotated"] = plaintext
    for role in ("officer", "rotated"):
        answer = floor.caller.send(role, "POST", f"/v1/jobs/{job_id}/approve")
        assert (answer.status_code, slug(answer)) == (409, "already-approved")
        assert "Another officer" in answer.json()["mend"] and "1 more must approve" in answer.json()["detail"]
    assert floor.job(job_id).state is JobState.AWAITING_APPROVAL
    assert len(leaves(floor)) == 1


@pytest.mark.parametrize("by", ["officer", "second"])
def test_a_refusal_by_either_ends_it(awaiting: tuple[Floor, str, uuid.UUID], by: str) -> None:
    floor, asked, job_id = awaiting
    second_officer(floor)
    approve(floor, job_id, "officer")
    shown = floor.caller.call(by, "POST", f"/v1/jobs/{job_id}/refuse", json={"reason": WHY})
    assert (shown["state"], shown["approvals_missing"]) == ("rejected", None)
    assert floor.request(asked).state is RequestState.NEEDS_ATTENTION
    assert floor.caller.refused("second", "POST", f"/v1/jobs/{job_id}/approve") == (409, "not-awaiting-approval")
    assert floor.versions() == [(2, "rejected", False), (1, "published", True)]


def test_lowering_the_number_after_the_first_approval_publishes_nothing(
    awaiting: tuple[Floor, str, uuid.UUID],
) -> None:
    floor, _, job_id = awaiting
    second_officer(floor)
    approve(floor, job_id, "officer")
    policy(floor, approvals_required=1)
    assert floor.caller.refused("officer", "POST", f"/v1/jobs/{job_id}/approve") == (409, "already-approved")
    assert floor.caller.call("officer", "GET", f"/v1/jobs/{job_id}")["approvals_missing"] == 1
    assert approve(floor, job_id, "second")["state"] == "published"


def test_raising_the_number_while_it_awaits_asks_for_another(floor: Floor) -> None:
    policy(floor, require_approval=True)
    floor.ask(1)
    job_id = floor.work()
    assert floor.caller.call("officer", "GET", f"/v1/jobs/{job_id}")["approvals_missing"] == 1
    policy(floor, approvals_required=2)
    assert approve(floor, job_id, "officer")["approvals_missing"] == 1
    assert approve(floor, job_id, "admin")["state"] == "published", "an admin is an officer, too"


def test_two_approvals_of_one_officer_at_once_count_once(awaiting: tuple[Floor, str, uuid.UUID]) -> None:
    floor, _, job_id = awaiting
    who, ends = floor.caller.who["officer"], []

    def once() -> None:
        try:
            with transaction(floor.db) as session:
                ends.append(str(jobs.approve(session, job_id, who, NOW).state))
        except (AlreadyApproved, NotAwaitingApproval) as error:
            ends.append(error.type)

    threads = [threading.Thread(target=once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["already-approved", "awaiting_approval"]
    with floor.db.session_factory() as session:
        assert len(session.scalars(select(Approval)).all()) == 1


@pytest.mark.parametrize("number", [0, 3, -1, "two", None])
def test_one_or_two_officers_can_be_asked(shared: Floor, number: Any) -> None:
    body = {"policy": {"approvals_required": number}}
    found = shared.caller.refused("operator", "PATCH", "/v1/models/people", json=body)
    assert found == (422, "policy-refused")
