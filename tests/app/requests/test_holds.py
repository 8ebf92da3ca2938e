"""Decisions about a request's clock and its end, over HTTP and with time as a parameter."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.batches import service as batches
from app.db import transaction
from app.lifecycle import RequestState
from app.requests import clocks, holds, service
from app.requests.errors import NotExtendable
from app.requests.schemas import HoldOrder, RequestCreate
from app.tables import Audit, Example
from grail.types import Segment
from tests.app.service import NOW, Floor
from tests.fixtures.served import question

PATH = "/v1/requests"
REASON = "The name does not match the account's."
IDENTITY = {"kind": "identity", "reason": REASON}
LEGAL = {"kind": "legal", "reason": "Court order 7 of 2026 forbids it."}
DAY = timedelta(days=1)


def decide(floor: Floor, request_id: str, deed: str, role: str = "officer", expect: int = 200, **body: Any) -> Any:
    return floor.caller.call(role, "POST", f"{PATH}/{request_id}/{deed}", expect, json=body or None)


def refused(floor: Floor, request_id: str, deed: str, role: str = "officer", **body: Any) -> tuple[int, str]:
    return floor.caller.refused(role, "POST", f"{PATH}/{request_id}/{deed}", json=body or None)


def shown(floor: Floor, request_id: str, role: str = "requester") -> Any:
    return floor.caller.call(role, "GET", f"{PATH}/{request_id}")


def plan(floor: Floor, now: datetime = NOW + DAY) -> list[uuid.UUID]:
    return batches.plan(floor.db, time_of=lambda _: now)


def test_what_is_on_hold_is_in_no_batch_until_it_is_resumed(floor: Floor) -> None:
    held, other = floor.ask(1), floor.ask(3)
    decide(floor, held, "hold", "operator", **IDENTITY)
    (job_id,) = plan(floor)
    assert [str(member) for member in members(floor, job_id)] == [other]
    assert floor.request(held).state is RequestState.ON_HOLD
    floor.caller.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    decide(floor, held, "resume", "operator")
    (job_id,) = plan(floor)
    assert [str(member) for member in members(floor, job_id)] == [held]


def members(floor: Floor, job_id: uuid.UUID) -> list[uuid.UUID]:
    view = floor.caller.call("operator", "GET", f"/v1/jobs/{job_id}")
    return [uuid.UUID(request_id) for request_id in view["request_ids"]]


@pytest.mark.parametrize("deed", ["hold", "refuse"])
def test_a_batched_request_leaves_its_batch_and_the_others_get_a_new_one(floor: Floor, deed: str) -> None:
    leaving, other = floor.ask(1), floor.ask(3)
    first = floor.order()
    decide(floor, leaving, deed, **(IDENTITY if deed == "hold" else {"reason": REASON}))
    assert str(floor.job(first).state) == "cancelled"
    assert floor.request(other).state is RequestState.BATCHED
    job_id = uuid.UUID(shown(floor, other)["job_id"])
    assert job_id != first
    assert [str(member) for member in members(floor, job_id)] == [other]


@pytest.mark.parametrize("deed", ["hold", "refuse"])
def test_what_a_job_works_on_is_neither_held_nor_refused(floor: Floor, deed: str) -> None:
    request = floor.ask(1)
    job_id = floor.order()
    assert floor.claim(job_id) is not None
    body = IDENTITY if deed == "hold" else {"reason": REASON}
    assert refused(floor, request, deed, **body) == (409, "wrong-state")
    assert floor.request(request).state is RequestState.RUNNING
    assert str(floor.job(job_id).state) == "running"
    floor.caller.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    decide(floor, request, deed, **body)


def test_the_clock_stands_and_then_runs_on_later(floor: Floor) -> None:
    request_id = uuid.UUID(floor.ask(1))
    order = HoldOrder.model_validate(IDENTITY)
    before = floor.request(str(request_id))
    who = floor.caller.who["officer"]
    with transaction(floor.db) as session:
        held = holds.hold(session, request_id, order, who, before.received_at + 3 * DAY)
    assert (held.due_at, held.completed_at) == (before.due_at, None)
    with transaction(floor.db) as session:
        view = service.read(session, request_id, who, before.received_at + 300 * DAY, with_items=False)
    assert view.days_left == held.days_left == (before.due_at - before.received_at).days - 3
    assert not view.overdue
    with transaction(floor.db) as session:
        resumed = holds.resume(session, request_id, who, before.received_at + 10 * DAY)
    assert resumed.due_at == before.due_at + 7 * DAY
    assert (resumed.state, resumed.hold) == (RequestState.QUEUED, None)


def test_an_extension_moves_with_what_the_clock_stands(floor: Floor) -> None:
    request_id, who = uuid.UUID(floor.ask(1)), floor.caller.who["officer"]
    before = floor.request(str(request_id))
    order = HoldOrder.model_validate(IDENTITY)
    with transaction(floor.db) as session:
        extended = holds.extend(session, request_id, REASON, who, before.received_at + DAY)
        holds.hold(session, request_id, order, who, before.received_at + 2 * DAY)
        resumed = holds.resume(session, request_id, who, before.received_at + 5 * DAY)
    assert extended.due_at == clocks.add_months(before.received_at, 3)
    assert extended.extension is not None and extended.extension.first_due_at == before.due_at
    assert resumed.due_at == extended.due_at + 3 * DAY
    assert resumed.extension is not None and resumed.extension.first_due_at == before.due_at + 3 * DAY


def test_an_extension_comes_once_in_time_and_where_the_law_has_one(floor: Floor) -> None:
    who = floor.caller.who["operator"]
    late, twice = floor.ask(1), floor.ask(3, regulation="ccpa")
    with transaction(floor.db) as session, pytest.raises(NotExtendable) as caught:
        holds.extend(session, uuid.UUID(late), REASON, who, NOW + 40 * DAY)
    assert caught.value.extra == {"reason": "too_late"}
    extended = decide(floor, twice, "extend", "operator", reason=REASON)
    assert datetime.fromisoformat(extended["due_at"]) == floor.request(twice).received_at + 90 * DAY
    assert refused(floor, twice, "extend", reason=REASON) == (409, "not-extendable")
    assert refused(floor, floor.ask(5, regulation="none"), "extend", reason=REASON) == (409, "not-extendable")


def test_legal_holds_are_the_officers(floor: Floor) -> None:
    request = floor.ask(1)
    assert refused(floor, request, "hold", "operator", **LEGAL) == (403, "legal-hold-forbidden")
    assert floor.request(request).state is RequestState.RECEIVED
    first = decide(floor, request, "hold", "operator", **IDENTITY)
    legal = decide(floor, request, "hold", **LEGAL)
    assert (legal["hold"]["kind"], legal["hold"]["since"]) == ("legal", first["hold"]["since"])
    assert refused(floor, request, "hold", "operator", **IDENTITY) == (403, "legal-hold-forbidden")
    assert refused(floor, request, "resume", "operator") == (403, "legal-hold-forbidden")
    assert decide(floor, request, "resume")["state"] == "queued"


def test_reasons_are_for_the_owner_and_officers(floor: Floor) -> None:
    request = floor.ask(1)
    decide(floor, request, "extend", "operator", reason="Many accounts to look at.")
    assert decide(floor, request, "hold", "operator", **IDENTITY)["hold"] == shown(floor, request, "operator")["hold"]
    for role, reads in {"requester": True, "officer": True, "admin": True, "operator": False}.items():
        view = shown(floor, request, role)
        assert view["hold"]["reason"] == (REASON if reads else None), role
        assert view["extension"]["reason"] == ("Many accounts to look at." if reads else None), role
        assert floor.caller.call(role, "GET", PATH)["items"] == [view]
    decide(floor, request, "refuse", reason="Nobody of that name is known.")
    assert shown(floor, request)["refusal_reason"] == "Nobody of that name is known."
    assert shown(floor, request, "operator")["refusal_reason"] is None
    assert floor.caller.refused("other", "GET", f"{PATH}/{request}") == (404, "not-found")
    with floor.db.session_factory() as session:
        leaves = session.scalars(select(Audit).where(Audit.subject_id == request).order_by(Audit.id)).all()
    assert [leaf.event for leaf in leaves] == [
        "request.received", "request.extended", "request.held", "request.refused"
    ]  # fmt: skip
    assert not any(b"Nobody" in leaf.leaf or b"account" in leaf.leaf for leaf in leaves)


def test_what_a_held_request_forgets_does_not_stand_until_it_is_refused(floor: Floor) -> None:
    protection = floor.caller.call(
        "requester", "POST", PATH, 202,
        json={"served_model": "people", "domain": "privacy", "retain": [question(1)]},
    )["id"]  # fmt: skip
    request = floor.ask(1)
    decide(floor, request, "hold", **LEGAL)
    assert standing(floor, protection) == [False]
    view = decide(floor, request, "refuse", reason=REASON)
    assert standing(floor, protection) == [True]
    assert standing(floor, request) == [False]
    assert (view["state"], view["hold"], view["days_left"]) == ("refused", None, None)
    assert view["completed_at"] is not None


def standing(floor: Floor, request_id: str) -> list[bool]:
    with floor.db.session_factory() as session:
        query = select(Example.standing).where(
            Example.request_id == uuid.UUID(request_id), Example.segment == Segment.RETAIN
        )
        return list(session.scalars(query))


def test_what_is_on_hold_can_be_withdrawn_and_stays_withdrawn(floor: Floor) -> None:
    request = floor.ask(1)
    decide(floor, request, "hold", **LEGAL)
    view = floor.caller.call("requester", "DELETE", f"{PATH}/{request}")
    assert (view["state"], view["hold"]) == ("withdrawn", None)
    assert refused(floor, request, "resume") == (409, "wrong-state")
    assert refused(floor, request, "hold", **IDENTITY) == (409, "wrong-state")
    assert refused(floor, request, "refuse", reason=REASON) == (409, "wrong-state")
    assert refused(floor, request, "extend", reason=REASON) == (409, "not-extendable")


@pytest.mark.parametrize("reason", ["", "short", " " * 12, "nul \x00 in it .....", "r" * 2001])
def test_a_reason_is_a_sentence(floor: Floor, reason: str) -> None:
    assert refused(floor, floor.ask(1), "refuse", reason=reason) == (422, "unprocessable")


def test_a_request_that_came_by_post_counts_from_its_receipt(floor: Floor) -> None:
    received = (datetime.now(UTC) - 40 * DAY).replace(microsecond=0)
    late = floor.ask(1, received_at=received.isoformat())
    newer = floor.ask(3)
    view = shown(floor, late)
    assert datetime.fromisoformat(view["received_at"]) == received
    assert datetime.fromisoformat(view["due_at"]) == clocks.add_months(received, 1)
    assert view["overdue"] is True and view["days_left"] < 0
    for name, moment, found in (
        ("received_before", received + DAY, [late]), ("received_before", received - DAY, []),
        ("received_after", received + DAY, [newer]), ("received_after", received - DAY, [newer, late]),
    ):  # fmt: skip
        page = floor.caller.call("requester", "GET", PATH, params={name: moment.isoformat()})
        assert [row["id"] for row in page["items"]] == found, (name, moment)


@pytest.mark.parametrize(
    "fields",
    [
        {"received_at": (datetime.now(UTC) + DAY).isoformat()}, {"received_at": "1016-01-01T00:00:00Z"},
        {"received_at": "2026-01-01T00:00:00"}, {"received_at": 1767225600}, {"regulation": "copyright"},
        {"domain": "copyright", "regulation": "gdpr"}, {"domain": "copyright", "regulation": "ccpa"},
        {"regulation": "hipaa"},
    ],
)  # fmt: skip
def test_receipts_and_regulations_that_make_no_sense_are_refused(shared: Floor, fields: dict[str, Any]) -> None:
    body = {"served_model": "people", "domain": "privacy", "forget": [question(1)], **fields}
    found = shared.caller.refused("requester", "POST", PATH, json=body)
    assert found == (422, "unprocessable")


def test_each_domain_has_its_regulation_unless_another_is_named(floor: Floor) -> None:
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"copyright_due_days": 12}})
    expected = {
        ("privacy", None): ("gdpr", None), ("privacy", "ccpa"): ("ccpa", 45), ("privacy", "none"): ("none", 30),
        ("copyright", None): ("copyright", 12), ("copyright", "none"): ("none", 30),
    }  # fmt: skip
    for number, ((domain, named), (regulation, days)) in enumerate(expected.items()):
        view = shown(floor, floor.ask(number, domain=domain, regulation=named))
        assert view["regulation"] == regulation
        received, due = (datetime.fromisoformat(view[name]) for name in ("received_at", "due_at"))
        assert due == (clocks.add_months(received, 1) if days is None else received + days * DAY)


def test_lists_by_due_date_are_paged_and_leave_out_what_stands(floor: Floor) -> None:
    ages = {number: 45 - 3 * number for number in range(1, 12, 2)}
    ids = {
        number: floor.ask(number, received_at=(datetime.now(UTC) - age * DAY).isoformat(), regulation="none")
        for number, age in ages.items()
    }
    fresh, held, done = floor.ask(51, regulation="ccpa"), ids[1], ids[3]
    decide(floor, held, "hold", **IDENTITY)
    floor.caller.call("requester", "DELETE", f"{PATH}/{done}")

    def listed(role: str = "operator", **params: Any) -> list[str]:
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            turned = {"cursor": cursor} if cursor else {}
            page = floor.caller.call(role, "GET", PATH, params={"limit": 2, **params, **turned})
            found += [row["id"] for row in page["items"]]
            cursor = page["next_cursor"]
        return found

    overdue = [ids[5]]  # 30 days of 30 have passed
    assert listed(overdue=True) == overdue
    assert listed(due_within_days=0) == overdue
    assert listed(due_within_days=13) == [ids[5], ids[7], ids[9]]
    assert listed(due_within_days=60) == [ids[5], ids[7], ids[9], ids[11], fresh]
    assert listed(overdue=True, due_within_days=60) == overdue
    assert listed(due_within_days=60, regulation="ccpa") == [fresh]
    assert listed("other", due_within_days=60) == []
    assert listed(overdue=False) == [fresh, *[ids[number] for number in sorted(ids, reverse=True)]]
    assert listed(kind="reinstate") == []
    assert len(listed(kind="erase", regulation="none")) == len(ids)
    newest = floor.caller.call("operator", "GET", PATH, params={"limit": 1})["next_cursor"]
    due = floor.caller.call("operator", "GET", PATH, params={"limit": 1, "due_within_days": 60})["next_cursor"]
    wrong = {"cursor": newest, "due_within_days": 60}, {"cursor": due}
    for params in wrong:
        assert floor.caller.refused("operator", "GET", PATH, params=params) == (400, "bad-cursor")


def test_no_owner_decides_about_its_own_request(floor: Floor) -> None:
    request = floor.ask(1)
    for deed in ("hold", "resume", "extend", "refuse", "validate", "counter", "dismiss", "reinstate"):
        body = IDENTITY if deed == "hold" else {"reason": REASON}
        assert refused(floor, request, deed, "requester", **body) == (403, "forbidden"), deed


def test_a_later_submission_is_checked_against_its_own_time(floor: Floor) -> None:
    """Time is a parameter: what lies in the future of the call is refused, whatever the machine's clock says."""
    payload = RequestCreate.model_validate(
        {"served_model": "people", "domain": "privacy", "forget": [question(1)], "received_at": "2026-03-02T00:00:00Z"}
    )
    with transaction(floor.db) as session, pytest.raises(Exception, match="future"):
        service.submit(session, payload, floor.caller.who["requester"], datetime(2026, 3, 1, tzinfo=UTC), due_days=30)
