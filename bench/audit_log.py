"""What the audit log costs in Postgres: numbering, proofs and storage, by default at 10,000,000 leaves.

    python bench/audit_log.py                       ten million leaves: some twenty minutes, 10 GB of temporary files
    python bench/audit_log.py --leaves 200000       half a minute
    python bench/audit_log.py --write               the page docs/audit-log.md, too
    python bench/audit_log.py --stored-from 1       with the nodes of every level kept (bytes and times to compare)

An embedded Postgres of its own. Changes are written by COPY, so that the trigger queues them as it does for the
service; `app.audit_log.sequencing` numbers them in batches of `--batch`. At each power of ten some batches and proofs
are timed; each proof is verified against the root.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import ROOT, commit
from sqlalchemy import text

from app import schema
from app.audit_log import nodes, service
from app.audit_log.auditing import audit
from app.audit_log.checkpoints import issue_checkpoint
from app.audit_log.export import head_line, lines
from app.audit_log.parts import make_ahead
from app.audit_log.sequencing import number_all
from app.db import Database, reading, transaction
from app.embedded.postgres import EmbeddedPostgres
from app.trust.keys import Ed25519Signer
from app.trust.verify import leaf_hash, verify_consistency, verify_inclusion

PAGE = ROOT / "docs" / "audit-log.md"
FILL_AT_ONCE = 50_000
BATCHES, PROOFS = 40, 400
PART = """
SELECT sum(pg_relation_size(part)), sum(pg_indexes_size(part)) FROM (
    SELECT CAST(:name AS regclass) UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = CAST(:name AS regclass)
) AS parts (part)
"""
Row = tuple[str, ...]


def leaf(number: int) -> bytes:
    """Bytes like those of a request's change."""
    return (
        b'{"at":"2026-01-01T00:00:00.000000+00:00","event":"request.batched","fields":{"batch_id":"%032x","state":'
        b'"batched"},"id":"%032x","subject_id":"%032x"}' % (number, number, number // 5)
    )


def fill(db: Database, first: int, count: int) -> None:
    """Changes of the service, without waiting for any of them."""
    into = "COPY audit (event, subject_id, leaf) FROM STDIN"
    with db.engine.begin() as connection, connection.connection.cursor() as cursor, cursor.copy(into) as copy:
        for number in range(first, first + count):
            copy.write_row(("request.batched", f"{number // 5:032x}", leaf(number)))


def grow(db: Database, first: int, last: int, batch: int) -> float:
    """Fill and number leaves; microseconds of numbering each."""
    numbering = 0.0
    for start in range(first, last, FILL_AT_ONCE):
        make_ahead(db)
        fill(db, start, min(FILL_AT_ONCE, last - start))
        begun = time.perf_counter()
        number_all(db, batch, rounds=FILL_AT_ONCE)
        numbering += time.perf_counter() - begun
    return numbering / max(last - first, 1) * 1e6


def milliseconds(act: Callable[[], object], count: int) -> list[float]:
    """How long each of some calls took, sorted."""
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        act()
        taken.append((time.perf_counter() - begun) * 1e3)
    return sorted(taken)


def shown(taken: list[float]) -> str:
    """Median, and what 99 of 100 stay below."""
    return f"{statistics.median(taken):.2f} / {taken[min(len(taken) - 1, len(taken) * 99 // 100)]:.2f}"


def measure(db: Database, size: int, batch: int, per_leaf: float) -> tuple[int, Row]:
    """Time batches and proofs at `size`; the size afterwards, and a row of the table."""
    rng = random.Random(0)  # noqa: S311  which leaves are proved, the same each time
    fill(db, size, BATCHES * batch)
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    batches = milliseconds(lambda: number_all(db, batch, rounds=1), BATCHES)
    alone = []
    for _ in range(BATCHES):
        fill(db, size + BATCHES * batch + len(alone), 1)
        alone += milliseconds(lambda: number_all(db, batch, rounds=1), 1)
    size += BATCHES * batch + BATCHES

    def prove() -> None:
        index = rng.randrange(size)
        with reading(db) as connection:
            proof = service.inclusion(connection, leaf_hash=leaf_hash(leaf(index)), position=None, size=size)
        path = [bytes.fromhex(step) for step in proof.hashes]
        verify_inclusion(proof.position, size, leaf_hash(leaf(index)), path, bytes.fromhex(proof.root))

    def extend() -> None:
        old = rng.randrange(1, size)
        with reading(db) as connection:
            found = service.consistency(connection, old, size)
        path, roots = [bytes.fromhex(step) for step in found.hashes], (found.from_root, found.to_root)
        verify_consistency(old, bytes.fromhex(roots[0]), size, bytes.fromhex(roots[1]), path)

    proofs = [shown(milliseconds(act, PROOFS)) for act in (prove, extend)]
    batch_shown, alone_shown = shown(batches), shown(sorted(alone))
    return size, (f"{size:,}", f"{per_leaf:.1f}", batch_shown, alone_shown, *proofs)


def storage(db: Database, size: int) -> Iterator[Row]:
    """Bytes a leaf of each table and of its indexes."""
    with reading(db) as connection:
        for name in ("audit", "log_leaf", "log_node", "audit_pending"):
            table, indexes = map(float, connection.execute(text(PART), {"name": name}).one())
            yield name, f"{table / size:.1f}", f"{indexes / size:.1f}", f"{(table + indexes) / 1e6:,.0f}"


def whole(db: Database) -> Row:
    """Seconds to sign, to export and to verify all of it."""
    begun = time.perf_counter()
    with transaction(db) as session:
        issue_checkpoint(session, [Ed25519Signer.new("bench")], datetime.now(UTC))
    signed = time.perf_counter() - begun
    exported, begun = sum(map(len, lines(db, head_line(db)))), time.perf_counter()
    for _ in islice(lines(db, head_line(db)), 200):
        pass
    rate = 200 * 500 / (time.perf_counter() - begun)
    begun = time.perf_counter()
    found = audit(db)
    assert not found.faults, found.faults
    verified = time.perf_counter() - begun
    return f"{signed * 1e3:.1f} ms", f"{exported / 1e6:,.0f} MB, {rate:,.0f} leaves/s", f"{verified:.1f} s"


def table(head: Row, rows: list[Row]) -> str:
    """As Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def run(given: argparse.Namespace) -> str:
    """The page."""
    rows, size = [], 0
    with tempfile.TemporaryDirectory(prefix="grail-bench-") as place:
        server = EmbeddedPostgres(Path(place) / "postgres")
        with server:
            schema.upgrade(server.url())
            db = Database(server.url(), pool_size=2)
            for power in range(4, 12):
                goal = min(10**power, given.leaves)
                if goal <= size:
                    break
                per_leaf = grow(db, size, goal, given.batch)
                size, row = measure(db, goal, given.batch, per_leaf)
                print(*row, sep="\t", flush=True)
                rows.append(row)
            stored, all_of_it = list(storage(db, size)), whole(db)
            db.dispose()
        server_place = server.wanted.resolve()
        if not server_place.is_relative_to(Path(place).resolve()):
            remove(server_place)
    return page(given, rows, stored, all_of_it)


def remove(place: Path) -> None:
    """What an embedded server put outside of the temporary directory."""
    import shutil

    shutil.rmtree(place)


def page(given: argparse.Namespace, rows: list[Row], stored: list[Row], all_of_it: Row) -> str:
    """What is printed and written."""
    times = table(
        ("leaves", "numbering, µs a leaf", f"batch of {given.batch}, ms", "batch of one, ms", "inclusion, ms",
         "consistency, ms"), rows,
    )  # fmt: skip
    sizes = table(("table", "bytes a leaf", "of its indexes", "MB in all"), stored)
    asked = f"--leaves {given.leaves} --batch {given.batch} --stored-from {given.stored_from}"
    return f"""# What the audit log costs

Made by `python bench/audit_log.py {asked} --write`, commit {commit()},
Python {platform.python_version()}, an embedded Postgres with fsync, on {os.cpu_count()} cores.

Two figures are the median and what 99 of 100 stay below. Proofs are timed with the look for the leaf by its hash, the
root, and the verification by `app.trust.verify`.

{times}

Storage, with nodes kept from level {given.stored_from} on; leaves have {len(leaf(0))} bytes here:

{sizes}

Signing took {all_of_it[0]}; the export is {all_of_it[1]}; computing the whole tree anew and comparing it with nodes and
checkpoints took {all_of_it[2]}.
"""


def main() -> None:
    """Grow, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leaves", type=int, default=10_000_000)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--stored-from", type=int, default=nodes.STORED_FROM)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    given = parser.parse_args()
    nodes.STORED_FROM = given.stored_from
    found = run(given)
    print(found)
    if given.write:
        PAGE.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
