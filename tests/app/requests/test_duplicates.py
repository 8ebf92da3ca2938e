"""What the same key asks again while it is open is linked, computed once, and lost never."""

from __future__ import annotations

import itertools
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from app.lifecycle import COMPLETED, RequestState
from app.requests import entries as rules
from app.requests.duplicates import fingerprint
from app.requests.schemas import RequestCreate
from app.tables import Audit, BatchMember, Example, Request, RequestDomain
from grail.types import Segment
from tests.app.service import BAD, GOOD, Floor
from tests.fixtures.served import question

R = RequestState
FRESH = itertools.count(10_000, 10)
"""Numbers of facts that no other example of the state machine asks about."""


def standing(floor: Floor, request_ids: Any) -> set[str]:
    """Those of the requests that have a standing retain item."""
    with floor.db.session_factory() as session:
        query = select(Example.request_id).where(Example.standing, Example.request_id.in_(map(uuid.UUID, request_ids)))
        return {str(found) for found in session.scalars(query)}


def test_the_same_again_is_linked_and_says_to_what(floor: Floor) -> None:
    first, again = floor.ask(1), floor.ask(1)
    view = floor.caller.call("requester", "GET", f"/v1/requests/{again}")
    assert (view["state"], view["duplicate_of_id"]) == ("linked", first)
    assert (view["forget_items"], view["retain_items"], view["completed_at"]) == (1, 1, None)
    assert standing(floor, [first, again]) == {first}
    with floor.db.session_factory() as session:
        events = session.scalars(select(Audit.event).where(Audit.subject_id == again).order_by(Audit.id)).all()
    assert events == ["request.received", "request.linked"]


def test_a_third_is_linked_to_the_first_and_not_to_the_second(floor: Floor) -> None:
    first, *others = (floor.ask(1) for _ in range(3))
    assert [str(floor.request(one).duplicate_of_id) for one in others] == [first, first]


@pytest.mark.parametrize(
    "other",
    [{"role": "other"}, {"domain": "copyright"}, {"retain": []}, {"retain": [question(777)]}, {"model": "books"}],
    ids=["key", "domain", "retain nothing", "retain another", "model"],
)
def test_what_is_not_the_same_is_not_linked(floor: Floor, other: dict[str, Any]) -> None:
    floor.register("books")
    floor.ask(1)
    assert floor.request(floor.ask(1, **other)).state == R.RECEIVED


def test_what_is_done_is_not_linked_to(floor: Floor) -> None:
    floor.ask(1)
    floor.work()
    assert floor.request(floor.ask(1)).state == R.RECEIVED


def test_case_order_and_probes_make_no_other_request() -> None:
    def of(domain: str = "privacy", **fields: Any) -> str:
        payload = RequestCreate.model_validate({"served_model": "people", "domain": domain, **fields})
        return fingerprint(RequestDomain(domain), rules.entries(payload, "s"))

    one, two = question(1), question(2)
    loud = {**one, "completion": one["completion"].upper(), "probes": [{"kind": "paraphrase", **question(3)}]}
    assert of(forget=[one, two]) == of(forget=[two, loud])
    assert of(forget=[one], retain=[two]) != of(forget=[two], retain=[one])
    assert of(forget=[one]) != of(forget=[one, two])
    assert of(forget=[one]) != of("copyright", forget=[one])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), min_size=1, max_size=8, unique=True), st.randoms())
def test_any_order_of_items_gives_one_fingerprint(items: list[tuple[bool, int]], random: Any) -> None:
    def of(chosen: list[tuple[bool, int]]) -> str:
        sides: dict[str, Any] = {"forget": [], "retain": []}
        for forget, number in chosen:
            sides["forget" if forget else "retain"].append(question(number))
        payload = RequestCreate.model_validate({"served_model": "people", "domain": "privacy", **sides})
        return fingerprint(RequestDomain.PRIVACY, rules.entries(payload, "s"))

    shuffled = random.sample(items, len(items))
    assert of(items) == of(shuffled)
    assert of(items) != of([*items, (True, 31)])


def test_a_batch_holds_the_first_alone_and_draws_nothing_of_the_linked(floor: Floor) -> None:
    first, again = floor.ask(1), floor.ask(1)
    preview = floor.caller.call("operator", "POST", "/v1/jobs", 200, json={"served_model": "people", "dry_run": True})
    assert (preview["would_batch"], preview["forget_items"], preview["retain_items"]) == ([first], 1, 1)
    floor.order()
    with floor.db.session_factory() as session:
        assert [str(one) for one in session.scalars(select(BatchMember.request_id))] == [first]
    assert floor.request(again).state == R.LINKED


