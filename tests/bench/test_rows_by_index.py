"""Whatever is asked often stays quick with a million rows: no plan reads from end to end a growing table, or an index
of all of it.

A few thousand rows are there, and the server's statistics are told that they are a million, so that it plans as it
would then; a table is read whole only where no index could serve.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from filling import GROWING, Filled, fill
from hot_paths import Path, Plan, explained, inside, known, lists, others, planning, receive, scraping
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db import Database
from app.embedded.services import EmbeddedServices
from tests.fixtures.databases import Databases

ROWS, TIMES = 5000, 200
AS_IF_MORE = "UPDATE pg_class SET reltuples = reltuples * :times WHERE relname = ANY(:tables)"


@pytest.fixture(scope="module")
def filled(
    services: EmbeddedServices, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    """A database as a busy year leaves it, by its statistics."""
    name = databases.take()
    db = Database(services.postgres.url(name))
    made = fill(db, ROWS, tmp_path_factory.mktemp("models"))
    with db.engine.begin() as connection:
        connection.execute(text(AS_IF_MORE), {"times": TIMES, "tables": list(GROWING)})
    yield made
    db.dispose()
    databases.give_back(name)


def plans_of(filled: Filled, path: Path) -> list[Plan]:
    """How what a path asks is carried out; nothing of it stays."""
    with filled.db.session_factory() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))  # some tables have too few rows for an index
        with explained(session.connection()) as plans:
            path(session)
        session.rollback()
    return plans


def read_whole(plan: Plan) -> set[str]:
    """Growing tables that it reads from end to end, itself or by an index."""
    return set(GROWING) & (plan.whole | plan.walked)


def test_no_path_reads_a_growing_table_from_end_to_end(filled: Filled) -> None:
    who = known(filled)
    paths = {**lists(filled, who), **planning(filled, who), **others(filled, who)}
    asked = 0
    for name, path in paths.items():
        plans = plans_of(filled, path)
        for plan in plans:
            assert not read_whole(plan), f"{name}: {plan.nodes}: {plan.statement[:500]}"
        asked += len(plans)
    assert asked > len(paths)


def test_what_stores_requests_looks_for_others_by_index(filled: Filled) -> None:
    """Its statements stand in a function, where EXPLAIN does not look."""
    with filled.db.session_factory() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        with inside(session) as plans:
            receive(session, filled, known(filled))
        session.rollback()
    (look,) = [plan for plan in plans if "array_agg" in plan.statement]
    assert "ix_request_fingerprint" in look.nodes and "ix_example_" in look.nodes, look.nodes
    for plan in plans:
        assert not read_whole(plan), f"{plan.nodes}: {plan.statement[:500]}"


def test_a_scrape_and_doctor_read_open_work_and_the_newest_rows_alone(filled: Filled) -> None:
    """And ask as much, however many models there are."""
    asked = {}
    for name, path in scraping(filled).items():
        plans = plans_of(filled, path)
        for plan in plans:
            assert not read_whole(plan), f"{name}: {plan.nodes}: {plan.statement[:500]}"
        asked[name] = len(plans)
    assert 10 <= asked["scrape"] <= 18 and all(asked.values())


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM request WHERE legal_basis = 'x'",
        "SELECT count(*) FROM request",
        "SELECT min(created_at) FROM event",
        "SELECT state, count(*) FROM delivery GROUP BY state",
        "SELECT id FROM job ORDER BY id",
        "SELECT id FROM job WHERE settings = '{}' ORDER BY timings LIMIT 5",
    ],
)
def test_what_does_read_one_is_seen(filled: Filled, statement: str) -> None:
    def ask(session: Session) -> Any:
        return session.execute(text(statement)).all()

    (plan,) = plans_of(filled, ask)
    assert len(read_whole(plan)) == 1


def test_open_rows_and_one_page_are_not_taken_for_all_of_a_table(filled: Filled) -> None:
    for statement in (
        "SELECT count(*) FROM delivery WHERE state = 'pending'",
        "SELECT id FROM request ORDER BY id DESC LIMIT 20",
    ):
        (plan,) = plans_of(filled, lambda session, one=statement: session.execute(text(one)).all())
        assert not read_whole(plan), plan.nodes
