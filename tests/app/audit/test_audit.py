"""The audit trail takes ids, states, digests and numbers; a text that a person wrote is a mistake that is found."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import repository
from app.audit.service import PLAIN, NotForTheTrail, plainly, record
from app.db import Database, transaction
from app.tables import Audit
from tests.app.service import BAD, Floor


@pytest.mark.parametrize("text", ["two words", "", "naïve", "a\nb", "a/b", "x" * 201, " a", "a;b", "{}", "a\x00"])
def test_what_a_person_could_have_written_is_refused(session: Session, text: str) -> None:
    for arguments in ({"subject_id": text}, {"reason": text}):
        with pytest.raises(NotForTheTrail) as caught:
            record(session, "something.happened", **arguments)  # type: ignore[arg-type]
        assert len(text) < 3 or text not in str(caught.value)
    with pytest.raises(NotForTheTrail):
        record(session, text)
    assert not session.new


@given(st.text().filter(lambda text: any(letter.isspace() for letter in text)))
def test_no_sentence_is_plain(text: str) -> None:
    assert not PLAIN.fullmatch(text)


@pytest.mark.parametrize(
    "value",
    ["10ca61af-8545-4f89-8431-44520fba34c4", "ab" * 32, "awaiting_approval", "2026-11-24T09:00:00.000000+00:00"],
)
def test_ids_digests_states_and_times_are_plain(value: str) -> None:
    assert PLAIN.fullmatch(value)


PLAIN_TEXT = st.from_regex(PLAIN, fullmatch=True)
NAMES = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)


@given(fields=st.dictionaries(NAMES, st.none() | st.booleans() | st.integers() | st.floats() | PLAIN_TEXT, max_size=6))
def test_the_short_way_to_canonical_bytes_gives_the_same(fields: dict[str, Any]) -> None:
    leaf = {"id": "1", "event": "request.received", "subject_id": None, "at": "now", "fields": fields}
    try:
        wanted = rfc8785.dumps(leaf)
    except rfc8785.CanonicalizationError:
        with pytest.raises(rfc8785.CanonicalizationError):
            plainly(leaf)
    else:
        assert plainly(leaf) == wanted


def test_a_leaf_is_canonical_and_says_what_when_and_about_what(db: Database) -> None:
    at = datetime(2026, 11, 24, 9, tzinfo=UTC)
    subject = str(uuid.uuid4())
    with transaction(db) as session:
        record(
            session, "thing.changed", subject_id=subject, at=at, state="done", count=3, share=0.5, ok=True, none=None
        )
    with db.session_factory() as session:
        (row,) = repository.of_subject(session, subject)
    leaf = json.loads(row.leaf)
    assert rfc8785.dumps(leaf) == row.leaf
    assert leaf.pop("id")
    assert leaf == {
        "event": "thing.changed", "subject_id": subject, "at": "2026-11-24T09:00:00.000000+00:00",
        "fields": {"state": "done", "count": 3, "share": 0.5, "ok": True, "none": None},
    }  # fmt: skip
    assert (row.event, row.subject_id) == ("thing.changed", subject)


def test_what_is_rolled_back_leaves_no_leaf(db: Database) -> None:
    with pytest.raises(RuntimeError), transaction(db) as session:
        record(session, "thing.changed", subject_id="x")
        session.flush()
        raise RuntimeError
    with db.session_factory() as session:
        assert session.scalars(select(Audit)).all() == []


def test_a_life_is_told_in_its_order_and_every_leaf_is_canonical(floor: Floor) -> None:
    asked = floor.ask(1)
    floor.work(BAD)
    floor.work()
    with floor.db.session_factory() as session:
        events = [row.event for row in repository.of_subject(session, asked)]
        leaves = session.scalars(select(Audit.leaf)).all()
    assert events == [
        "request.received", "request.batched", "request.running", "request.evaluated", "request.queued",
        "request.batched", "request.running", "request.evaluated", "request.published",
    ]  # fmt: skip
    assert all(rfc8785.dumps(json.loads(leaf)) == leaf for leaf in leaves)
    assert len({json.loads(leaf)["id"] for leaf in leaves}) == len(leaves)
