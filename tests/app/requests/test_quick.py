"""The usual request takes one statement, and nobody can tell from what is stored: the longer way is its oracle."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from app.db import transaction
from app.requests import intake_repository as repository
from app.requests import quick, service
from app.requests.schemas import RequestCreate
from app.requests.together import Together
from app.tables import Audit, Event, Example, Key, Request
from tests.app.service import NOW, Floor
from tests.fixtures.served import question

PATH = "/v1/requests"


def body(*numbers: int, **more: Any) -> dict[str, Any]:
    """A request that only forgets."""
    forget = [question(number) for number in numbers]
    return {"served_model": "people", "domain": "privacy", "forget": forget, "retain": [], **more}


@pytest.fixture
def ways(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way each call of the API was stored."""
    taken: list[str] = []
    shorter, longer = quick.submit, service.submit

    async def quickly(*arguments: Any, **named: Any) -> Any:
        found = await shorter(*arguments, **named)
        taken.extend(["short"] if found is not None else [])
        return found

    def slowly(*arguments: Any, **named: Any) -> Any:
        taken.append("long")
        return longer(*arguments, **named)

    monkeypatch.setattr(quick, "submit", quickly)
    monkeypatch.setattr(service, "submit", slowly)
    return taken


def post(floor: Floor, asked: dict[str, Any], expect: int = 202, **headers: str) -> Any:
    return floor.caller.call("requester", "POST", PATH, expect, json=asked, headers=headers)


def stored(floor: Floor, request_id: str) -> list[Any]:
    """All that is there of a request but for ids and times, in the order of ids."""
    names = {request_id: "request"}
    with floor.db.session_factory() as session:
        examples = session.scalars(
            select(Example).where(Example.request_id == uuid.UUID(request_id)).order_by(Example.position)
        ).all()
        names |= {str(one.id): f"example {one.position}" for one in examples}
        request = session.get_one(Request, uuid.UUID(request_id))
        events = session.scalars(select(Event).where(Event.request_id == request.id).order_by(Event.id)).all()
        leaves = session.scalars(select(Audit).where(Audit.subject_id == request_id).order_by(Audit.id)).all()
        opened = [*(one.content for one in examples), request.note, request.subject_reference]
    apart = {"id", "xid", "xmin", "created_at", "received_at", "due_at", "traceparent", "created_by", "key_id"}

    def plain(row: Any) -> dict[str, Any]:
        names_of = [one.key for one in type(row).__mapper__.column_attrs if one.key not in apart]
        values = {name: getattr(row, name) for name in names_of if not name.endswith("_sealed")}
        return {key: names.get(str(value), value) for key, value in values.items()}

    def told(leaf: Audit) -> dict[str, Any]:
        found = json.loads(leaf.leaf)
        return {"event": found["event"], "of": leaf.subject_id == request_id, **found["fields"], "key_id": None}

    return [*map(plain, (*examples, request, *events)), *map(told, leaves), *opened]


ITEMS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.text("abcé", min_size=1, max_size=8), "completion": st.text("xyz", min_size=1, max_size=8)},
        optional={"subject": st.sampled_from(["A", "B"])},
    ),
    min_size=1, max_size=3, unique_by=lambda item: (item["prompt"].strip(), item["completion"].strip()),
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(items=ITEMS, domain=st.sampled_from(["privacy", "copyright"]), note=st.sampled_from([None, "n", "'é\\\""]))
def test_the_short_way_stores_what_the_long_way_does(
    shared: Floor, items: list[dict[str, Any]], domain: str, note: str | None
) -> None:
    """By two keys, so that neither knows of the other's."""
    asked = RequestCreate.model_validate(
        {"served_model": "people", "domain": domain, "forget": items, "note": note, "subject_reference": "someone"}
    )
    now, who = datetime.now(UTC), shared.caller.who
    submitted = quick.submit(Together(shared.db), quick.KnownModels(), asked, who["requester"], now, due_days=30)
    short = asyncio.run(submitted)
    with transaction(shared.db) as session:
        long = service.submit(session, asked, who["other"], now, due_days=30)
    if short is None or long.state == "linked":  # hypothesis repeats itself: asked before
        assert short is None and long.state == "linked"
        return
    apart = {"id", "etag", "links", "href"}
    assert {k: v for k, v in short.model_dump().items() if k not in apart} == {
        k: v for k, v in long.model_dump().items() if k not in apart
    }
    assert stored(shared, str(short.id)) == stored(shared, str(long.id))


