"""Transactions end in another order than they began in: nobody misses an event, and nobody gets one twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db import Database
from app.errors import BadRequest
from app.events import repository, service
from app.events.positions import MOST, START, Position, position_of
from app.events.repository import EventFilter
from app.tables import Event
from tests.app.service import until_settled

WRITERS = 4
STEPS = st.lists(
    st.tuples(st.integers(0, WRITERS - 1), st.sampled_from(["write", "write", "commit", "roll back", "read"])),
    max_size=60,
)  # fmt: skip


class Readers:
    """One that goes by our rule, a page of two at a time, and one that goes by numbers alone."""

    def __init__(self, db: Database) -> None:
        self.db = db
        with db.session_factory() as session:
            self.position = service.head(session)
            self.naive_last = max(session.scalars(select(Event.id)), default=0)
        self.given: list[int] = []
        self.naively_given: list[int] = []

    def read(self) -> None:
        with self.db.session_factory() as session:
            more = True
            while more:
                page = service.page(session, EventFilter(), self.position, 2)
                self.given += [item.sequence for item in page.items]
                self.position, more = position_of(page.next_cursor), page.more
            found = list(session.scalars(select(Event.id).where(Event.id > self.naive_last).order_by(Event.id)))
            self.naively_given += found
            self.naive_last = max([self.naive_last, *found])


class Floor:
    """Writers with transactions of their own, moved one step at a time."""

    def __init__(self, db: Database) -> None:
        self.sessions: list[Session] = [db.session_factory() for _ in range(WRITERS)]
        self.open: list[list[int]] = [[] for _ in range(WRITERS)]
        self.committed: list[int] = []

    def step(self, writer: int, what: str) -> None:
        session = self.sessions[writer]
        if what == "write":
            event = Event(kind="thing.changed", data={})
            session.add(event)
            session.flush()
            self.open[writer].append(event.id)
        elif what == "commit":
            session.commit()
            self.committed += self.open[writer]
            self.open[writer] = []
        else:
            session.rollback()
            self.open[writer] = []

    def close(self) -> None:
        for session in self.sessions:
            session.close()


@pytest.fixture
def wide(settings: Any) -> Iterator[Database]:
    database = Database(settings.database_url, pool_size=WRITERS + 2)
    yield database
    database.dispose()


def run(db: Database, steps: list[tuple[int, str]]) -> tuple[Readers, list[int]]:
    """The readers at the end, and what was committed."""
    readers, floor = Readers(db), Floor(db)
    try:
        for writer, what in steps:
            if what == "read":
                readers.read()
                assert set(readers.given) <= set(floor.committed)
            else:
                floor.step(writer, what)
        for writer in range(WRITERS):
            floor.step(writer, "commit")
        until_settled(db)
        readers.read()
    finally:
        floor.close()
    return readers, floor.committed


@given(steps=STEPS)
@settings(
    max_examples=60, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_whatever_the_order_of_commits_each_event_is_given_once(wide: Database, steps: list[tuple[int, str]]) -> None:
    readers, committed = run(wide, steps)
    assert sorted(readers.given) == sorted(committed)


OVERTAKEN = [(0, "write"), (1, "write"), (1, "commit"), (0, "read"), (0, "commit"), (0, "read")]


def test_a_reader_that_goes_by_numbers_alone_misses_what_commits_late(wide: Database) -> None:
    """What the rule is for. The later transaction commits first; its number is read; the earlier one is behind it."""
    readers, committed = run(wide, OVERTAKEN)
    assert len(committed) == 2
    assert sorted(readers.given) == sorted(committed)
    assert set(committed) - set(readers.naively_given) == {min(committed)}


def test_a_reader_that_does_not_wait_for_older_transactions_misses_them_too(
    wide: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same property, broken on purpose: without the bound it no longer holds."""
    monkeypatch.setattr(repository, "settled_before", lambda _: MOST)
    overtaken = [(0, "write"), (1, "write"), (1, "commit"), (0, "read"), (0, "commit"), (0, "read")]
    readers, floor = Readers(wide), Floor(wide)
    readers.position = START
    for writer, what in overtaken:
        readers.read() if what == "read" else floor.step(writer, what)
    floor.close()
    assert set(readers.given) < set(floor.committed)


def test_within_a_transaction_events_come_in_the_order_of_the_changes(wide: Database) -> None:
    steps = [(0, "write")] * 5 + [(0, "commit")]
    readers, committed = run(wide, steps)
    assert readers.given == committed == sorted(committed)


@given(st.integers(0, MOST), st.integers(0, MOST))
def test_a_position_is_read_as_it_was_written(xid: int, number: int) -> None:
    assert position_of(str(Position(xid, number))) == (xid, number)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", "a-b", "1 -2", f"{MOST + 1}-0", "1-" + "9" * 20, "१-1"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        position_of(text)
