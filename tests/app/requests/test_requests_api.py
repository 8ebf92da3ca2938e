"""Requests over HTTP: every success, every documented error, and who sees what."""

from __future__ import annotations

import base64
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.db import Database, transaction
from app.lifecycle import RequestState
from app.main import create_app
from app.requests import clocks, service
from app.tables import Audit, Example, Request
from grail.types import Role, Segment
from tests.fixtures.served import add_model, question

PATH = "/v1/requests"
SOME_ID = uuid.UUID(int=7, version=4)


@pytest.fixture(autouse=True)
def model(db: Database, tmp_path: Path) -> None:
    with transaction(db) as session:
        add_model(session, tmp_path)
        add_model(session, tmp_path, "books")


@pytest.fixture
def post(client: TestClient, keys):
    def send(key: str = "requester", expect: int = 202, **fields: Any) -> dict[str, Any]:
        body = {"served_model": "people", "domain": "privacy", **fields}
        answer = client.post(PATH, json=body, headers=keys.header(key))
        assert answer.status_code == expect, answer.text
        return answer.json()

    return send


@pytest.fixture
def get(client: TestClient, keys):
    def send(path: str, key: str = "requester", expect: int = 200, **params: Any) -> dict[str, Any]:
        answer = client.get(path, params=params, headers=keys.header(key))
        assert answer.status_code == expect, answer.text
        return answer.json()

    return send


def slug(problem: dict[str, Any]) -> str:
    return problem["type"].removeprefix("urn:grail:problem:")


def test_a_request_is_there_with_its_clock_once_it_is_answered(client, keys, db):
    probe = {"kind": "paraphrase", "prompt": "Thing 1 is where?", "completion": "In place 1.", "facts": ["place 1"]}
    body = {
        "served_model": "people",
        "domain": "privacy",
        "forget": [question(1, facts=["place 1"], probes=[probe]), {"passage": "A bare passage."}],
        "retain": [question(2)],
        "subject_reference": "case 7",
        "legal_basis": "Art. 17",
        "client_reference": "ticket 1",
        "note": "please",
    }
    answer = client.post(PATH, json=body, headers=keys.header("requester"))
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["location"] == f"{PATH}/{made['id']}"
    assert made["state"] == "received"
    assert (made["forget_items"], made["retain_items"], made["probes"]) == (2, 1, 1)
    received, due = (datetime.fromisoformat(made[name]) for name in ("received_at", "due_at"))
    assert due == clocks.add_months(received, 1)
    assert made["days_left"] in ((due - received).days - 1, (due - received).days)
    assert (made["regulation"], made["kind"], made["overdue"], made["hold"]) == ("gdpr", "erase", False, None)
    assert (made["tries"], made["outcome"], made["job_id"], made["completed_at"]) == (0, None, None, None)
    with db.session_factory() as session:
        rows = session.scalars(select(Example).order_by(Example.position)).all()
        assert [(r.segment, r.role, r.standing) for r in rows] == [
            (Segment.FORGET, Role.ITEM, False),
            (Segment.FORGET, Role.PARAPHRASE, False),
            (Segment.FORGET, Role.ITEM, False),
            (Segment.RETAIN, Role.ITEM, True),
        ]
        assert {r.content.subject for r in rows} == {"case 7"}
        assert rows[1].parent_id == rows[0].id
        leaves = session.scalars(select(Audit).where(Audit.event == "request.received")).all()
        assert [leaf.subject_id for leaf in leaves] == [made["id"]]
        assert not any(b"place" in leaf.leaf or b"case 7" in leaf.leaf for leaf in leaves)


def test_retain_items_alone_stand_at_once(post, db):
    made = post(retain=[question(1), question(2)])
    assert (made["state"], made["days_left"]) == ("standing", None)
    assert made["completed_at"] is not None
    with db.session_factory() as session:
        assert session.scalars(select(Example.standing)).all() == [True, True]
        assert session.scalars(select(Audit.event).where(Audit.subject_id == made["id"])).all() == ["request.standing"]


def test_items_without_any_subject_get_one_of_their_request(post, db):
    made = post(forget=[question(1)])
    with db.session_factory() as session:
        assert [r.content.subject for r in session.scalars(select(Example))] == [f"request-{made['id']}"]


@pytest.mark.parametrize("key", ["requester", "operator", "officer", "admin"])
def test_every_role_may_ask(post, key):
    assert post(key, forget=[question(1)])["state"] == "received"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/{SOME_ID}"), ("DELETE", f"{PATH}/{SOME_ID}")],
)
def test_nobody_asks_without_a_key(client, method, path):
    answer = client.request(method, path, json={"served_model": "people"})
    assert (answer.status_code, slug(answer.json())) == (401, "unauthorised")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_an_unknown_model_is_answered_with_the_known_ones(post):
    problem = post(expect=422, served_model="poeple", forget=[question(1)])
    assert slug(problem) == "unknown-served-model"
    assert problem["known"] == ["books", "people"]
    assert "people" in problem["detail"]


