"""Erasure wins over what is to be kept, whoever asked first, and gives way again when it is withdrawn."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from app.auth import Principal, Role
from app.db import Database, transaction
from app.ids import new_id
from app.keys.service import create_key
from app.requests import conflicts, service
from app.requests.conflicts import content_digest, standing_allowed
from app.requests.schemas import RequestCreate, RequestView
from app.tables import Audit, Example, Request, RequestDomain, ServedModel
from app.tables.content import Content
from grail.types import Segment
from tests.fixtures.served import add_model, question

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE = question(1)
DIGEST = content_digest(ONE["prompt"], ONE["completion"])


class Asker:
    """Submits, withdraws and looks, one transaction each."""

    def __init__(self, db: Database) -> None:
        self.db = db
        with transaction(db) as session:
            key, _ = create_key(session, "asker", Role.REQUESTER)
            self.who = Principal(key.id, key.name, key.role)

    def ask(self, **fields) -> RequestView:
        payload = RequestCreate.model_validate({"served_model": "people", "domain": "privacy", **fields})
        with transaction(self.db) as session:
            return service.submit(session, payload, self.who, NOW, due_days=30)

    def withdraw(self, view: RequestView) -> None:
        with transaction(self.db) as session:
            service.withdraw(session, view.id, self.who, NOW)

    def kept(self) -> list[tuple[bool, bool, object]]:
        """(standing, has left, erased by) of the retain rows, oldest first."""
        with self.db.session_factory() as session:
            rows = session.scalars(
                select(Example).where(Example.segment == Segment.RETAIN).order_by(Example.created_at, Example.position)
            )
            return [(row.standing, row.removed_at is not None, row.erased_by_request_id) for row in rows]

    def events(self, prefix: str = "retain.") -> list[str]:
        with self.db.session_factory() as session:
            return list(session.scalars(select(Audit.event).where(Audit.event.startswith(prefix)).order_by(Audit.id)))


@pytest.fixture
def asker(db: Database, tmp_path: Path) -> Asker:
    with transaction(db) as session:
        add_model(session, tmp_path)
    return Asker(db)


def add_to_retain_set(db: Database, completion: str = ONE["completion"]) -> None:
    """A row as the operator's retain set has it."""
    with transaction(db) as session:
        model = session.scalars(select(ServedModel)).one()
        row = Example(
            id=new_id(), served_model_id=model.id, domain=RequestDomain.PRIVACY, segment=Segment.RETAIN, position=0,
            content=Content("s", ONE["prompt"], completion), standing=True,
            content_digest=content_digest(ONE["prompt"], completion),
        )  # fmt: skip
        session.add(row)


def test_a_forget_item_takes_the_same_content_out_of_the_standing_set(asker, db):
    add_to_retain_set(db, ONE["completion"].upper())
    add_to_retain_set(db, "Somewhere else entirely.")
    asker.ask(retain=[ONE])
    erasure = asker.ask(forget=[ONE])
    assert asker.kept() == [(False, True, erasure.id), (True, False, None), (False, True, erasure.id)]
    assert asker.events() == ["retain.erased", "retain.erased"]


def test_a_paraphrase_of_a_forget_item_does_not_stand_either(asker, db):
    add_to_retain_set(db)
    erasure = asker.ask(forget=[question(9, probes=[{"kind": "paraphrase", **ONE}])])
    assert asker.kept() == [(False, True, erasure.id)]


@pytest.mark.parametrize("kind", ["keep", "measure"])
def test_facts_that_nobody_asked_to_remove_stay_standing(asker, db, kind):
    add_to_retain_set(db)
    asker.ask(forget=[question(9, probes=[{"kind": kind, **ONE}])])
    assert asker.kept()[0] == (True, False, None)


def test_another_models_standing_set_is_left_alone(asker, db, tmp_path):
    add_to_retain_set(db)
    with transaction(db) as session:
        add_model(session, tmp_path, "books")
    asker.ask(served_model="books", forget=[ONE])
    assert asker.kept() == [(True, False, None)]


