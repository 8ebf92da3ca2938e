"""What is kept of an erased work for its counter-notice goes when its time is over, and nothing else does."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.batches.repository import erased_rows
from app.db import transaction
from app.requests import blanking, notices, reinstatement
from app.requests.errors import ContentGone
from app.tables import Audit, Example, Request, RequestDomain
from app.tables.content import Content
from grail.types import Segment
from tests.app.service import NOW, Floor
from tests.fixtures.served import question

PATH = "/v1/requests"
DAY = timedelta(days=1)
PROBE = {"kind": "paraphrase", "prompt": "Thing 1 is where?", "completion": "In place 1.", "facts": ["place 1"]}
WORK: dict[str, Any] = {**question(1), "probes": [PROBE]}


def texts(floor: Floor, request_id: str, segment: Segment) -> list[Content | None]:
    with floor.db.session_factory() as session:
        found = session.scalars(
            select(Example)
            .where(Example.request_id == uuid.UUID(request_id), Example.segment == segment)
            .order_by(Example.position)
        ).all()
        return [one.content for one in found]


def erased(floor: Floor, *, role: str = "requester") -> str:
    work = floor.ask(1, role=role, domain="copyright", forget=[WORK], retain=[question(9)])
    floor.work()
    return work


def blank(floor: Floor, now: datetime, limit: int = 10) -> int:
    with transaction(floor.db) as session:
        return blanking.blank(session, now, limit)


def until(floor: Floor, work: str) -> datetime:
    found = floor.request(work).content_until
    assert found is not None
    return found


def test_a_works_content_goes_once_its_window_is_over(floor: Floor) -> None:
    work, person = erased(floor), floor.ask(3)
    floor.work()
    kept = texts(floor, work, Segment.RETAIN)
    over = until(floor, work)
    assert blank(floor, over) == 0
    assert all(texts(floor, work, Segment.FORGET))
    assert blank(floor, over + DAY) == 1
    assert texts(floor, work, Segment.FORGET) == [None] * 2
    assert texts(floor, work, Segment.RETAIN) == kept
    assert all(texts(floor, person, Segment.FORGET))
    shown = floor.caller.call("requester", "GET", f"{PATH}/{work}", params={"include": "items"})
    assert datetime.fromisoformat(shown["content_removed_at"]) == over + DAY
    assert shown["contents"]["forget"][0]["completion"] == ""
    assert floor.caller.call("requester", "GET", f"{PATH}/{person}")["content_removed_at"] is None
    assert blank(floor, over + 2 * DAY) == 0
    with floor.db.session_factory() as session:
        leaves = session.scalars(select(Audit.leaf).where(Audit.event == "request.content_removed")).all()
    assert len(leaves) == 1
    assert b'"rows":2' in leaves[0]
    assert b"Thing" not in leaves[0]
    (event,) = floor.caller.call("requester", "GET", f"{PATH}/{work}/events?kinds=request.content_removed")["items"]
    assert event["data"] == {"state": "published", "rows": 2}


def test_what_was_destroyed_is_neither_measured_again_nor_taught_again_and_still_known(floor: Floor) -> None:
    work = erased(floor)
    over = until(floor, work)
    floor.caller.call("operator", "POST", f"{PATH}/{work}/counter", json={"reason": "Of the public domain."})
    over = until(floor, work) + DAY
    model_id = floor.request(work).served_model_id

    def measured() -> int:
        with floor.db.session_factory() as session:
            return len(session.scalars(erased_rows(model_id, RequestDomain.COPYRIGHT, [], 10)).all())

    assert measured() == 1
    assert blank(floor, over) == 1
    assert measured() == 0
    who = floor.caller.who["officer"]
    # A call that came before the end and had to wait for the blanking finds nothing to teach.
    with transaction(floor.db) as session, pytest.raises(ContentGone):
        reinstatement.reinstate(session, uuid.UUID(work), None, who, over - 2 * DAY)
    protection = floor.ask(1, forget=[], retain=[question(1)])
    with floor.db.session_factory() as session:
        (row,) = session.scalars(select(Example).where(Example.request_id == uuid.UUID(protection)))
    assert not row.standing
    made = floor.caller.call("officer", "POST", f"{PATH}/{work}/reinstate", 202, json={"items": [question(1)]})
    assert made["retain_items"] == 1


def test_a_counter_notice_does_not_lengthen_what_is_gone(floor: Floor) -> None:
    work = erased(floor)
    over = until(floor, work)
    assert blank(floor, over + DAY) == 1
    with transaction(floor.db) as session:
        notices.counter(session, uuid.UUID(work), "Late.", floor.caller.who["officer"], NOW)
    assert floor.request(work).content_until == over


def test_what_is_being_taught_again_waits_and_its_copy_goes_with_it(floor: Floor) -> None:
    work = erased(floor)
    floor.caller.call("operator", "POST", f"{PATH}/{work}/counter", json={"reason": "Of the public domain."})
    made = floor.caller.call("officer", "POST", f"{PATH}/{work}/reinstate", 202, json={})["id"]
    over = until(floor, work) + DAY
    assert blank(floor, over) == 0
    floor.caller.call("officer", "DELETE", f"{PATH}/{made}")
    assert blank(floor, over) == 1
    assert texts(floor, made, Segment.RETAIN) == [None] * 2


def test_facts_about_persons_are_measured_again_for_so_long_and_then_go(floor: Floor) -> None:
    person = floor.ask(3)
    assert floor.request(person).content_until is None
    floor.work()
    completed, over = floor.request(person).completed_at, until(floor, person)
    assert completed is not None and over - completed == 90 * DAY
    kept, model_id = texts(floor, person, Segment.RETAIN), floor.request(person).served_model_id

    def measured() -> int:
        with floor.db.session_factory() as session:
            return len(session.scalars(erased_rows(model_id, RequestDomain.PRIVACY, [], 10)).all())

    assert (blank(floor, over), measured()) == (0, 1)
    assert (blank(floor, over + DAY), measured()) == (1, 0)
    assert texts(floor, person, Segment.FORGET) == [None]
    assert texts(floor, person, Segment.RETAIN) == kept


@pytest.mark.parametrize("end", ["refuse", "withdraw"])
def test_what_came_to_nothing_is_kept_for_questions_and_then_goes_whole(floor: Floor, end: str) -> None:
    asked = floor.ask(5)
    if end == "refuse":
        floor.caller.call("officer", "POST", f"{PATH}/{asked}/refuse", json={"reason": "Not about you."})
    else:
        floor.caller.call("requester", "DELETE", f"{PATH}/{asked}")
    completed, over = floor.request(asked).completed_at, until(floor, asked)
    assert completed is not None and over - completed == 30 * DAY
    assert blank(floor, over) == 0 and texts(floor, asked, Segment.FORGET) != [None]
    assert blank(floor, over + DAY) == 1
    for segment in (Segment.FORGET, Segment.RETAIN):
        assert texts(floor, asked, segment) == [None]


def test_what_only_protects_is_kept(floor: Floor) -> None:
    protection = floor.ask(7, forget=[])
    assert floor.request(protection).content_until is None
    assert blank(floor, NOW + 3650 * DAY) == 0


def test_the_policy_says_how_long(floor: Floor) -> None:
    floor.register("others", privacy_content_days=1, ended_content_days=0)
    asked = floor.ask(5, model="others")
    floor.caller.call("requester", "DELETE", f"{PATH}/{asked}")
    assert until(floor, asked) == floor.request(asked).completed_at


def test_so_many_at_a_time_the_longest_due_first(floor: Floor) -> None:
    works = [erased(floor), erased(floor, role="other")]
    with transaction(floor.db) as session:
        session.get_one(Request, uuid.UUID(works[1])).content_until = NOW - DAY
    assert blank(floor, NOW + 365 * DAY, limit=1) == 1
    assert [floor.request(work).content_removed_at is None for work in works] == [True, False]
    assert blank(floor, NOW + 365 * DAY, limit=1) == 1