def test_an_unknown_domain_is_answered_with_the_known_ones(post):
    problem = post(expect=422, domain="secrets", forget=[question(1)])
    assert "privacy" in problem["detail"]
    assert "copyright" in problem["detail"]


def test_a_request_for_nothing_is_refused(post):
    assert slug(post(expect=422)) == "nothing-asked"


def test_a_text_longer_than_the_context_is_refused_with_by_how_much(post):
    long = {"prompt": "Who?", "completion": " ".join(["word"] * 70)}
    problem = post(expect=422, forget=[question(1), long], retain=[question(2)])
    assert slug(problem) == "text-too-long"
    # Template "Q : {Who ?} A :" is 6 tokens, 70 words, one end: 77 of 64.
    assert problem["errors"] == [{"field": "forget.1", "problem": "77 tokens, 13 more than the model's context of 64"}]
    assert problem["context_tokens"] == 64


def test_an_item_to_forget_and_to_keep_is_refused_with_the_pair(post, db):
    same = {**question(1), "completion": "THING 1  is in place 1."}
    problem = post(expect=422, forget=[question(2), question(1)], retain=[same])
    assert slug(problem) == "forget-and-retain"
    assert problem["pairs"] == [["forget.1", "retain.0"]]
    with db.session_factory() as session:
        assert session.scalars(select(Request)).all() == []


def test_an_item_twice_is_refused(post):
    problem = post(expect=422, forget=[question(1), question(2), question(1)])
    assert slug(problem) == "duplicate-item"
    assert problem["errors"][0]["field"] == "forget.2"


def test_a_fact_that_its_text_does_not_hold_is_refused(post):
    problem = post(expect=422, forget=[question(1, facts=["place 1", "Oulu"])])
    assert slug(problem) == "fact-not-in-text"
    assert problem["errors"][0]["field"] == "forget.0.facts.1"
    assert "Oulu" not in str(problem)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"forget": [{"prompt": "p?"}]}, "forget.0"),
        (
            {"forget": [question(1, probes=[{"kind": "guess", "prompt": "p", "completion": "c"}])]},
            "forget.0.probes.0.kind",
        ),
        ({"forget": [question(1)], "priority": 1}, "priority"),
        ({"forget": [question(1)], "note": "n" * 2001}, "note"),
        ({"forget": [question(1)], "client_reference": "r" * 201}, "client_reference"),
        ({"forget": [{"passage": "p" * 20_001}]}, "forget.0.passage"),
        ({"forget": [question(number) for number in range(501)]}, "forget"),
        ({"forget": [question(1, facts=["place 1"] * 21)]}, "forget.0.facts"),
        ({"forget": [{"passage": "nul \x00"}]}, "forget.0.passage"),
    ],
)
def test_each_bound_and_shape_is_refused_by_its_field(post, fields, field):
    problem = post(expect=422, **fields)
    assert [error["field"] for error in problem["errors"]] == [field]


def test_bodies_that_are_no_json_or_too_large_are_refused(client, keys, settings):
    header = keys.header("requester") | {"Content-Type": "application/json"}
    assert client.post(PATH, content=b"{", headers=header).status_code == 400
    assert client.post(PATH, content=b" " * (settings.max_body_bytes + 1), headers=header).status_code == 413


def test_a_missing_tokenizer_takes_nothing_in(post, db, tmp_path):
    (tmp_path / "base" / "tokenizer.json").unlink()
    assert slug(post(expect=503, forget=[question(1)])) == "tokeniser-missing"
    with db.session_factory() as session:
        assert session.scalars(select(Request)).all() == []


