"""What stood there plain before content was sealed is sealed by the sweep, and reads as before."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import select, text

from app.db import Database, transaction
from app.envelope.codec import Codec
from app.envelope.errors import KeyStoreAway
from app.requests import blanking
from app.requests.sealing_old import seal_old
from app.retention.service import KINDS, remove
from app.tables import Example, Request
from grail.types import Segment
from tests.app.service import Floor
from tests.fixtures.served import question

PATH = "/v1/requests"
AS_BEFORE = """
UPDATE request SET note = 'told on the phone', subject_reference = 'case 9', key_id = NULL,
    note_sealed = NULL, subject_reference_sealed = NULL WHERE id = :id;
UPDATE example SET subject = 'case 9', prompt = 'Where is it? ' || position,
    completion = 'In place ' || position || '.', facts = '["place"]', content_sealed = NULL, subject_index = NULL,
    key_id = NULL WHERE request_id = :id
"""


@pytest.fixture
def old(floor: Floor) -> str:
    """A request as the version before stored it."""
    asked = floor.ask(1, 2, retain=[question(3)])
    with transaction(floor.db) as session:
        for statement in AS_BEFORE.split(";"):
            session.execute(text(statement), {"id": uuid.UUID(asked)})
    return asked


def contents(floor: Floor, request_id: str) -> Any:
    return floor.caller.call("requester", "GET", f"{PATH}/{request_id}", params={"include": "items"})["contents"]


def plain_rows(floor: Floor) -> int:
    with floor.db.session_factory() as session:
        plain = session.scalars(select(Example.id).where(Example.plain_completion.is_not(None))).all()
        words = session.scalars(select(Request.id).where(Request.plain_note.is_not(None))).all()
        return len(plain) + len(words)


def test_plain_rows_are_read_until_they_are_sealed_and_say_the_same_then(floor: Floor, old: str) -> None:
    before = contents(floor, old)
    assert (before["note"], before["forget"][1]["completion"]) == ("told on the phone", "In place 1.")
    assert plain_rows(floor) == 4
    assert remove(floor.db, floor.settings, "plain") == 4
    assert plain_rows(floor) == 0
    assert contents(floor, old) == before
    with floor.db.session_factory() as session:
        rows = session.scalars(select(Example).where(Example.request_id == uuid.UUID(old))).all()
        request = session.get_one(Request, uuid.UUID(old))
        forgotten = {row.key_id for row in rows if row.segment is Segment.FORGET}
        assert forgotten == {request.key_id} != {None}
        assert {row.key_id for row in rows if row.segment is Segment.RETAIN}.isdisjoint(forgotten)
        assert len({row.subject_index for row in rows} - {None}) == 1
    assert remove(floor.db, floor.settings, "plain") == 0


def test_some_at_a_time_and_what_broke_off_goes_on(floor: Floor, old: str) -> None:
    with floor.db.session_factory() as session:
        assert seal_old(session, 1) == 2
        session.rollback()
    assert plain_rows(floor) == 4
    for left in (2, 1, 0):
        with transaction(floor.db) as session:
            seal_old(session, 1)
        assert plain_rows(floor) == left
    assert contents(floor, old)["note"] == "told on the phone"


def test_what_was_blanked_before_stays_blank(floor: Floor, old: str) -> None:
    with transaction(floor.db) as session:
        session.execute(text("UPDATE example SET subject = '', prompt = '', completion = '', facts = '[]', "
                             "removed_at = now() WHERE segment = 'forget'"))  # fmt: skip
    remove(floor.db, floor.settings, "plain")
    assert plain_rows(floor) == 0
    assert [one["completion"] for one in contents(floor, old)["forget"]] == ["", ""]


def test_plain_rows_whose_time_is_over_go_unsealed(floor: Floor, old: str) -> None:
    floor.caller.call("requester", "DELETE", f"{PATH}/{old}")
    with transaction(floor.db) as session:
        session.execute(text("UPDATE request SET content_until = now() - interval '1 day'"))
        now = session.execute(text("SELECT now()")).scalar_one()
        assert blanking.blank(session, now, 10) == 1
    assert plain_rows(floor) == 0
    assert contents(floor, old)["note"] is None


def test_without_the_key_store_what_needs_it_waits_and_the_rest_goes_on(floor: Floor, old: str) -> None:
    def away() -> Codec:
        raise KeyStoreAway("the key store does not answer")

    db = Database(floor.settings.database_url, codec=away)
    waits = []
    for kind in KINDS:
        try:
            remove(db, floor.settings, kind)
        except KeyStoreAway:
            waits.append(kind)
    assert waits == ["plain"] and list(KINDS)[-3:] == ["works", "plain", "digests"]
    remove(floor.db, floor.settings, "plain")
    assert remove(db, floor.settings, "plain") == 0, "nothing is left that needs it"
    db.dispose()
