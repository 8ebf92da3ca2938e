"""The path of copyright requests: notice, validated, erased, countered, dismissed or reinstated."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.batches import service as batches
from app.db import transaction
from app.lifecycle import RequestState
from app.requests import notices, reinstatement
from app.requests.errors import ContentGone
from app.tables import Audit, Batch, BatchExample, BatchReason, Example, Job, JobKind, Request, RequestKind
from grail.types import Role, Segment
from tests.app.service import BAD, NOW, Floor
from tests.fixtures.contents import content_of
from tests.fixtures.served import question

PATH = "/v1/requests"
REASON = "The work is in the public domain."
DAY = timedelta(days=1)
PROBE = {"kind": "paraphrase", "prompt": "Thing 1 is where?", "completion": "In place 1.", "facts": ["place 1"]}


def decide(floor: Floor, request_id: str, deed: str, role: str = "officer", expect: int = 200, **body: Any) -> Any:
    return floor.caller.call(role, "POST", f"{PATH}/{request_id}/{deed}", expect, json=body)


def refused(floor: Floor, request_id: str, deed: str, role: str = "officer", **body: Any) -> tuple[int, str]:
    return floor.caller.refused(role, "POST", f"{PATH}/{request_id}/{deed}", json=body)


def state(floor: Floor, request_id: str) -> str:
    return str(floor.request(request_id).state)


def erased(floor: Floor, *numbers: int, **more: Any) -> str:
    """A work that was erased."""
    request = floor.ask(*numbers, domain="copyright", **more)
    floor.work()
    assert state(floor, request) == "published"
    return request


def countered(floor: Floor, *numbers: int, **more: Any) -> str:
    request = erased(floor, *numbers, **more)
    decide(floor, request, "counter", "operator", reason=REASON)
    return request


def reinstate(floor: Floor, request_id: str, **body: Any) -> str:
    return str(decide(floor, request_id, "reinstate", expect=202, **body)["id"])


def rows(floor: Floor, request_id: str, *, segment: Segment | None = None) -> list[Example]:
    with floor.db.session_factory() as session:
        query = select(Example).where(Example.request_id == uuid.UUID(request_id)).order_by(Example.position)
        return [row for row in session.scalars(query) if segment is None or row.segment is segment]


def protect(floor: Floor, number: int) -> str:
    body = {"served_model": "people", "domain": "copyright", "retain": [question(number)]}
    return str(floor.caller.call("other", "POST", PATH, 202, json=body)["id"])


def policy(floor: Floor, **fields: Any) -> None:
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": fields})


def plan(floor: Floor) -> list[uuid.UUID]:
    return batches.plan(floor.db, time_of=lambda _: NOW + DAY)


def test_a_notice_is_batched_once_an_officer_has_validated_it(floor: Floor) -> None:
    policy(floor, validate_notices=True)
    notice, private = floor.ask(1, domain="copyright"), floor.ask(3)
    assert (state(floor, notice), state(floor, private)) == ("notice", "received")
    protection = floor.caller.call(
        "requester", "POST", PATH, 202, json={"served_model": "people", "domain": "copyright", "retain": [question(5)]}
    )
    assert protection["state"] == "standing"
    (job_id,) = plan(floor)
    assert state(floor, notice) == "notice"
    floor.caller.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    assert decide(floor, notice, "validate")["state"] == "queued"
    assert refused(floor, notice, "validate") == (409, "wrong-state")
    assert len(plan(floor)) == 1
    assert state(floor, notice) == "batched"


def test_a_notice_that_was_held_is_a_notice_again(floor: Floor) -> None:
    policy(floor, validate_notices=True)
    notice = floor.ask(1, domain="copyright")
    decide(floor, notice, "hold", kind="scope", reason="Which edition is meant?")
    assert refused(floor, notice, "validate") == (409, "wrong-state")
    assert decide(floor, notice, "resume")["state"] == "notice"
    policy(floor, validate_notices=False)
    decide(floor, notice, "hold", kind="scope", reason="Which edition is meant?")
    assert decide(floor, notice, "resume")["state"] == "notice"


def test_a_refused_notice_gives_back_what_it_took_out(floor: Floor) -> None:
    policy(floor, validate_notices=True)
    protection = protect(floor, 1)
    notice = floor.ask(1, domain="copyright")
    assert not rows(floor, protection)[0].standing
    assert decide(floor, notice, "refuse", reason=REASON)["state"] == "refused"
    assert rows(floor, protection)[0].standing


def test_an_erased_work_is_kept_for_a_counter_notice(floor: Floor) -> None:
    policy(floor, counter_notice_days=20)
    work, person = floor.ask(1, domain="copyright"), floor.ask(3)
    floor.work()
    assert floor.request(work).content_until == NOW + 20 * DAY
    assert floor.request(person).content_until == NOW + 90 * DAY, "for another reason, and as long as the policy says"
    assert refused(floor, person, "counter", reason=REASON) == (409, "not-counterable")
    completed = floor.request(work).completed_at
    view = decide(floor, work, "counter", "operator", reason=REASON)
    assert (view["state"], view["days_left"]) == ("countered", None)
    assert floor.request(work).completed_at == completed
    assert view["counter"]["reason"] is None
    shown = floor.caller.call("requester", "GET", f"{PATH}/{work}")
    assert shown["counter"]["reason"] == REASON
    # A counter-notice in time keeps the content for another window; one that comes late brings nothing back.
    kept = floor.request(work).content_until
    assert kept is not None and kept > NOW + 20 * DAY
    decide(floor, work, "dismiss")
    with transaction(floor.db) as session:
        notices.counter(session, uuid.UUID(work), REASON, floor.caller.who["officer"], kept + DAY)
    assert floor.request(work).content_until == kept


def test_a_dismissed_counter_notice_leaves_the_work_erased(floor: Floor) -> None:
    work = countered(floor, 1)
    completed = floor.request(work).completed_at
    view = decide(floor, work, "dismiss")
    assert view["state"] == "published"
    assert floor.request(work).completed_at == completed
    assert refused(floor, work, "dismiss") == (409, "wrong-state")
    assert refused(floor, work, "reinstate") == (409, "wrong-state")


def test_a_work_is_taught_again_by_a_job_of_its_own(floor: Floor) -> None:
    protection = protect(floor, 1)
    first = {**question(1), "probes": [PROBE]}
    work = countered(floor, 1, forget=[first, question(2)])
    other = floor.ask(7)
    answer = floor.caller.send("officer", "POST", f"{PATH}/{work}/reinstate", json={})
    made = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"{PATH}/{made['id']}")
    assert (made["kind"], made["state"], made["original_id"]) == ("reinstate", "queued", work)
    assert (made["forget_items"], made["retain_items"], made["probes"]) == (0, 2, 1)
    taught = rows(floor, made["id"])
    assert [(row.segment, row.role, row.standing) for row in taught] == [
        (Segment.RETAIN, Role.ITEM, False), (Segment.RETAIN, Role.PARAPHRASE, False),
        (Segment.RETAIN, Role.ITEM, False),
    ]  # fmt: skip
    assert taught[1].parent_id == taught[0].id
    gone = rows(floor, work, segment=Segment.FORGET)
    assert [row.content_digest for row in taught] == [row.content_digest for row in gone]
    reinstatement_ends(floor, made["id"], other)
    view = floor.caller.call("requester", "GET", f"{PATH}/{work}")
    assert (view["state"], state(floor, made["id"])) == ("reinstated", "published")
    assert view["completed_at"] is not None
    assert rows(floor, protection)[0].standing
    assert [row.standing for row in rows(floor, made["id"])] == [True, False, True]
    assert floor.request(made["id"]).content_until is None
    # Nothing forgets it any more: it can be protected.
    assert rows(floor, protect(floor, 2))[0].standing


def reinstatement_ends(floor: Floor, reinstatement_id: str, other: str) -> None:
    """The older request to erase goes first, the one to reinstate then alone, in a job of its kind."""
    with transaction(floor.db) as session:
        session.get_one(Request, uuid.UUID(reinstatement_id)).due_at = floor.request(other).due_at - DAY
    job_id = floor.order()
    job = floor.job(job_id)
    assert (job.kind, job.due_at) == (JobKind.REINSTATE, floor.request(reinstatement_id).due_at)
    assert (state(floor, reinstatement_id), state(floor, other)) == ("batched", "received")
    token = floor.claim(job_id)
    assert token is not None
    floor.evaluate(job_id, token)
    floor.conclude(job_id)


def test_while_it_is_asked_for_the_original_stays_in_force(floor: Floor) -> None:
    work = countered(floor, 1)
    made = reinstate(floor, work)
    assert state(floor, work) == "countered"
    assert not rows(floor, protect(floor, 1))[0].standing
    assert refused(floor, work, "reinstate") == (409, "being-reinstated")
    assert refused(floor, work, "dismiss") == (409, "being-reinstated")
    assert floor.caller.call("officer", "GET", PATH, params={"kind": "reinstate"})["items"][0]["id"] == made
    floor.caller.call("officer", "DELETE", f"{PATH}/{made}")
    assert state(floor, work) == "countered"
    assert decide(floor, work, "dismiss")["state"] == "published"


def test_a_rejected_candidate_leaves_both_where_they_were(floor: Floor) -> None:
    work = countered(floor, 1)
    made = reinstate(floor, work)
    floor.work(BAD)
    assert (state(floor, work), state(floor, made)) == ("countered", "queued")


def test_content_is_kept_until_the_window_ends_and_may_be_sent_anew(floor: Floor) -> None:
    work = countered(floor, 1, 2)
    after = (floor.request(work).content_until or NOW) + DAY
    who = floor.caller.who["officer"]
    with transaction(floor.db) as session, pytest.raises(ContentGone):
        reinstatement.reinstate(session, uuid.UUID(work), None, who, after)
    with transaction(floor.db) as session:
        session.get_one(Request, uuid.UUID(work)).content_until = datetime.now(UTC) - DAY
    assert refused(floor, work, "reinstate") == (409, "content-gone")
    loud = {**question(1), "completion": question(1)["completion"].upper()}
    made = reinstate(floor, work, items=[loud, question(2)])
    taught = [content_of(floor.db, row).completion for row in rows(floor, made)]
    assert taught == [loud["completion"], question(2)["completion"]]


@pytest.mark.parametrize(
    ("items", "fields"),
    [
        ([question(1)], ["items"]), ([question(1), question(2), question(3)], ["items.2"]),
        ([question(3)], ["items.0", "items"]),
    ],
)  # fmt: skip
def test_nothing_but_what_was_erased_is_taught_again(floor: Floor, items: list[Any], fields: list[str]) -> None:
    work = countered(floor, 1, 2)
    answer = floor.caller.send("officer", "POST", f"{PATH}/{work}/reinstate", json={"items": items})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:grail:problem:not-what-was-erased")
    assert [error["field"] for error in answer.json()["errors"]] == fields
    assert "place" not in answer.text


def test_what_somebody_else_wants_erased_is_not_taught_again(floor: Floor) -> None:
    work = countered(floor, 1, 2)
    floor.ask(2, role="other")
    assert refused(floor, work, "reinstate") == (409, "erased-by-another")
    with floor.db.session_factory() as session:
        query = select(Request).where(Request.kind == RequestKind.REINSTATE)
        assert session.scalars(query).all() == []


def test_an_erasure_asked_for_meanwhile_wins(floor: Floor) -> None:
    work = countered(floor, 1)
    made = reinstate(floor, work)
    eraser = floor.ask(1, role="other")
    floor.order()
    assert (state(floor, made), state(floor, eraser)) == ("needs_attention", "batched")


def test_an_erasure_asked_for_while_it_is_taught_keeps_it_out_of_the_standing_set(floor: Floor) -> None:
    protection = protect(floor, 1)
    work = countered(floor, 1)
    made = reinstate(floor, work)
    job_id = floor.order()
    token = floor.claim(job_id)
    assert token is not None
    eraser = floor.ask(1, role="other")
    floor.evaluate(job_id, token)
    floor.conclude(job_id)
    assert state(floor, work) == "reinstated"
    assert not rows(floor, made)[0].standing
    kept_out = rows(floor, protection)[0]
    assert (kept_out.standing, kept_out.erased_by_request_id) == (False, uuid.UUID(eraser))


def test_duplicates_share_the_counter_notice(floor: Floor) -> None:
    first, second = floor.ask(1, domain="copyright"), floor.ask(1, domain="copyright")
    floor.work()
    with transaction(floor.db) as session:
        session.get_one(Request, uuid.UUID(second)).duplicate_of_id = uuid.UUID(first)
    decide(floor, first, "counter", reason=REASON)
    assert (state(floor, first), state(floor, second)) == ("countered", "countered")
    decide(floor, first, "dismiss")
    assert (state(floor, first), state(floor, second)) == ("published", "published")
    decide(floor, first, "counter", reason=REASON)
    reinstate(floor, first)
    floor.work()
    assert (state(floor, first), state(floor, second)) == ("reinstated", "reinstated")


def test_a_reinstatement_needs_no_retain_data_and_does_not_wait_with_those_that_do(floor: Floor) -> None:
    work = countered(floor, 1)
    policy(floor, unlearn={"method": "grad_diff_general"})  # of which nothing stands
    made = reinstate(floor, work)
    stuck = floor.ask(3, received_at=(NOW - 9 * DAY).isoformat())
    assert floor.request(stuck).due_at < floor.request(made).due_at
    (job_id,) = plan(floor)
    assert (state(floor, made), state(floor, stuck)) == ("batched", "queued")
    with floor.db.session_factory() as session:
        reason = session.scalars(select(Batch.reason).join(Job, Job.batch_id == Batch.id).where(Job.id == job_id)).one()
    assert reason is BatchReason.AGE


def test_what_stands_is_taught_beside_it_and_what_others_erased_is_held(floor: Floor) -> None:
    others = erased(floor, 11)
    first, second = floor.ask(1, domain="copyright"), floor.ask(1, domain="copyright")
    floor.work()
    with transaction(floor.db) as session:
        session.get_one(Request, uuid.UUID(second)).duplicate_of_id = uuid.UUID(first)
    decide(floor, first, "counter", reason=REASON)
    reinstate(floor, first)
    job_id = floor.order()
    with floor.db.session_factory() as session:
        query = (
            select(Example)
            .join(BatchExample, BatchExample.example_id == Example.id)
            .join(Job, Job.batch_id == BatchExample.batch_id)
            .where(Job.id == job_id)
        )
        drawn = session.scalars(query).all()
    assert {str(row.request_id) for row in drawn if row.segment is Segment.FORGET} == {others}
    kept = [row for row in drawn if row.segment is Segment.RETAIN]
    assert len(kept) == 2 and all(row.standing for row in kept)


def test_the_trail_tells_the_whole_path_without_a_word_of_it(floor: Floor) -> None:
    work = countered(floor, 1)
    reinstate(floor, work)
    floor.work()
    with floor.db.session_factory() as session:
        leaves = session.scalars(select(Audit).where(Audit.subject_id == work).order_by(Audit.id)).all()
    assert [leaf.event.removeprefix("request.") for leaf in leaves] == [
        "received", "batched", "running", "evaluated", "published", "countered", "reinstatement_asked", "reinstated"
    ]  # fmt: skip
    assert not any(b"public domain" in leaf.leaf or b"place" in leaf.leaf for leaf in leaves)
    assert floor.request(work).state is RequestState.REINSTATED