def test_somebody_elses_request_and_one_that_never_was_give_the_same_answer(client, keys, post, get):
    made = post(forget=[question(1)])
    for method in ("GET", "DELETE"):
        answers = [
            client.request(method, f"{PATH}/{identity}", headers=keys.header("other"))
            for identity in (made["id"], uuid.uuid4())
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json() == answers[1].json()
    assert get(PATH, "other")["items"] == []
    assert get(PATH, "requester")["items"] == [made | {"days_left": get(f"{PATH}/{made['id']}")["days_left"]}]
    for key in ("operator", "officer", "admin"):
        assert get(f"{PATH}/{made['id']}", key)["id"] == made["id"]
        assert [row["id"] for row in get(PATH, key)["items"]] == [made["id"]]


def test_texts_are_shown_to_the_owner_and_the_officer_only(post, get):
    probe = {"kind": "keep", "prompt": "Who made thing 1?", "completion": "Ann did.", "facts": ["Ann"]}
    made = post(
        forget=[question(1, probes=[probe], subject="thing one"), {"passage": "A passage."}],
        retain=[question(2)],
        subject_reference="case 7",
        note="please",
    )
    path = f"{PATH}/{made['id']}"
    assert get(path)["contents"] is None
    assert "place" not in str(get(PATH)) + str(get(path))
    for key in ("requester", "officer", "admin"):
        contents = get(path, key, include="items")["contents"]
        assert (contents["subject_reference"], contents["note"]) == ("case 7", "please")
        first, passage = contents["forget"]
        assert (first["prompt"], first["subject"], first["outcome"]) == (question(1)["prompt"], "thing one", None)
        assert [(p["kind"], p["prompt"], p["facts"]) for p in first["probes"]] == [
            ("keep", "Who made thing 1?", ["Ann"])
        ]
        assert (passage["prompt"], passage["completion"], passage["subject"]) == ("", "A passage.", "case 7")
        assert [row["completion"] for row in contents["retain"]] == [question(2)["completion"]]
    assert slug(get(path, "operator", 403, include="items")) == "contents-forbidden"
    get(path, expect=422, include="everything")


def test_pages_follow_each_other_without_gap_or_repetition(post, get):
    ids = [post(forget=[question(1)])["id"] for _ in range(5)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for expected in (2, 2, 1):
        page = get(PATH, limit=2, **cursor)
        assert len(page["items"]) == expected
        seen += [row["id"] for row in page["items"]]
        cursor = {"cursor": page["next_cursor"]}
    assert page["next_cursor"] is None
    assert seen == sorted(ids, reverse=True)


def test_a_page_is_not_disturbed_by_what_comes_in_meanwhile(post, get):
    ids = sorted(post(forget=[question(1)])["id"] for _ in range(3))
    first = get(PATH, limit=2)
    post(forget=[question(1)])
    second = get(PATH, limit=2, cursor=first["next_cursor"])
    assert [row["id"] for row in first["items"] + second["items"]] == ids[::-1]


def test_lists_are_narrowed_by_each_filter(post, get):
    one = post(forget=[question(1)], client_reference="a")["id"]
    two = post(domain="copyright", forget=[question(1)], client_reference="b")["id"]
    three = post("other", served_model="books", retain=[question(1)], client_reference="a")["id"]
    now = datetime.now(UTC)

    def ids(key: str = "operator", **params: Any) -> set[str]:
        return {row["id"] for row in get(PATH, key, **params)["items"]}

    assert ids() == {one, two, three}
    assert ids(state="received") == {one, two}
    assert ids(state="standing") == {three}
    assert ids(domain="copyright") == {two}
    assert ids(served_model="books") == {three}
    assert ids(served_model="nowhere") == set()
    assert ids(client_reference="a") == {one, three}
    assert ids("requester", client_reference="a") == {one}
    assert ids(client_reference="a", domain="privacy", state="received", served_model="people") == {one}
    assert ids(received_after=(now - timedelta(minutes=1)).isoformat()) == {one, two, three}
    assert ids(received_after=(now + timedelta(minutes=1)).isoformat()) == set()
    assert ids(received_before=(now + timedelta(minutes=1)).isoformat()) == {one, two, three}
    assert ids(received_before=(now - timedelta(minutes=1)).isoformat()) == set()
    assert ids(received_before=(now - timedelta(days=1)).isoformat()) == set()
    assert ids(received_before="1600-01-01T00:00:00Z") == set()


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 201},
        {"state": "lost"},
        {"domain": "secrets"},
        {"received_after": "2026-01-01T00:00:00"},
        {"received_after": "yesterday"},
        {"served_model": "UPPER"},
        {"client_reference": "r" * 201},
        {"client_reference": "\x00"},
    ],
)
def test_filters_that_make_no_sense_are_refused(get, params):
    assert slug(get(PATH, expect=422, **params)) == "unprocessable"


@pytest.mark.parametrize("cursor", ["x", "AAAA", base64.urlsafe_b64encode(b"\x02" + b"0" * 16).decode()])
def test_a_foreign_cursor_is_refused(get, cursor):
    assert slug(get(PATH, expect=400, cursor=cursor)) == "bad-cursor"


def test_an_id_that_is_none_is_refused(client, keys):
    for method in ("GET", "DELETE"):
        assert client.request(method, f"{PATH}/42", headers=keys.header("requester")).status_code == 422