def test_the_linked_is_published_with_the_first_and_as_the_first(floor: Floor) -> None:
    first, again = floor.ask(1), floor.ask(1)
    floor.work(outcomes=dict.fromkeys(floor.forget_items(first), "forgotten"))
    ends = [floor.caller.call("requester", "GET", f"/v1/requests/{one}") for one in (first, again)]
    assert [end["state"] for end in ends] == ["published", "published"]
    assert ends[0]["outcome"] == ends[1]["outcome"] and ends[1]["outcome"]["result"] == "published"
    assert ends[0]["completed_at"] == ends[1]["completed_at"] is not None
    with floor.db.session_factory() as session:
        outcomes = session.scalars(select(Example.outcome).where(Example.segment == Segment.FORGET)).all()
    assert outcomes == ["forgotten", "forgotten"]


def test_when_the_first_is_withdrawn_the_oldest_linked_takes_its_place(floor: Floor) -> None:
    first, second, third = (floor.ask(1) for _ in range(3))
    floor.caller.call("requester", "DELETE", f"/v1/requests/{first}")
    heir, follower = floor.request(second), floor.request(third)
    assert (heir.state, heir.duplicate_of_id) == (R.QUEUED, None)
    assert (follower.state, str(follower.duplicate_of_id)) == (R.LINKED, second)
    assert standing(floor, [first, second, third]) == {second}
    floor.work()
    assert {floor.request(one).state for one in (second, third)} == {R.PUBLISHED}
    assert floor.request(first).state == R.WITHDRAWN


def test_what_the_first_kept_out_stays_out_for_the_linked(floor: Floor) -> None:
    items = [{"domain": "privacy", "subject": "s", **question(1)}]
    floor.caller.call("operator", "PUT", "/v1/models/people/retain-set", json={"items": items})
    first, again = floor.ask(1), floor.ask(1)

    def eraser() -> Any:
        with floor.db.session_factory() as session:
            row = session.scalars(select(Example).where(Example.request_id.is_(None))).one()
            return row.erased_by_request_id and str(row.erased_by_request_id)

    assert eraser() == first
    floor.caller.call("requester", "DELETE", f"/v1/requests/{first}")
    assert eraser() == again
    floor.caller.call("requester", "DELETE", f"/v1/requests/{again}")
    assert eraser() is None


def test_retain_items_of_an_heir_that_somebody_forgets_do_not_stand(floor: Floor) -> None:
    first, again = floor.ask(1), floor.ask(1)
    kept = question(901)
    body = {"served_model": "people", "domain": "privacy", "forget": [kept]}
    eraser = floor.caller.call("other", "POST", "/v1/requests", 202, json=body)["id"]
    assert standing(floor, [first, again]) == set()
    floor.caller.call("requester", "DELETE", f"/v1/requests/{first}")
    assert standing(floor, [first, again]) == set()
    floor.caller.call("other", "DELETE", f"/v1/requests/{eraser}")
    assert standing(floor, [first, again]) == {again}


WHY = {"reason": "The work is the publisher's own."}


def notices(floor: Floor, count: int) -> list[str]:
    """The ids of notices for the same work."""
    policy = {"policy": {"validate_notices": True}}
    floor.caller.call("operator", "PATCH", "/v1/models/people", json=policy)
    return [floor.ask(1, domain="copyright") for _ in range(count)]


def test_a_notice_that_came_before_is_validated_once(floor: Floor) -> None:
    first, again = notices(floor, 2)
    assert [floor.request(one).state for one in (first, again)] == [R.NOTICE, R.LINKED]
    floor.caller.call("officer", "POST", f"/v1/requests/{first}/validate")
    floor.work()
    ends = [floor.request(one) for one in (first, again)]
    assert [end.state for end in ends] == [R.PUBLISHED, R.PUBLISHED]
    assert ends[0].content_until == ends[1].content_until is not None
    for deed, state in (("counter", R.COUNTERED), ("dismiss", R.PUBLISHED)):
        body = {"json": WHY} if deed == "counter" else {}
        floor.caller.call("officer", "POST", f"/v1/requests/{first}/{deed}", **body)
        assert {floor.request(one).state for one in (first, again)} == {state}


@pytest.mark.parametrize("validated", [False, True])
def test_when_a_notice_is_refused_a_person_decides_anew_about_the_next(floor: Floor, validated: bool) -> None:
    first, second, third = notices(floor, 3)
    if validated:
        floor.caller.call("officer", "POST", f"/v1/requests/{first}/validate")
    floor.caller.call("officer", "POST", f"/v1/requests/{first}/refuse", json=WHY)
    assert [floor.request(one).state for one in (first, second, third)] == [R.REFUSED, R.NOTICE, R.LINKED]
    assert str(floor.request(third).duplicate_of_id) == second