def test_what_only_forgets_goes_the_short_way_and_is_what_a_reader_gets(floor: Floor, ways: list[str]) -> None:
    made = post(floor, body(1, 2))
    assert ways == ["short"]
    read = floor.caller.call("requester", "GET", f"{PATH}/{made['id']}")
    assert made == {**read, "days_left": made["days_left"]}  # a moment has gone by
    assert (made["state"], made["forget_items"], made["retain_items"]) == ("received", 2, 0)


def ask_again(floor: Floor) -> str:
    return str(post(floor, body(1))["state"])


def forget_what_stands(floor: Floor) -> str:
    post(floor, body(forget=[], retain=[question(5)]))
    made = post(floor, body(5))
    with floor.db.session_factory() as session:
        rows = session.scalars(select(Example).where(Example.standing)).all()
    assert rows == []
    return str(made["state"])


def change_the_policy(floor: Floor) -> str:
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"validate_notices": True}})
    return str(post(floor, body(6, domain="copyright"))["state"])


@pytest.mark.parametrize(
    ("happens", "state"), [(ask_again, "linked"), (forget_what_stands, "received"), (change_the_policy, "notice")]
)
def test_whatever_has_to_be_decided_goes_the_long_way(
    floor: Floor, ways: list[str], happens: Callable[[Floor], str], state: str
) -> None:
    post(floor, body(1))
    assert happens(floor) == state
    assert ways[0] == "short" and ways[-1] == "long"


def test_after_a_change_of_the_policy_the_short_way_knows_it(floor: Floor, ways: list[str]) -> None:
    post(floor, body(1))
    change_the_policy(floor)
    assert post(floor, body(7, domain="copyright"))["state"] == "notice"
    assert ways == ["short", "long", "short"]


def test_a_revoked_key_stores_nothing_though_it_was_known_a_moment_ago(floor: Floor, ways: list[str]) -> None:
    post(floor, body(1))
    with transaction(floor.db) as session:
        session.get_one(Key, floor.caller.who["requester"].key_id).revoked_at = NOW
    assert floor.caller.refused("requester", "POST", PATH, json=body(2)) == (401, "unauthorised")
    with floor.db.session_factory() as session:
        assert len(session.scalars(select(Request)).all()) == 1


@pytest.mark.parametrize(
    ("asked", "slug"),
    [
        (body(1, served_model="nobody"), "unknown-served-model"), (body(1, 1), "duplicate-item"),
        (body(forget=[]), "nothing-asked"),
        (body(forget=[{**question(1), "completion": "x " * 5000}]), "text-too-long"),
    ],
)  # fmt: skip
def test_refusals_are_the_long_ways(floor: Floor, ways: list[str], asked: dict[str, Any], slug: str) -> None:
    assert floor.caller.refused("requester", "POST", PATH, json=asked) == (422, slug)
    assert ways == ["long"]


def test_a_call_with_a_word_of_its_own_goes_the_long_way(floor: Floor, ways: list[str], api: FastAPI) -> None:
    headers = {"Idempotency-Key": "once"}
    first = post(floor, body(1), **headers)
    assert post(floor, body(1), **headers) == first
    assert ways == ["long"] and api.state.known_models._found == {}


SLOWLY = text("""
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END $$;
CREATE TRIGGER slowly BEFORE INSERT ON request FOR EACH ROW EXECUTE FUNCTION slowly();
""")


def test_of_many_calls_for_the_same_at_once_one_is_first(floor: Floor, ways: list[str]) -> None:
    """Each looks and stores in one statement, and they hold what is asked one after the other."""
    post(floor, body(9))  # the model is known from here on
    with transaction(floor.db) as session:
        session.execute(SLOWLY)
    with ThreadPoolExecutor(4) as pool:
        states = [made["state"] for made in pool.map(lambda _: post(floor, body(1)), range(4))]
    assert sorted(states) == ["linked"] * 3 + ["received"]
    assert ways.count("short") == 2


# Together


def revisions(floor: Floor) -> dict[str, str]:
    """The transaction that stored each request, by its id."""
    with floor.db.session_factory() as session:
        return dict(session.execute(text("SELECT id::text, xmin::text FROM request")).all())  # type: ignore[arg-type]


def at_once(floor: Floor, asked: list[dict[str, Any]], role: str = "requester") -> list[Any]:
    """The answers to calls that are sent at the same time, by a thread each."""
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda one: floor.caller.send(role, "POST", PATH, json=one), asked))


def slow(floor: Floor) -> None:
    post(floor, body(9))  # the model is known from here on
    with transaction(floor.db) as session:
        session.execute(SLOWLY)