def test_a_later_retain_item_never_stands_while_its_content_is_forgotten(asker):
    erasure = asker.ask(forget=[ONE])
    protection = asker.ask(retain=[ONE, question(2)])
    assert protection.state == "standing"
    assert sorted(asker.kept(), key=str) == [(False, True, erasure.id), (True, False, None)]
    assert asker.events() == ["retain.not_standing"]
    assert str(erasure.id) not in protection.model_dump_json()


def test_withdrawal_brings_back_what_it_took_out_and_what_it_kept_out(asker, db):
    add_to_retain_set(db)
    erasure = asker.ask(forget=[ONE])
    asker.ask(retain=[ONE])
    asker.withdraw(erasure)
    assert asker.kept() == [(True, False, None)] * 2
    assert asker.events() == ["retain.erased", "retain.not_standing", "retain.restored", "retain.restored"]


def test_withdrawal_brings_nothing_back_that_another_request_forgets(asker, db):
    add_to_retain_set(db)
    first, second = asker.ask(forget=[ONE]), asker.ask(forget=[ONE])
    asker.withdraw(first)
    assert asker.kept() == [(False, True, second.id)]
    asker.withdraw(second)
    assert asker.kept() == [(True, False, None)]


def test_the_other_order_of_withdrawals_ends_alike(asker, db):
    add_to_retain_set(db)
    first, second = asker.ask(forget=[ONE]), asker.ask(forget=[ONE])
    asker.withdraw(second)
    assert asker.kept() == [(False, True, first.id)]
    asker.withdraw(first)
    assert asker.kept() == [(True, False, None)]


def test_the_retain_items_of_a_withdrawn_request_leave_for_good(asker):
    mixed = asker.ask(forget=[question(2)], retain=[ONE])
    assert asker.kept() == [(True, False, None)]
    asker.withdraw(mixed)
    assert asker.kept() == [(False, True, None)]
    assert asker.events() == ["retain.removed"]


def test_an_item_of_a_withdrawn_request_does_not_come_back_with_its_eraser(asker):
    mixed = asker.ask(forget=[question(2)], retain=[ONE])
    erasure = asker.ask(forget=[ONE])
    asker.withdraw(mixed)
    asker.withdraw(erasure)
    assert asker.kept() == [(False, True, None)]


def test_what_is_being_forgotten_is_told_for_retain_sets_and_withdrawn_requests_do_not_count(asker, db):
    erasure = asker.ask(forget=[ONE])
    other = content_digest("x", "y")
    with transaction(db) as session:
        model = session.scalars(select(ServedModel)).one()
        assert standing_allowed(session, model.id, [DIGEST, other, DIGEST]) == {DIGEST}
        assert standing_allowed(session, model.id, []) == set()
    asker.withdraw(erasure)
    with transaction(db) as session:
        assert standing_allowed(session, model.id, [DIGEST]) == set()


def test_a_failed_request_can_be_released_like_a_withdrawn_one(asker, db):
    add_to_retain_set(db)
    erasure = asker.ask(forget=[ONE])
    with transaction(db) as session:
        request = session.get_one(Request, erasure.id)
        request.state, request.completed_at = "failed", NOW
        conflicts.release(session, request, NOW)
    assert asker.kept() == [(True, False, None)]


def test_audit_leaves_name_ids_and_digests_only(asker, db):
    add_to_retain_set(db)
    asker.ask(forget=[ONE], subject_reference="Ann of Oulu", note="Ann", client_reference="Ann")
    asker.ask(retain=[ONE])
    with db.session_factory() as session:
        leaves = b"".join(session.scalars(select(Audit.leaf)))
    assert b"Ann" not in leaves
    assert b"place" not in leaves


def test_a_forget_item_and_the_same_retain_item_at_once_never_both_stand(asker):
    """Two transactions that can not see each other are put in order by the served model's row."""
    for number in range(6):
        item = question(100 + number)
        barrier = threading.Barrier(2)

        def submit(side: str, item=item, barrier=barrier) -> None:
            barrier.wait()
            asker.ask(**{side: [item]})

        threads = [threading.Thread(target=submit, args=(side,)) for side in ("forget", "retain")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(asker.kept()) == 6
    assert not any(standing for standing, _, _ in asker.kept())