def test_what_is_linked_to_a_held_request_waits_with_it(floor: Floor) -> None:
    first, again = floor.ask(1), floor.ask(1)
    hold = {"kind": "scope", "reason": "Which of the accounts is meant?"}
    floor.caller.call("operator", "POST", f"/v1/requests/{first}/hold", json=hold)
    assert floor.request(floor.ask(1)).state == R.LINKED
    floor.caller.call("officer", "POST", f"/v1/requests/{first}/refuse", json=WHY)
    assert floor.request(again).state == R.QUEUED


def test_of_many_at_once_one_is_first(floor: Floor) -> None:
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda _: floor.ask(1), range(6)))
    states = [floor.request(one).state for one in ids]
    assert sorted(states) == [R.LINKED] * 5 + [R.RECEIVED]
    (first,) = (one for one, state in zip(ids, states, strict=True) if state == R.RECEIVED)
    assert {str(floor.request(one).duplicate_of_id) for one in ids if one != first} == {first}


class Duplicates(RuleBasedStateMachine):
    """Two keys ask for two things again and again, withdraw, and jobs end well or badly."""

    requests = Bundle("requests")
    floor: Floor

    def __init__(self) -> None:
        super().__init__()
        self.number = next(FRESH)
        self.asked: dict[str, tuple[str, int]] = {}
        self.followed: set[str] = set()
        """Those that were linked once."""

    @rule(target=requests, owner=st.sampled_from(["requester", "other"]), which=st.integers(0, 1))
    def ask(self, owner: str, which: int) -> str:
        return self.ask_for(owner, which)

    def ask_for(self, owner: str, which: int) -> str:
        made = self.floor.ask(self.number + which, role=owner)
        self.asked[made] = (owner, which)
        return made

    @initialize(target=requests)
    def ask_thrice(self) -> Any:
        return multiple(*(self.ask_for("requester", 0) for _ in range(3)))

    @rule(request=requests)
    def withdraw(self, request: str) -> None:
        answer = self.floor.caller.send(self.asked[request][0], "DELETE", f"/v1/requests/{request}")
        assert answer.status_code in (200, 409), answer.text

    @rule(verdict=st.sampled_from([GOOD, BAD]))
    def work(self, verdict: Any) -> None:
        if any(row.state in (R.RECEIVED, R.QUEUED) for row in self.rows().values()):
            self.floor.work(verdict)

    def rows(self) -> dict[str, Request]:
        with self.floor.db.session_factory() as session:
            query = select(Request).where(Request.id.in_([uuid.UUID(one) for one in self.asked]))
            return {str(row.id): row for row in session.scalars(query)}

    @invariant()
    def whatever_is_open_has_one_first_that_all_others_follow(self) -> None:
        open_: dict[tuple[str, int], list[Request]] = defaultdict(list)
        rows = self.rows()
        for request, row in rows.items():
            if row.state not in COMPLETED:
                open_[self.asked[request]].append(row)
            if row.state is R.LINKED:
                self.followed.add(request)
        for same in open_.values():
            firsts = [row for row in same if row.state is not R.LINKED]
            assert len(firsts) == 1
            assert {row.duplicate_of_id for row in same if row.state is R.LINKED} <= {firsts[0].id}
        for row in rows.values():
            if row.state is R.PUBLISHED and row.duplicate_of_id is not None:
                assert row.outcome == rows[str(row.duplicate_of_id)].outcome

    @invariant()
    def nobody_is_in_a_batch_and_linked(self) -> None:
        with self.floor.db.session_factory() as session:
            query = (
                select(BatchMember.request_id)
                .join(Request, Request.id == BatchMember.request_id)
                .where(Request.state == R.LINKED)
            )
            assert session.scalars(query).all() == []

    @invariant()
    def the_items_to_keep_stand_once(self) -> None:
        ended = (R.LINKED, R.WITHDRAWN)
        wanted = {
            request
            for request, row in self.rows().items()
            if row.state not in ended and not (row.state is R.PUBLISHED and row.duplicate_of_id is not None)
        }
        assert standing(self.floor, self.asked) == wanted

    def teardown(self) -> None:
        for request in reversed(self.asked):
            self.withdraw(request)


def test_no_request_is_lost_or_computed_twice(floor: Floor) -> None:
    machine = type("Machine", (Duplicates,), {"floor": floor})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck),
            derandomize=True, database=None,
        ),
    )  # fmt: skip

