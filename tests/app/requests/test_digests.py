"""Digests of contents are keyed: the database alone tests no guess, and rows from before are keyed without a pause."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from app.auth import Principal, Role
from app.db import Database, transaction
from app.keys.service import create_key
from app.requests import digests, service
from app.requests.conflicts import content_digest
from app.requests.schemas import RequestCreate, RequestView
from app.tables import Example, ServedModel
from grail.types import Segment
from tests.app.service import NOW, Floor
from tests.fixtures.served import add_model, question

EVERY_ROW = """
SELECT string_agg(x::text, ' ') FROM (
    SELECT row_to_json(example)::text AS x FROM example UNION ALL SELECT row_to_json(request)::text FROM request
    UNION ALL SELECT convert_from(leaf, 'UTF8') FROM audit UNION ALL SELECT row_to_json(event)::text FROM event
    UNION ALL SELECT row_to_json(served_model)::text FROM served_model
) every
"""


class Asker:
    """Asks for model `people`, which has plain digests as one from before, by one key."""

    def __init__(self, db: Database, directory: Path) -> None:
        self.db = db
        with transaction(db) as session:
            self.model_id = add_model(session, directory).id
            key, _ = create_key(session, "asker", Role.REQUESTER)
            self.who = Principal(key.id, key.name, key.role)

    def ask(self, forget: Any = (), retain: Any = ()) -> RequestView:
        sides = {"forget": [question(n) for n in forget], "retain": [question(n) for n in retain]}
        payload = RequestCreate.model_validate({"served_model": "people", "domain": "privacy", **sides})
        with transaction(self.db) as session:
            return service.submit(session, payload, self.who, NOW, due_days=30)

    def withdraw(self, view: RequestView) -> None:
        with transaction(self.db) as session:
            service.withdraw(session, view.id, self.who, NOW)

    def key(self) -> int:
        with transaction(self.db) as session:
            return digests.key_old(session, NOW)

    def stands(self) -> list[bool]:
        with self.db.session_factory() as session:
            statement = select(Example.standing).where(Example.segment == Segment.RETAIN).order_by(Example.id)
            return list(session.scalars(statement))

    def plain(self) -> int:
        """Rows with a digest that can be guessed."""
        plain = "SELECT (SELECT count(*) FROM example WHERE content_digest ~ '^[0-9a-f]') + " \
                "(SELECT count(*) FROM request WHERE fingerprint ~ '^[0-9a-f]')"
        with self.db.session_factory() as session:
            return int(session.execute(text(plain)).scalar_one())


@pytest.fixture
def asker(db: Database, tmp_path: Path) -> Asker:
    return Asker(db, tmp_path)


def test_nothing_that_is_stored_tells_whether_a_guess_was_asked_for(floor: Floor) -> None:
    floor.ask(1)
    floor.ask(1)  # linked
    floor.ask(901, role="other")  # what the first retains
    retained = {**question(2), "domain": "privacy", "subject": "s", "probes": [question(3)]}
    floor.caller.call("operator", "PUT", "/v1/models/people/retain-set", json={"items": [retained]})
    guesses = [content_digest(question(n)["prompt"], question(n)["completion"]) for n in (1, 2, 3, 901)]
    asked = hashlib.sha256("\n".join(["privacy", f"forget:{guesses[0]}", f"retain:{guesses[3]}"]).encode()).hexdigest()
    with floor.db.session_factory() as session:
        stored = session.execute(text(EVERY_ROW)).scalar_one()
        kept = list(session.scalars(select(Example.content_digest)))
    assert kept and all(one[0] == "k" and len(one) == 64 for one in kept)
    assert not [guess for guess in (*guesses, asked) if guess in stored]


def test_two_models_have_different_digests_of_the_same(floor: Floor) -> None:
    floor.register("books")
    for model in ("people", "books"):
        floor.ask(1, model=model)
    with floor.db.session_factory() as session:
        rows = session.execute(select(Example.served_model_id, Example.content_digest)).all()
    of = [{row.content_digest for row in rows if row.served_model_id == model} for model in {r[0] for r in rows}]
    assert len(of) == 2 and not of[0] & of[1]


def test_rows_from_before_and_new_ones_find_each_other(asker: Asker) -> None:
    first, kept = asker.ask(forget=[1]), asker.ask(retain=[2])
    assert kept.state and asker.plain() > 0
    assert asker.ask(forget=[1]).duplicate_of_id == first.id, "before, as ever"
    assert asker.key() > 0 and asker.plain() == 0 and asker.key() == 0
    assert asker.ask(forget=[1]).duplicate_of_id == first.id, "a new request for what an old one asks"
    assert asker.stands() == [True]
    asker.ask(retain=[1])
    assert asker.stands() == [True, False], "what an old request forgets does not come to stand"
    erasure = asker.ask(forget=[2])
    assert asker.stands() == [False, False], "what an old request retains is taken out"
    asker.withdraw(erasure)
    assert asker.stands() == [True, False], "and comes back"
    assert asker.plain() == 0


def test_rows_whose_text_is_gone_are_keyed_too(asker: Asker) -> None:
    view = asker.ask(forget=[1])
    gone = text("UPDATE example SET content_sealed = NULL, removed_at = now() WHERE request_id = :id")
    with transaction(asker.db) as session:
        session.execute(gone, {"id": view.id})
    assert asker.key() > 0 and asker.plain() == 0
    asker.ask(retain=[1])
    assert asker.stands() == [False]


def test_a_version_from_before_can_not_write_plain_digests_beside_keyed_ones(asker: Asker) -> None:
    asker.ask(forget=[1])
    asker.key()
    again = text("INSERT INTO example SELECT (json_populate_record(e, :new)).* FROM example e LIMIT 1")
    new = f'{{"id": "{uuid.uuid4()}", "content_digest": "{"a" * 64}"}}'
    with pytest.raises(IntegrityError, match="from before still runs"), transaction(asker.db) as session:
        session.execute(again, {"new": new})


@pytest.mark.parametrize("sides", [{"forget": [1]}, {"retain": [1]}, {"forget": [2], "retain": [1]}])
def test_who_waited_while_a_model_was_keyed_writes_keyed_digests(asker: Asker, sides: dict[str, Any]) -> None:
    """The model's row was read before it was held: what it says is looked at again."""
    asker.ask(forget=[9])
    with ThreadPoolExecutor(1) as pool:
        with transaction(asker.db) as session:
            digests.key_old(session, NOW)
            waits = pool.submit(asker.ask, **sides)
            until(lambda: waiting(asker.db) > 0)
        assert waits.result(30).id
    assert asker.plain() == 0


