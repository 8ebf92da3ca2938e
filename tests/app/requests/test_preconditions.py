"""ETag, If-Match, If-None-Match of requests and served models: nobody overwrites what they have not seen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db import transaction
from app.preconditions import PreconditionFailed, entity_tag, is_known, require_match
from app.requests import service
from tests.app.service import Floor, slug, until_blocked

MODEL = "/v1/models/people"


@pytest.fixture
def path(floor: Floor) -> str:
    return f"/v1/requests/{floor.ask(1)}"


def tag(floor: Floor, path: str, role: str = "requester") -> str:
    answer = floor.caller.send(role, "GET", path)
    assert answer.json()["etag"] == answer.headers["etag"]
    return answer.headers["etag"]


def states(floor: Floor, path: str) -> Iterator[str]:
    """ETags of a request's whole life, as they are in each of its states."""
    yield tag(floor, path)
    job_id = floor.order()
    yield tag(floor, path)
    token = floor.claim(job_id)
    assert token is not None
    yield tag(floor, path)
    floor.evaluate(job_id, token)
    yield tag(floor, path)
    floor.conclude(job_id)
    yield tag(floor, path)


def test_every_change_shows_and_nothing_else_does(floor: Floor, path: str) -> None:
    assert tag(floor, path) == tag(floor, path, "officer")
    found = list(states(floor, path))
    assert len(set(found)) == len(found) == 5
    assert tag(floor, path) == found[-1]


def test_each_answer_that_shows_one_request_has_its_tag(floor: Floor) -> None:
    body = {"served_model": "people", "domain": "privacy", "forget": [{"passage": "A passage."}]}
    made = floor.caller.send("requester", "POST", "/v1/requests", json=body)
    path = made.headers["location"]
    assert made.headers["etag"] == made.json()["etag"] == tag(floor, path)
    (listed,) = floor.caller.call("requester", "GET", "/v1/requests")["items"]
    assert listed["etag"] == made.headers["etag"]
    gone = floor.caller.send("requester", "DELETE", path, headers={"If-Match": listed["etag"]})
    assert gone.status_code == 200
    assert gone.headers["etag"] == tag(floor, path) != made.headers["etag"]


@pytest.mark.parametrize("path_of", ["request", "model"])
def test_who_has_it_already_gets_no_body(floor: Floor, path: str, path_of: str) -> None:
    address = path if path_of == "request" else MODEL
    known = tag(floor, address)
    for named in (known, f"W/{known}", f'"other", {known}', "*"):
        answer = floor.caller.send("requester", "GET", address, headers={"If-None-Match": named})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", known)
    answer = floor.caller.send("requester", "GET", address, headers={"If-None-Match": '"other"'})
    assert answer.status_code == 200


@pytest.mark.parametrize("named", ['"other"', "W/{tag}", "", '"', "*, {tag}x", "{bare}"])
def test_a_change_on_what_was_not_seen_is_refused_and_does_nothing(floor: Floor, path: str, named: str) -> None:
    known = tag(floor, path)
    header = named.format(tag=known, bare=known.strip('"'))
    answer = floor.caller.send("requester", "DELETE", path, headers={"If-Match": header})
    assert (answer.status_code, slug(answer)) == (412, "precondition-failed")
    assert tag(floor, path) == known


@pytest.mark.parametrize("named", ["*", "{tag}", '"other", {tag}'])
def test_a_change_on_what_was_seen_goes_through(floor: Floor, path: str, named: str) -> None:
    header = named.format(tag=tag(floor, path))
    assert floor.caller.send("requester", "DELETE", path, headers={"If-Match": header}).status_code == 200
    assert floor.request(path.rsplit("/", 1)[1]).state == "withdrawn"


def test_a_batched_request_can_be_withdrawn_as_it_was_seen(floor: Floor, path: str) -> None:
    floor.order()
    header = {"If-Match": tag(floor, path)}
    assert floor.caller.send("requester", "DELETE", path, headers=header).json()["state"] == "withdrawn"


