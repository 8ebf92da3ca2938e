"""A call that is repeated has one effect and the first one's answer, whatever dies in between."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app import queue
from app.config import load_settings
from app.db import transaction
from app.idempotency import service
from app.idempotency.service import Call, Told, answer_once
from app.requests.schemas import RequestPage
from app.tables import Idempotency, Job, Key, Request
from tests.app.service import Floor, slug
from tests.fixtures.served import question

PATH = "/v1/requests"
BODY: dict[str, Any] = {"served_model": "people", "domain": "privacy", "forget": [question(1)], "retain": [question(2)]}
Send = Callable[..., httpx.Response]

KEPT = timedelta(hours=24)


@pytest.fixture
def send(floor: Floor) -> Send:
    """A POST under an Idempotency-Key."""

    def post(key: str = "first", body: Any = BODY, path: str = PATH, role: str = "requester") -> httpx.Response:
        return floor.caller.send(role, "POST", path, json=body, headers={"Idempotency-Key": key})

    return post


def count(floor: Floor, table: Any = Request) -> int:
    with floor.db.session_factory() as session:
        return int(session.scalar(select(func.count()).select_from(table)) or 0)


def test_the_same_call_again_gets_the_same_answer_to_the_byte_and_does_nothing(floor: Floor, send: Send) -> None:
    first, again = send(), send()
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    for header in ("location", "etag", "content-type"):
        assert again.headers[header] == first.headers[header]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert count(floor) == 1
    assert send("another").json()["id"] != first.json()["id"]


def test_the_answer_stays_what_it_was_when_the_request_has_moved_on(floor: Floor, send: Send) -> None:
    first = send()
    floor.caller.call("requester", "DELETE", first.headers["location"])
    assert send().json()["state"] == "received"


@pytest.mark.parametrize(
    ("body", "path"), [({**BODY, "note": "other"}, PATH), (BODY, f"{PATH}?a=b")], ids=["body", "address"]
)
def test_another_call_under_the_same_key_is_refused(floor: Floor, send: Send, body: Any, path: str) -> None:
    send()
    answer = send(body=body, path=path)
    assert (answer.status_code, slug(answer)) == (422, "idempotency-key-reused")
    assert count(floor) == 1


def test_keys_are_each_callers_own(floor: Floor, send: Send) -> None:
    first, other = send(), send(role="other", body={**BODY, "note": "other"})
    assert other.status_code == 202
    assert other.json()["id"] != first.json()["id"]


def test_a_refusal_is_not_kept(floor: Floor, send: Send) -> None:
    assert send(body={**BODY, "served_model": "nobody"}).status_code == 422
    assert send().status_code == 202


BODIES: tuple[Any, ...] = (
    BODY, {**BODY, "forget": [question(3)]}, {**BODY, "note": "other"}, {**BODY, "served_model": "nobody"},
    {**BODY, "forget": [question(4), question(4)]}, {**BODY, "retain": []},
)  # fmt: skip
"""The fourth and fifth are refused."""
CALLS = st.tuples(st.sampled_from("abc"), st.sampled_from(["requester", "other"]), st.sampled_from(range(len(BODIES))))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=st.lists(CALLS, min_size=1, max_size=12))
def test_whatever_is_called_in_whatever_order_each_word_has_one_effect(
    shared: Floor, calls: list[tuple[str, str, int]]
) -> None:
    """Against a dictionary: the first call of a caller's word that is accepted is the only one that does anything."""
    run, kept = uuid.uuid4().hex, dict[tuple[str, str], tuple[int, bytes]]()
    before = count(shared)
    for word, role, number in calls:
        headers = {"Idempotency-Key": f"{run}-{word}"}
        answer = shared.caller.send(role, "POST", PATH, json=BODIES[number], headers=headers)
        known = kept.get((word, role))
        if known is None and number in (3, 4):
            assert answer.status_code == 422 and slug(answer) != "idempotency-key-reused"
        elif known is None:
            assert answer.status_code == 202 and "idempotency-replayed" not in answer.headers
            kept[word, role] = (number, answer.content)
        elif known[0] == number:
            assert (answer.status_code, answer.content) == (202, known[1])
            assert answer.headers["idempotency-replayed"] == "true"
        else:
            assert (answer.status_code, slug(answer)) == (422, "idempotency-key-reused")
    assert count(shared) - before == len(kept)


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "x" * 256, "a\tb"])
def test_a_key_of_other_characters_or_too_long_is_refused(floor: Floor, key: str) -> None:
    headers = [(b"idempotency-key", key.encode()), *((k.encode(), v.encode()) for k, v in
               floor.caller.header("requester").items())]  # fmt: skip
    answer = floor.caller.client.post(PATH, json=BODY, headers=headers)
    assert (answer.status_code, slug(answer)) == (422, "unprocessable")
    assert answer.json()["errors"][0]["field"] == "header.idempotency-key"
    assert count(floor) == 0