def waiting(db: Database) -> int:
    """How many wait for a lock."""
    with db.session_factory() as session:
        found = session.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one()
    return int(found)


def until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(600):
        if holds():
            return
        pause.wait(0.05)
    raise AssertionError("it never came to that")


def test_requests_are_received_while_models_are_keyed(floor: Floor) -> None:
    """Over HTTP, by several at once, in the short way and the long: each is answered, and those for the same find each
    other whichever side of it they came in on."""
    back = text("UPDATE served_model SET content_keyed_at = NULL")
    with transaction(floor.db) as session:
        session.execute(back)
    body = {"served_model": "people", "domain": "privacy"}
    asked = [{**body, "forget": [question(n % 12)]} for n in range(60)]

    def post(one: dict[str, Any]) -> Any:
        return floor.caller.call("requester", "POST", "/v1/requests", 202, json=one)

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(post, one) for one in asked]
        until(lambda: sum(one.done() for one in answers) > 10)
        with transaction(floor.db) as session:
            assert digests.key_old(session, NOW) > 0
        views = [one.result(60) for one in answers]
    for n in range(12):
        same = [view for view, one in zip(views, asked, strict=True) if one == asked[n]]
        assert sum(view["state"] == "linked" for view in same) == len(same) - 1, n
    with floor.db.session_factory() as session:
        assert session.scalars(select(ServedModel.content_keyed_at)).one() is not None
        assert not [one for one in session.scalars(select(Example.content_digest)) if one[0] != "k"]
