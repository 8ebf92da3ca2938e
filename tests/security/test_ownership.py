"""What is somebody else's and what never was are the same to a requester: to the byte of the answer, and to the
statement in the database; by id, list, filter, cursor, condition, duplicate and Idempotency-Key."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from app.auth import KnownKeys
from app.imports.run import run
from app.requests.cursors import cursor_of
from tests.app.service import Floor
from tests.app.test_openapi import PARTS, ROLES, sent
from tests.fixtures.served import question

OWNED = {"request_id", "job_id", "webhook_id", "delivery_id", "subject_request_id", "import_id"}
SHARED_BY_ALL = {"name", "version", "replica_id"}
"""Ids of what every key may see: served models and what belongs to them."""
OFFICERS_ALONE = {"recipient_id"}
"""Ids in routes that no requester opens."""
CONDITIONS: list[dict[str, str]] = [
    {}, {"If-Match": "*"}, {"If-Match": '"1"'}, {"If-None-Match": "*"}, {"Accept": "text/event-stream"},
    {"Accept": "text/html"}, {"Accept": "image/png"}, {"Last-Event-ID": "1-1"}, {"Idempotency-Key": "a-key"},
]  # fmt: skip
QUERIES = ("", "?include=items", "?format=pdf", "?after=latest", "?state=dead")
PASSING = {"x-request-id", "date", "x-opendsr-signature", "ratelimit", "ratelimit-policy"}
ROUTES = sorted(key for key in ROLES if any(f"{{{name}}}" in key[1] for name in OWNED))


def test_every_id_of_a_route_is_somebodys_or_everybodys() -> None:
    assert set(PARTS) == OWNED | SHARED_BY_ALL | OFFICERS_ALONE
    for (_, path), roles in ROLES.items():
        assert "requester" not in roles or not any(f"{{{name}}}" in path for name in OFFICERS_ALONE)


@pytest.fixture(scope="module")
def theirs(shared: Floor) -> dict[str, str]:
    """Ids of things that belong to the requester and not to the other one."""
    made = {"request_id": shared.ask(1, client_reference="theirs"), "job_id": str(shared.work())}
    hook = shared.caller.call("requester", "POST", "/v1/webhooks", 201, json={"url": "https://93.184.215.14/"})
    made["webhook_id"] = hook["id"]
    made["delivery_id"] = shared.caller.call("requester", "POST", f"/v1/webhooks/{hook['id']}/test", 202)["id"]
    file = {"content": b"{", "headers": {"Content-Type": "application/x-ndjson"}}
    made["import_id"] = shared.caller.call("requester", "POST", "/v1/imports", 202, **file)["id"]
    run(shared.db, shared.settings, uuid.UUID(made["import_id"]))
    made["subject_request_id"] = str(uuid.uuid4())
    shared.ask(2, client_reference=made["subject_request_id"])
    return made


@contextmanager
def statements(floor: Floor) -> Iterator[list[str]]:
    """What the service asks the database meanwhile, without the values."""
    heard: list[str] = []

    def hear(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    engine = floor.caller.client.app.state.db.engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(engine, "before_cursor_execute", hear)


def told(floor: Floor, method: str, place: str, role: str = "other", **more: Any) -> tuple[Any, ...]:
    """Everything that a caller could tell two answers apart by."""
    floor.caller.client.app.state.known_keys = KnownKeys()  # type: ignore[attr-defined]  # the same for every call
    with statements(floor) as heard:
        answer = floor.caller.send(role, method, place, **more)
    headers = sorted((name, value) for name, value in answer.headers.items() if name not in PASSING)
    return answer.status_code, answer.content, headers, heard


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_somebody_elses_and_what_never_was_can_not_be_told_apart(
    shared: Floor, theirs: dict[str, str], method: str, path: str
) -> None:
    more = sent(method, path)
    for condition in CONDITIONS:
        for query in QUERIES if method == "GET" and not condition else ("",):
            call = more | {"headers": condition | more.get("headers", {})}
            found = told(shared, method, path.format(**PARTS | theirs) + query, **call)
            never = told(shared, method, path.format(**PARTS) + query, **call)
            assert found == never, f"{condition} {query}"
            assert found[0] in {403, 404, 406, 415, 422} and len(found[3]) >= 1


def test_a_delivery_of_another_webhook_is_none_of_mine(shared: Floor, theirs: dict[str, str]) -> None:
    mine = shared.caller.call("other", "POST", "/v1/webhooks", 201, json={"url": "https://93.184.215.14/"})["id"]
    places = [f"/v1/webhooks/{mine}/deliveries/{one}/replay" for one in (theirs["delivery_id"], uuid.uuid4())]
    first, second = (told(shared, "POST", place) for place in places)
    assert first == second and first[0] == 404


LISTS = ["/v1/requests", "/v1/jobs", "/v1/imports", "/v1/webhooks", "/v1/events"]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("query", ["limit=200", "served_model=people", "client_reference=theirs", "kinds=request.*"])
def test_lists_and_filters_hold_nothing_of_others(
    shared: Floor, theirs: dict[str, str], path: str, query: str
) -> None:
    answer = shared.caller.send("other", "GET", f"{path}?{query}")
    assert answer.status_code == 200
    assert not [name for name, one in theirs.items() if one in answer.text]


@pytest.mark.parametrize("path", ["/v1/requests", "/v1/jobs", "/v1/imports"])
def test_a_forged_cursor_opens_nothing(shared: Floor, theirs: dict[str, str], path: str) -> None:
    """A cursor is no secret: it says where to go on in what the key may see."""
    for one in (theirs["request_id"], theirs["job_id"], theirs["import_id"], str(uuid.UUID(int=2**128 - 1))):
        after = uuid.UUID(int=min(uuid.UUID(one).int + 1, 2**128 - 1))
        page = shared.caller.call("other", "GET", path, params={"cursor": cursor_of(after)})
        assert page["items"] == [] and page["next_cursor"] is None


@pytest.mark.parametrize("after", ["0-0", "1-1", f"{2**63 - 1}-{2**63 - 1}", f"{2**63 - 1}-0"])
def test_a_forged_position_opens_nothing(shared: Floor, theirs: dict[str, str], after: str) -> None:
    page = shared.caller.call("other", "GET", "/v1/events", params={"after": after})
    assert not [item for item in page["items"] if item["request_id"] or item["job_id"]]


def test_the_same_question_of_another_key_is_linked_to_nothing(shared: Floor, theirs: dict[str, str]) -> None:
    """A duplicate across keys, or an Idempotency-Key used by two, would tell that somebody asked before."""
    body = {"served_model": "people", "domain": "privacy", "forget": [question(2)], "retain": [question(902)]}
    alone = {"served_model": "people", "domain": "privacy", "forget": [question(77)], "retain": [question(977)]}
    named = {"Idempotency-Key": "the-same-word"}
    shared.caller.call("requester", "POST", "/v1/requests", 202, json=body, headers=named)
    with statements(shared) as asked_before:
        second = shared.caller.send("other", "POST", "/v1/requests", json=body, headers=named)
    with statements(shared) as never_asked:
        fresh = shared.caller.send("other", "POST", "/v1/requests", json=alone, headers={"Idempotency-Key": "new"})
    assert "idempotency-replayed" not in second.headers
    passing = {"id", "received_at", "due_at", "etag"}
    one, other = ({k: v for k, v in answer.json().items() if k not in passing} for answer in (second, fresh))
    assert one == other and one["duplicate_of_id"] is None and one["state"] == "received"
    assert [s.split(None, 2)[:2] for s in asked_before] == [s.split(None, 2)[:2] for s in never_asked]


def test_whether_somebody_protects_a_content_can_not_be_counted(shared: Floor) -> None:
    """Who forgets what another protects takes it out of the standing set: its size is not for requesters."""
    assert shared.caller.refused("other", "GET", "/v1/models/people/retain-set") == (403, "forbidden")
    assert shared.caller.send("officer", "GET", "/v1/models/people/retain-set").status_code == 200


def test_versions_name_no_job_of_others(shared: Floor, theirs: dict[str, str]) -> None:
    for path in ("/v1/models/people/adapters", "/v1/models/people/adapters/2", "/v1/models", "/v1/models/people"):
        assert theirs["job_id"] not in shared.caller.send("other", "GET", path).text
    assert theirs["job_id"] in shared.caller.send("operator", "GET", "/v1/models/people/adapters/2").text


def test_a_jobs_error_says_nothing_of_the_others_it_was_for(floor: Floor) -> None:
    """Its words may name another person's text by id, files, or what an officer thinks of somebody's request."""
    floor.ask(1)
    floor.ask(2, role="other")
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"require_approval": True}})
    job_id = floor.work()
    why = "Mirela Tavaststjerna's part is not what was agreed."
    floor.caller.call("officer", "POST", f"/v1/jobs/{job_id}/refuse", json={"reason": why})
    for path in (f"/v1/jobs/{job_id}", "/v1/jobs"):
        assert "Mirela" in floor.caller.send("officer", "GET", path).text
        shown = floor.caller.send("requester", "GET", path)
        assert "Mirela" not in shown.text and '"refused"' in shown.text


def test_an_excerpt_of_a_report_holds_no_example_of_others() -> None:
    """Examples of the standing set are other requesters', and those of earlier erasures say what others had erased:
    a subject's id in a report can be found from its name."""
    from app.reports.service import EXCERPT, excerpt

    mine, another = str(uuid.uuid4()), str(uuid.uuid4())
    document = {
        "requests": [{"id": mine}], "gate": {"ok": True, "checks": []}, "limits": [],
        "examples": [
            {"id": "1", "request": mine, "role": "item"},
            {"id": "2", "request": None, "role": "erased", "subject": "0a1b2c3d4e5f"},
            {"id": "3", "request": None, "role": "item", "subject": "1a1b2c3d4e5f"},
            {"id": "4", "request": another, "role": "item"},
        ],
    }  # fmt: skip
    shown = excerpt(document, {mine})
    assert [example["id"] for example in shown["examples"]] == ["1"]
    assert shown["limits"] == [EXCERPT]
    whole = {**document, "examples": document["examples"][:1]}
    assert excerpt(whole, {mine}) == whole