def test_a_pending_request_is_withdrawn_once(client, keys, post, get):
    made = post(forget=[question(1)])
    path = f"{PATH}/{made['id']}"
    answer = client.delete(path, headers=keys.header("requester"))
    assert (answer.status_code, answer.json()["state"]) == (200, "withdrawn")
    assert (get(path)["state"], get(path)["days_left"]) == ("withdrawn", None)
    again = client.delete(path, headers=keys.header("requester"))
    assert (again.status_code, slug(again.json()), again.json()["state"]) == (409, "not-withdrawable", "withdrawn")


def test_an_officer_withdraws_for_others_and_an_operator_does_not(client, keys, post):
    path = f"{PATH}/{post(forget=[question(1)])['id']}"
    refused = client.delete(path, headers=keys.header("operator"))
    assert (refused.status_code, slug(refused.json())) == (403, "withdrawal-forbidden")
    assert client.delete(path, headers=keys.header("officer")).json()["state"] == "withdrawn"


@pytest.mark.parametrize(
    "state",
    [
        RequestState.RUNNING,
        RequestState.EVALUATED,
        RequestState.AWAITING_APPROVAL,
        RequestState.PUBLISHED,
        RequestState.STANDING,
        RequestState.FAILED,
    ],
)
def test_a_request_past_the_point_is_not_withdrawn_and_says_where_it_stands(client, keys, post, db, state):
    made = post(forget=[question(1)])
    with transaction(db) as session:
        row = session.get_one(Request, uuid.UUID(made["id"]))
        row.state = state
        final = state in (RequestState.PUBLISHED, RequestState.STANDING, RequestState.FAILED)
        row.completed_at = row.received_at if final else None
    answer = client.delete(f"{PATH}/{made['id']}", headers=keys.header("requester"))
    assert (answer.status_code, answer.json()["state"]) == (409, state.value)
    assert state.value in answer.json()["detail"]


def test_what_needs_attention_may_still_be_withdrawn(client, keys, post, db):
    made = post(forget=[question(1)])
    with transaction(db) as session:
        session.get_one(Request, uuid.UUID(made["id"])).state = RequestState.NEEDS_ATTENTION
    answer = client.delete(f"{PATH}/{made['id']}", headers=keys.header("requester"))
    assert answer.json()["state"] == "withdrawn"


def test_a_commit_that_fails_is_never_answered_202(client, keys, db, monkeypatch):
    submit = service.submit

    def no_commit():
        raise RuntimeError("the commit failed")

    def submit_before_a_failing_commit(session, *rest, **more):
        monkeypatch.setattr(session, "commit", no_commit)
        return submit(session, *rest, **more)

    monkeypatch.setattr(service, "submit", submit_before_a_failing_commit)
    body = {"served_model": "people", "domain": "privacy", "forget": [question(1)]}
    assert client.post(PATH, json=body, headers={**keys.header("requester"), "Idempotency-Key": "a"}).status_code == 500
    with db.session_factory() as session:
        assert session.scalars(select(Request)).all() == []


def test_the_openapi_document_shows_bounds_examples_and_every_error(settings):
    document = create_app(settings).openapi()
    schemas = document["components"]["schemas"]
    assert schemas["RequestCreate"]["properties"]["forget"]["maxItems"] == 500
    assert schemas["RequestCreate"]["properties"]["note"]["anyOf"][0]["maxLength"] == 2000
    assert schemas["Item"]["properties"]["passage"]["anyOf"][0]["maxLength"] == 20_000
    assert schemas["Item"]["properties"]["probes"]["maxItems"] == 20
    assert schemas["RequestCreate"]["examples"]
    paths = document["paths"]
    assert set(paths[PATH]["post"]["responses"]) >= {"202", "400", "401", "413", "415", "422", "503"}
    assert "Location" in paths[PATH]["post"]["responses"]["202"]["headers"]
    assert set(paths[PATH]["get"]["responses"]) >= {"200", "400", "401", "422", "503"}
    assert set(paths[f"{PATH}/{{request_id}}"]["get"]["responses"]) >= {"200", "401", "403", "404", "422", "503"}
    assert set(paths[f"{PATH}/{{request_id}}"]["delete"]["responses"]) >= {
        "200",
        "401",
        "403",
        "404",
        "409",
        "422",
        "503",
    }


@pytest.mark.parametrize("number", [0, 1])
def test_the_documented_examples_are_taken(client, settings, keys, db, tmp_path, number):
    example = create_app(settings).openapi()["components"]["schemas"]["RequestCreate"]["examples"][number]
    with transaction(db) as session:
        add_model(session, tmp_path, example["served_model"])
    answer = client.post(PATH, json=example, headers=keys.header("requester"))
    assert answer.status_code == 202, answer.text