def test_what_comes_while_others_are_stored_is_stored_in_one_commit(floor: Floor, ways: list[str]) -> None:
    slow(floor)
    made = at_once(floor, [body(number) for number in range(20, 28)])
    assert [one.status_code for one in made] == [202] * 8 and ways == ["short"] * 9
    ids = [one.json()["id"] for one in made]
    stored_in = revisions(floor)
    assert len({stored_in[one] for one in ids}) < 5
    for one in made:  # each has its own items, events and leaves, and its own revision
        read = floor.caller.send("requester", "GET", f"{PATH}/{one.json()['id']}")
        assert read.headers["ETag"] == one.headers["ETag"]
    with floor.db.session_factory() as session:
        assert session.scalars(select(Example.request_id)).all().count(uuid.UUID(ids[0])) == 1
        for one in ids:
            assert len(session.scalars(select(Audit).where(Audit.subject_id == one)).all()) == 1
            assert len(session.scalars(select(Event).where(Event.request_id == uuid.UUID(one))).all()) == 1


def test_a_line_is_gone_once_nobody_waits_and_is_one_while_somebody_does(
    floor: Floor, ways: list[str], api: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else models and policies of the past would stay, or two statements store for one model at a time."""
    slow(floor)
    at_work, most, receive = [0], [0], repository.receive

    def watched(*arguments: Any) -> Any:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        found = receive(*arguments)
        at_work[0] -= 1
        return found

    monkeypatch.setattr(repository, "receive", watched)
    for start in (70, 80):
        at_once(floor, [body(number) for number in range(start, start + 6)])
    assert most == [1] and api.state.together._lines == {}


def test_one_that_can_not_be_stored_takes_nobody_with_it(floor: Floor, ways: list[str]) -> None:
    """The database refuses one of them, and with it all that were in its statement: each then goes the long way."""
    slow(floor)
    with transaction(floor.db) as session:
        session.execute(text("ALTER TABLE request ADD CHECK (legal_basis <> 'none') NOT VALID"))
    asked = [body(number, legal_basis="none" if number == 33 else "art17") for number in range(30, 36)]
    statuses = [one.status_code for one in at_once(floor, asked)]
    assert statuses == [202, 202, 202, 500, 202, 202] and "long" in ways
    assert len(revisions(floor)) == 6


def test_of_those_that_come_together_some_are_the_same_and_one_key_is_revoked(floor: Floor, ways: list[str]) -> None:
    slow(floor)
    floor.caller.call("other", "POST", PATH, 202, json=body(40))
    with transaction(floor.db) as session:
        session.get_one(Key, floor.caller.who["other"].key_id).revoked_at = NOW
    with ThreadPoolExecutor(7) as pool:
        roles = ["requester", "requester", "other", "requester", "other", "requester"]
        asked = [body(number) for number in (41, 41, 42, 43, 44, 41)]
        first = pool.submit(post, floor, body(45))
        time.sleep(0.05)  # it is being stored: the others come together
        found = list(pool.map(lambda role, one: floor.caller.send(role, "POST", PATH, json=one), roles, asked))
    assert [one.status_code for one in found] == [202, 202, 401, 202, 401, 202]
    assert sorted(found[at].json()["state"] for at in (0, 1, 5)) == ["linked", "linked", "received"]
    assert len(revisions(floor)) == 7 and first.result()["state"] == "received"


def test_whoever_asks_while_the_database_goes_is_told_to_look(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    post(floor, body(50))

    def cut(connection: Any, *_: Any) -> Any:
        connection.close()
        raise psycopg.OperationalError("the connection broke")

    monkeypatch.setattr(repository, "receive", cut)
    for one in at_once(floor, [body(51), body(52)]):
        assert one.status_code == 503 and "look whether" in one.json()["mend"] and one.headers["Retry-After"]


def test_the_loop_asks_nobody_once_everything_is_at_hand(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the key store, nor the database or a file: what it has to ask for is asked for in a thread."""
    asked: list[str] = []
    looked_up = quick.prepare

    def told(*arguments: Any) -> Any:
        asked.append("thread")
        return looked_up(*arguments)

    monkeypatch.setattr(quick, "prepare", told)
    monkeypatch.setattr(quick, "surely_fit", lambda *_: True)  # the model of tests has a context that is very short
    post(floor, body(60))
    post(floor, body(61))
    assert asked == ["thread"]
    many = [question(100 + number) for number in range(quick.FEW_TEXTS + 1)]
    post(floor, body(forget=many))
    assert asked == ["thread"] * 2, "much is not checked by the loop"
    floor.db.codec().keyring.clear()
    post(floor, body(62))
    assert asked == ["thread"] * 3, "a key has to be fetched"
