"""A change is committed before it is answered, and messages are sent after that, or never."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from app import queue
from app.db import Database, DbSession, transaction
from app.errors import install_handlers
from app.ids import new_id
from app.keys.service import create_key
from app.tables import Audit, Key, Request
from app.tables.key import KeyRole
from tests.app.service import Floor
from tests.fixtures.served import question

RUN = "grail.run_job"
BREAK_AT_COMMIT = text("""
CREATE FUNCTION break_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE served_model SET active_adapter_id = gen_random_uuid();
    RETURN NULL;
END $$;
CREATE TRIGGER break_at_commit AFTER INSERT ON request EXECUTE FUNCTION break_at_commit();
""")
"""A deferred foreign key: the statements of a request pass, its commit does not."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would have gone to the broker."""
    found: list[tuple[str, ...]] = []
    monkeypatch.setattr(queue, "send", lambda *message: found.append(message))
    return found


# Before the answer


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}], ids=["in one statement", "in several"])
def test_a_commit_that_the_database_refuses_is_not_answered_202(floor: Floor, headers: dict[str, str]) -> None:
    with transaction(floor.db) as session:
        session.execute(BREAK_AT_COMMIT)
    body = {"served_model": "people", "domain": "privacy", "forget": [question(1)]}
    found = floor.caller.refused("requester", "POST", "/v1/requests", json=body, headers=headers)
    assert found == (500, "internal-error")
    with floor.db.session_factory() as session:
        assert session.scalars(select(Request)).all() == []
        assert session.scalars(select(Audit).where(Audit.event.startswith("request."))).all() == []


def test_what_is_answered_is_committed_when_the_answer_begins(db: Database) -> None:
    """Seen from another connection at the moment at which the first byte of the answer is sent."""
    app, key_id, seen = FastAPI(), new_id(), []
    app.state.db = db
    install_handlers(app)

    @app.post("/keys", status_code=202)
    def make(session: DbSession) -> dict[str, str]:
        session.add(Key(id=key_id, prefix="ab" * 4, hash="ab" * 32, name="n", role=KeyRole.ADMIN))
        return {"id": str(key_id)}

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def noticed(message: Any) -> None:
            if message["type"] == "http.response.start":
                with db.session_factory() as other:
                    seen.append((message["status"], other.get(Key, key_id) is not None))
            await send(message)

        await app(scope, receive, noticed)

    with TestClient(watched) as client:
        assert client.post("/keys").status_code == 202
    assert seen == [(202, True)]


def test_an_error_in_an_endpoint_rolls_back_all_of_it(db: Database) -> None:
    app = FastAPI()
    app.state.db = db
    install_handlers(app)

    @app.post("/keys")
    def make(session: DbSession) -> None:
        create_key(session, "n", KeyRole.ADMIN)
        raise RuntimeError("afterwards")

    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/keys").status_code == 500
    with db.session_factory() as session:
        assert session.scalars(select(Key)).all() == []
        assert session.scalars(select(Audit)).all() == []


# Messages


def test_messages_are_sent_after_the_commit_in_their_order_and_each_once(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []

    def look(task: str, *ids: str) -> bool:
        with db.session_factory() as other:
            log.append((task, ids, other.scalar(select(Key.name))))
        return True

    monkeypatch.setattr(queue, "send", look)
    one, two = uuid.uuid4(), uuid.uuid4()
    with transaction(db) as session:
        queue.enqueue(session, RUN, one)
        create_key(session, "made in the same transaction", KeyRole.ADMIN)
        queue.enqueue(session, RUN, two)
        queue.enqueue(session, RUN, one)
        queue.enqueue(session, "grail.sweep")
        assert log == []
    made = "made in the same transaction"
    assert log == [(RUN, (str(one),), made), (RUN, (str(two),), made), ("grail.sweep", (), made)]


def test_a_savepoint_that_is_released_sends_nothing(db: Database, sent: list[tuple[str, ...]]) -> None:
    with transaction(db) as session:
        with session.begin_nested():
            queue.enqueue(session, RUN, uuid.uuid4())
        assert sent == []
    assert len(sent) == 1


@pytest.mark.parametrize("how", ["error", "commit"])
def test_what_is_rolled_back_sends_nothing(db: Database, sent: list[tuple[str, ...]], how: str) -> None:
    with pytest.raises((RuntimeError, IntegrityError)), transaction(db) as session:
        queue.enqueue(session, RUN, uuid.uuid4())
        if how == "error":
            raise RuntimeError
        session.add(Key(id=new_id(), prefix="ab" * 4, hash="short", name="n", role=KeyRole.ADMIN))
    assert sent == []


def test_an_unknown_task_is_a_mistake_of_ours(db: Database) -> None:
    with pytest.raises(KeyError), transaction(db) as session:
        queue.enqueue(session, "grail.run_jbo", uuid.uuid4())


def test_parameters_are_hidden_from_the_errors_of_the_database(db: Database) -> None:
    with pytest.raises(IntegrityError) as caught, transaction(db) as session:
        session.add(Key(id=new_id(), prefix="ab" * 4, hash="short", name="Ottoline Brandmayr", role=KeyRole.ADMIN))
    assert "parameters hidden" in str(caught.value)


def test_ids_grow_with_time_and_are_of_the_seventh_version() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert [i.int >> 80 for i in ids] == sorted(i.int >> 80 for i in ids)
    assert {(i.version, i.variant) for i in ids} == {(7, uuid.RFC_4122)}
