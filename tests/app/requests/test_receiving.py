"""Requests that come in at the same time: the same is linked, what contradicts does not stand, keys count now."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update
from tokenizers import Tokenizer, models, pre_tokenizers

from app.db import transaction
from app.requests.repository import lock_model
from app.tables import Example
from app.tokens import count_tokens, surely_fit
from grail.types import Segment
from tests.app.service import Floor, revoke, slug
from tests.fixtures.served import question

PATH = "/v1/requests"
AT_ONCE = 6


def at_once(floor: Floor, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def send(body: dict[str, Any]) -> Any:
        return floor.caller.call("requester", "POST", PATH, 202, json=body)

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(send, bodies))


def asking(**sides: Any) -> dict[str, Any]:
    return {"served_model": "people", "domain": "privacy", **sides}


def test_of_the_same_asked_at_once_one_is_first_and_the_others_are_linked_to_it(floor: Floor) -> None:
    made = at_once(floor, [asking(forget=[question(1)])] * AT_ONCE)
    first = [one["id"] for one in made if one["state"] == "received"]
    assert len(first) == 1
    assert {one["duplicate_of_id"] for one in made if one["state"] == "linked"} == set(first)


WAITING = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
               "(SELECT oid FROM pg_database WHERE datname = current_database())")  # fmt: skip


def test_what_comes_to_stand_while_it_is_being_forgotten_does_not_stay(floor: Floor) -> None:
    """Somebody holds the model alone and lets an item stand; a request that forgets it comes in meanwhile."""
    kept = floor.ask(7)  # retains question 907
    withdrawn = floor.request(kept)
    with ThreadPoolExecutor(1) as pool:
        with transaction(floor.db) as session:
            lock_model(session, withdrawn.served_model_id)
            session.execute(update(Example).values(standing=False))
            body = asking(forget=[question(907)])
            sent = pool.submit(floor.caller.call, "requester", "POST", PATH, 202, json=body)
            with floor.db.session_factory() as watch:
                while not sent.done() and not watch.execute(WAITING).scalar_one():
                    watch.rollback()
            values = {"standing": True}
            session.execute(update(Example).where(Example.segment == Segment.RETAIN).values(values))
        sent.result()
    with floor.db.session_factory() as session:
        standing = session.scalars(select(Example.id).where(Example.standing)).all()
    assert standing == []


def test_a_key_that_was_used_a_moment_ago_and_is_revoked_reads_and_writes_nothing(floor: Floor) -> None:
    asked = floor.ask(1)
    revoke(floor.db, floor.caller.keys["requester"])
    for method, path, more in (
        ("GET", f"{PATH}/{asked}", {}),
        ("GET", f"{PATH}/{asked}?include=items", {}),
        ("POST", PATH, {"json": asking(forget=[question(2)])}),
        ("POST", PATH, {"json": asking(forget=[question(2)]), "headers": {"Idempotency-Key": "k"}}),
    ):
        answer = floor.caller.send("requester", method, path, **more)
        assert (answer.status_code, slug(answer)) == (401, "unauthorised")


LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTES = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(LETTERS)}, merges=[]))
BYTES.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=40), st.text(min_size=1, max_size=40)), min_size=1, max_size=3),
    st.integers(1, 400),
)
def test_texts_that_surely_fit_do_fit(pairs: list[tuple[str, str]], context_tokens: int) -> None:
    template = "Q: {prompt} A:"
    if surely_fit(BYTES, template, pairs, context_tokens):
        assert max(count_tokens(BYTES, template, pairs)) <= context_tokens
