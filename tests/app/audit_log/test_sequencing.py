"""Every leaf gets one number, whoever commits when and whatever dies: the log equals a slow tree over its leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from app.audit import repository as trail
from app.audit.service import record
from app.audit_log import repository, sequencing
from app.audit_log.nodes import STORED_FROM, Nodes
from app.audit_log.sequencing import number_all, number_some
from app.db import Database, transaction
from app.trust.merkle import consistency_proof, inclusion_proof, leaf_hash, root
from app.trust.verify import verify_consistency, verify_inclusion
from tests.app.audit_log.oracle import ROOT, ids, leaf, numbered, tree_hash


def add(db: Database, *numbers: int) -> None:
    """A change with a leaf for each number."""
    with transaction(db) as session:
        trail.append(session, "thing.changed", [str(number) for number in numbers], [leaf(n) for n in numbers])


def whole(db: Database) -> list[bytes]:
    """The leaves, after a look at everything that has to be so."""
    rows = numbered(db)
    assert [position for position, _, _ in rows] == list(range(len(rows))), "numbers have no gap"
    assert len({audit_id for _, audit_id, _ in rows}) == len(rows)
    assert sorted([audit_id for _, audit_id, _ in rows] + ids(db, "audit_pending", "audit_id")) == ids(db)
    leaves = [found for _, _, found in rows]
    with db.session_factory() as session:
        assert repository.size(session) == len(leaves)
        assert root(Nodes(session), len(leaves)) == tree_hash(leaves)
        for level in range(STORED_FROM, len(leaves).bit_length() + 1):
            assert repository.count_nodes(session, level) == len(leaves) >> level
        assert repository.unlogged(session) == 0
    return leaves


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_batches_the_log_is_the_tree_over_its_leaves(db: Database, seed: int) -> None:
    """Changes commit at any time, also while numbers are given, and out of the order of their ids."""
    chance, done = random.Random(seed), threading.Event()

    def commit(first: int) -> None:
        own = random.Random(first)
        for start in range(first, first + 60, 3):
            with transaction(db) as session:
                for number in range(start, start + own.randint(1, 3)):
                    record(session, "thing.changed", subject_id=str(number), number=number)
                    session.flush()  # ids are taken now, and are committed later

    def sequence() -> None:
        while not done.is_set():
            number_all(db, chance.choice([1, 2, 3, 7, 16, 50]), rounds=3)

    with ThreadPoolExecutor(4) as pool:
        sequencer = pool.submit(sequence)
        committers = [pool.submit(commit, first) for first in (0, 1000, 2000)]
        for committer in committers:
            committer.result()
        done.set()
        sequencer.result()
    number_all(db)
    leaves = whole(db)
    assert len(leaves) == len(ids(db)) > 60
    heads = {size: tree_hash(leaves[:size]) for size in (1, 2, len(leaves) // 2, len(leaves) - 1, len(leaves))}
    with db.session_factory() as session:
        nodes = Nodes(session)
        for size, head in heads.items():
            for index in sorted({0, size // 3, size - 1}):
                verify_inclusion(index, size, leaf_hash(leaves[index]), inclusion_proof(nodes, index, size), head)
            path = consistency_proof(nodes, size, len(leaves))
            verify_consistency(size, head, len(leaves), heads[len(leaves)], path)


def test_a_leaf_of_a_long_transaction_comes_when_that_has_ended(db: Database) -> None:
    with db.session_factory() as slow:
        trail.append(slow, "thing.changed", ["slow"], [leaf(1)])
        add(db, 2, 3)
        assert number_all(db) == 2
        slow.execute(text("COMMIT"))
    assert number_all(db) == 1
    assert whole(db) == [leaf(2), leaf(3), leaf(1)]


def test_what_is_rolled_back_gets_no_number(db: Database) -> None:
    with pytest.raises(RuntimeError), transaction(db) as session:
        trail.append(session, "thing.changed", ["never"], [leaf(1)])
        raise RuntimeError
    add(db, 2)
    assert number_all(db) == 1
    assert whole(db) == [leaf(2)]


def test_of_two_sequencers_one_numbers_and_the_other_leaves_it(db: Database) -> None:
    add(db, *range(10))
    with db.session_factory() as first, db.session_factory() as second:
        assert number_some(first, 4) == 4
        assert number_some(second, 4) == 0
        first.execute(text("COMMIT"))
        assert number_some(second, 4) == 4
        second.execute(text("COMMIT"))
    number_all(db)
    assert whole(db) == [leaf(number) for number in range(10)]


def test_many_sequencers_number_each_leaf_once(db: Database) -> None:
    add(db, *range(200))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: number_all(db, 3, rounds=40), range(8)))
    number_all(db)
    assert len(whole(db)) == 200


def test_a_leaf_that_is_queued_again_keeps_its_number(db: Database) -> None:
    add(db, 1, 2)
    number_all(db)
    with transaction(db) as session:
        session.execute(text("INSERT INTO audit_pending SELECT id FROM audit"))
    add(db, 3)
    number_all(db)
    assert whole(db) == [leaf(1), leaf(2), leaf(3)]


KILLED = """
import os, sys
from app.audit_log import repository, sequencing
from app.config import load_settings
from app.db import Database
at = getattr(repository, sys.argv[1])
def stop(*given):
    found = at(*given)
    print("there", flush=True)
    sys.stdin.read()  # until it is killed
    return found
setattr(repository, sys.argv[1], stop)
sequencing.number_all(Database(load_settings().database_url), 5)
"""


@pytest.mark.parametrize("after", ["take", "add_leaves", "add_nodes"])
def test_kill_9_in_the_middle_of_a_batch_leaves_the_log_as_it_was(db: Database, after: str) -> None:
    add(db, *range(14))
    number_all(db)
    add(db, *range(14, 50))
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, after], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        assert number_all(db) == 0, "it holds the lock"
        process.send_signal(signal.SIGKILL)
        process.wait()
    while len(whole(db)) == 14:
        number_all(db)  # the server notices the end of a connection by itself
    assert whole(db) == [leaf(number) for number in range(50)]


def test_a_batch_takes_few_statements_however_large_the_tree(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    add(db, *range(100))
    number_all(db)
    add(db, *range(100, 200))
    sent: list[str] = []
    from sqlalchemy import event

    event.listen(db.engine, "before_cursor_execute", lambda _c, _k, statement, *_: sent.append(statement))
    assert number_all(db, 1000) == 100
    assert len(sent) == 7, sent  # lock, queue, leaves, size, numbers, edge, nodes
    assert sequencing.AT_ONCE >= 100