def test_ordering_a_job_twice_makes_one(floor: Floor, send: Send) -> None:
    floor.ask(1)
    order = {"served_model": "people"}
    first, again = (send("job", order, "/v1/jobs", "operator") for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert count(floor, Job) == 1
    assert slug(send("another", order, "/v1/jobs", "operator")) == "job-at-work"


def test_a_process_that_dies_after_the_commit_leaves_an_answer_to_be_repeated(
    floor: Floor, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(session: Session) -> None:
        raise SystemError

    with monkeypatch.context() as patch:
        patch.setattr(queue, "send_noted", dies)
        assert send().status_code == 500
    assert count(floor) == 1
    again = send()
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    assert count(floor) == 1
    assert floor.caller.call("requester", "GET", again.headers["location"])["id"] == again.json()["id"]


def test_a_process_that_dies_before_the_commit_leaves_nothing(
    floor: Floor, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Session) -> None:
        raise SystemError

    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", dies)
        assert send().status_code == 500
    assert (count(floor), count(floor, Idempotency)) == (0, 0)
    again = send()
    assert again.status_code == 202 and "idempotency-replayed" not in again.headers


def call(floor: Floor, name: str = "first") -> Call:
    return Call(floor.caller.who["requester"].key_id, name, "POST", PATH, b"d" * 32)


def never() -> Told:
    raise AssertionError("the work was done")


def done() -> Told:
    return Told(RequestPage(items=[], next_cursor=None), 202, {"Location": "/here"})


def test_while_the_first_call_is_at_work_the_second_is_told_to_come_back(floor: Floor, send: Send) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow() -> Told:
        entered.set()
        assert leave.wait(60)
        return done()

    def first() -> bytes:
        with transaction(floor.db) as session:
            return bytes(answer_once(session, call(floor), datetime.now(UTC), slow).body)

    with ThreadPoolExecutor(1) as pool:
        at_work = pool.submit(first)
        assert entered.wait(60)
        answer = send()
        assert (answer.status_code, slug(answer)) == (409, "idempotency-in-progress")
        assert int(answer.headers["retry-after"]) >= 1
        assert send("another").status_code == 202
        leave.set()
        told = at_work.result()
    with transaction(floor.db) as session:
        assert answer_once(session, call(floor), datetime.now(UTC), never).body == told


def test_many_at_once_have_one_effect(floor: Floor, send: Send) -> None:
    def until_answered(_: int) -> bytes:
        while True:
            answer = send()
            if answer.status_code == 202:
                return answer.content
            assert slug(answer) == "idempotency-in-progress"

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(until_answered, range(16)))
    assert len(answers) == 1
    assert count(floor) == 1


def test_a_kept_answer_ends_after_its_time_and_is_swept(floor: Floor) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    with transaction(floor.db) as session:
        answer_once(session, call(floor), start, done)
        answer_once(session, call(floor, "later"), start + timedelta(hours=1), done)
    with transaction(floor.db) as session:
        answer_once(session, call(floor), start + KEPT - timedelta(seconds=1), never)
    with transaction(floor.db) as session:
        assert service.purge(session, start + KEPT) == 0
        assert service.purge(session, start + KEPT + timedelta(minutes=1)) == 1
    assert count(floor, Idempotency) == 1
    with transaction(floor.db) as session:  # one that is over, but was not swept yet, is replaced
        over = start + timedelta(hours=1) + KEPT
        assert "Idempotency-Replayed" not in answer_once(session, call(floor, "later"), over, done).headers
    with floor.db.session_factory() as session:
        assert session.scalars(select(Idempotency.created_at)).one() == over


def test_calls_are_known_again_after_the_secret_was_changed(
    floor: Floor, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, old = send(), load_settings().master_secret
    monkeypatch.setenv("GRAIL_MASTER_SECRET", f"{'n' * 40},{old}")
    load_settings.cache_clear()
    assert send().content == first.content
    monkeypatch.setenv("GRAIL_MASTER_SECRET", "n" * 40)
    load_settings.cache_clear()
    assert slug(send()) == "idempotency-key-reused"


def test_the_row_tells_nothing_of_what_was_sent(floor: Floor, send: Send) -> None:
    send()
    with floor.db.session_factory() as session:
        row = session.scalars(select(Idempotency)).one()
        kept = f"{row.fingerprint} {row.answer} {row.headers}"
        key = session.get_one(Key, row.key_id)
    assert "place 1" not in kept and "thing" not in kept.lower()
    assert len(row.fingerprint) == 64
    assert key.name == "requester"


def test_a_revoked_key_gets_no_kept_answer(floor: Floor, send: Send) -> None:
    send()
    with transaction(floor.db) as session:
        session.execute(update(Key).where(Key.name == "requester").values(revoked_at=datetime.now(UTC)))
    assert slug(send()) == "unauthorised"


def test_a_request_made_without_a_key_is_made_each_time(floor: Floor) -> None:
    ids = {floor.caller.call("requester", "POST", PATH, 202, json=BODY)["id"] for _ in range(2)}
    assert len({uuid.UUID(one) for one in ids}) == 2
    assert count(floor, Idempotency) == 0
