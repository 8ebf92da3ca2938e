"""Old leaves go by whole parts, and only those; their hashes stay, and so do all proofs."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.audit_log import auditing, parts, parts_repository, repository, service
from app.audit_log.nodes import Nodes
from app.audit_log.sequencing import number_all
from app.config import Settings
from app.db import Database, reading, transaction
from app.errors import Unavailable
from app.trust.merkle import inclusion_proof, leaf_hash, root
from app.trust.verify import verify_inclusion
from tests.app.audit_log.oracle import leaf
from tests.app.audit_log.test_log_api import sign
from tests.app.audit_log.test_sequencing import add

SOON = datetime.now(UTC) + timedelta(days=1)


def jump(db: Database, to: int) -> None:
    """As if so many leaves had been written."""
    with transaction(db) as session:
        session.execute(text("SELECT setval('audit_id_seq', :to)"), {"to": to})


def names(db: Database) -> list[tuple[str, int]]:
    with reading(db) as connection:
        return [(part.name, part.end) for part in parts_repository.listed(connection)]


@pytest.fixture
def two(db: Database) -> Database:
    """A full first part with ten leaves, and a second one with five."""
    add(db, *range(10))
    jump(db, 2_000_000)
    assert parts.make_ahead(db) == 1
    add(db, *range(10, 15))
    sign(db)
    return db


def test_parts_are_made_ahead_and_no_more_than_needed(db: Database) -> None:
    assert names(db) == [("audit_from_0", 2_000_000)]
    assert parts.make_ahead(db) == 0
    jump(db, 1_000_000)
    assert parts.make_ahead(db) == 0
    jump(db, 1_000_001)
    assert parts.make_ahead(db) == 1
    assert names(db)[1:] == [("audit_from_2000000", 3_000_000)]
    jump(db, 2_500_000)
    assert parts.make_ahead(db) == 1
    add(db, 1)
    with reading(db) as connection:
        rows = connection.execute(text("SELECT tableoid::regclass::text FROM audit")).scalars().all()
    assert rows == ["audit_from_2000000"]


def test_what_overtakes_the_parts_is_kept_and_numbered_and_the_next_part_begins_behind_it(db: Database) -> None:
    jump(db, 5_000_000)
    add(db, 1, 2)
    assert number_all(db) == 2
    parts.make_ahead(db)
    add(db, 3)
    with reading(db) as connection:
        rows = connection.execute(text("SELECT tableoid::regclass::text FROM audit ORDER BY id")).scalars().all()
    assert rows == ["audit_beyond", "audit_beyond", "audit_beyond"]  # its range is the beyond's until it ends
    assert names(db)[1:] == [("audit_from_6000000", 7_000_000)]
    jump(db, 6_000_000)
    add(db, 4)
    with reading(db) as connection:
        assert connection.scalar(text("SELECT count(*) FROM audit_from_6000000")) == 1


@pytest.mark.parametrize("table", ["audit_from_0", "audit_from_2000000", "audit_beyond"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET leaf = leaf", "DELETE FROM {}", "TRUNCATE {}"])
def test_a_part_refuses_changes_as_the_whole_does(two: Database, table: str, statement: str) -> None:
    with pytest.raises(DBAPIError, match=f"rows of {table} are never changed"), transaction(two) as session:
        session.execute(text(statement.format(table)))


def test_a_part_whose_leaves_are_all_older_goes_and_its_hashes_stay(two: Database) -> None:
    (dry,) = [one for one in parts.expire(two, SOON, dry_run=True) if one.kept is None]
    assert (dry.name, dry.about.leaves) == ("audit_from_0", 10)
    assert len(names(two)) == 2
    first, second = parts.expire(two, SOON, dry_run=False)
    assert (first.name, first.kept) == ("audit_from_0", None)
    assert (second.name, second.kept) == ("audit_from_2000000", "leaves are still written into it")
    sign(two)
    with reading(two) as connection:
        page = service.leaves(connection, 0, 100)
        assert [item.expired for item in page.items] == [True] * 10 + [False] * 7
        assert '"event":"audit.expired"' in (page.items[-1].leaf or "")
        head = root(Nodes(connection), page.size)
        for number in (0, 9, 12):
            path = inclusion_proof(Nodes(connection), number, page.size)
            verify_inclusion(number, page.size, leaf_hash(leaf(number)), path, head)
            assert repository.position_of(connection, leaf_hash(leaf(number))) == number
    assert (auditing.audit(two).expired, auditing.audit(two).faults) == (10, [])


def test_a_part_with_a_younger_leaf_stays(two: Database) -> None:
    (only,) = parts.expire(two, datetime.now(UTC) - timedelta(days=1), dry_run=False)
    assert (only.name, (only.kept or "")[:18]) == ("audit_from_0", "its newest leaf is")
    assert len(names(two)) == 2


def test_a_part_with_a_leaf_that_is_not_signed_stays(db: Database) -> None:
    add(db, *range(10))
    jump(db, 2_000_000)
    for kept in (10, 10):
        (only,) = parts.expire(db, SOON, dry_run=False)
        assert only.kept == f"{kept} of its leaves are not covered by a checkpoint yet"
        number_all(db)  # a number alone is not enough
    assert len(names(db)) == 1


def test_a_leaf_that_comes_while_a_part_is_looked_at_keeps_it(two: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = parts_repository.about

    def then_late(reading_: object, part: parts_repository.Part, signed: int) -> parts_repository.About:
        found = looked(reading_, part, signed)  # type: ignore[arg-type]
        with transaction(two) as session:
            session.execute(text(
                "INSERT INTO audit (id, event, leaf) OVERRIDING SYSTEM VALUE VALUES (100, 'thing.late', '{}')"
            ))  # fmt: skip
        return found

    monkeypatch.setattr(parts_repository, "about", then_late)
    (only,) = parts.expire(two, SOON, dry_run=False)
    assert only.kept == "a leaf of it waits for a number"
    assert len(names(two)) == 2


def test_a_trail_in_use_is_not_waited_for(two: Database) -> None:
    """A transaction that wrote a leaf is open: nobody is held up behind the lock for longer than two seconds."""
    with two.session_factory() as slow:
        slow.execute(text("INSERT INTO audit (event, leaf) VALUES ('thing.slow', '{}')"))
        with pytest.raises(Unavailable, match="nothing was dropped"):
            list(parts.expire(two, SOON, dry_run=False))
        slow.rollback()
    assert len(names(two)) == 2


def test_leaves_are_written_while_a_part_is_made(db: Database) -> None:
    jump(db, 1_500_000)
    with db.session_factory() as slow:
        slow.execute(text("INSERT INTO audit (event, leaf) VALUES ('thing.slow', '{}')"))
        thread = threading.Thread(target=parts.make_ahead, args=(db,))
        thread.start()
        thread.join(timeout=30)
        assert not thread.is_alive()
        slow.execute(text("COMMIT"))
    assert number_all(db) == 1
    assert len(names(db)) == 2


@pytest.fixture
def service_role(db: Database, settings: Settings) -> Iterator[Database]:
    """The service as a role that may read and write rows, and owns nothing."""
    name = f"service_{uuid.uuid4().hex[:8]}"
    with transaction(db) as session:
        session.execute(text(f"CREATE ROLE {name} LOGIN"))
        session.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}"))
        session.execute(text(f"GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}"))
    opened = Database(re.sub(r"//[^@/]*@", f"//{name}@", settings.database_url), pool_size=1)
    yield opened
    opened.dispose()
    with transaction(db) as session:
        session.execute(text(f"DROP OWNED BY {name}"))
        session.execute(text(f"DROP ROLE {name}"))


def test_a_role_that_owns_nothing_numbers_and_signs_and_leaves_parts_to_the_owner(
    db: Database, service_role: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    add(service_role, *range(10))
    sign(service_role)
    jump(db, 2_000_000)
    assert parts.make_ahead(service_role) == 0
    assert "parts_not_made" in capsys.readouterr().out
    add(service_role, 11)  # overtakes the parts, and is not refused
    assert parts.make_ahead(db) == 1
    assert number_all(service_role) >= 1
    with pytest.raises(DBAPIError), transaction(service_role) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
    with pytest.raises(DBAPIError), transaction(service_role) as session:
        session.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