def test_somebody_elses_request_is_not_there_whatever_is_expected_of_it(floor: Floor, path: str) -> None:
    for named in ("*", tag(floor, path), '"other"'):
        assert floor.caller.refused("other", "DELETE", path, headers={"If-Match": named}) == (404, "not-found")


def test_of_two_that_saw_the_same_one_changes_it(floor: Floor, path: str) -> None:
    """The second waits for the first one's transaction and then sees that it came too late."""
    seen, answers = tag(floor, path), []

    def second() -> None:
        answers.append(floor.caller.send("requester", "DELETE", path, headers={"If-Match": seen}).status_code)

    thread = threading.Thread(target=second)
    with transaction(floor.db) as session:
        who = floor.caller.who["requester"]
        service.expect(session, floor.request(path.rsplit("/", 1)[1]).id, who, seen)
        thread.start()
        until_blocked(floor.db, lambda: bool(answers))
        request = floor.request(path.rsplit("/", 1)[1])
        service.withdraw(session, request.id, who, request.received_at)
    thread.join()
    assert answers == [412]


DECISIONS: dict[str, Any] = {
    "hold": {"kind": "scope", "reason": "Which of the accounts is meant?"}, "resume": None,
    "extend": {"reason": "There are very many of them."}, "refuse": {"reason": "Nothing of it is personal."},
    "validate": None, "counter": {"reason": "The work is in the public domain."}, "dismiss": None, "reinstate": {},
}  # fmt: skip


@pytest.mark.parametrize("deed", DECISIONS)
def test_decisions_about_what_was_not_seen_are_refused(floor: Floor, path: str, deed: str) -> None:
    more = {} if DECISIONS[deed] is None else {"json": DECISIONS[deed]}
    before = tag(floor, path)
    answer = floor.caller.send("officer", "POST", f"{path}/{deed}", headers={"If-Match": '"other"'}, **more)
    assert (answer.status_code, slug(answer)) == (412, "precondition-failed")
    assert tag(floor, path) == before


def test_a_decision_about_what_was_seen_shows_the_new_tag(floor: Floor, path: str) -> None:
    floor.order()
    seen = {"If-Match": tag(floor, path)}
    held = floor.caller.send("operator", "POST", f"{path}/hold", headers=seen, json=DECISIONS["hold"])
    assert (held.status_code, held.json()["state"]) == (200, "on_hold")
    assert held.headers["etag"] == tag(floor, path) != seen["If-Match"]


def patch(floor: Floor, named: str) -> Any:
    body = {"policy": {"window_seconds": 5}}
    return floor.caller.send("operator", "PATCH", MODEL, json=body, headers={"If-Match": named})


def test_a_models_policy_is_changed_only_as_it_was_seen(floor: Floor) -> None:
    seen = tag(floor, MODEL)
    changed = patch(floor, seen)
    assert changed.status_code == 200
    assert changed.headers["etag"] == changed.json()["etag"] == tag(floor, MODEL) != seen
    late = patch(floor, seen)
    assert (late.status_code, slug(late)) == (412, "precondition-failed")
    assert patch(floor, "*").status_code == 200
    assert floor.caller.refused("requester", "PATCH", MODEL, json={}, headers={"If-Match": seen})[0] == 403
    assert floor.caller.refused("operator", "PATCH", "/v1/models/no", json={}, headers={"If-Match": "*"})[0] == 404


TAGS = st.integers(0, 2**32 - 1).map(str).map(entity_tag)


@given(tags=st.lists(TAGS, min_size=1, max_size=5), own=TAGS, weak=st.booleans())
def test_headers_name_what_they_list(tags: list[str], own: str, weak: bool) -> None:
    header = ", ".join(f"W/{one}" if weak else one for one in tags)
    assert is_known(header, own) == (own in tags)
    try:
        require_match(header, own)
        matched = True
    except PreconditionFailed:
        matched = False
    assert matched == (own in tags and not weak)
