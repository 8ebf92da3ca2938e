"""Lists, filters, status and planning with 10,000 and with 1,000,000 requests in the table, both in one run.

    python bench/rows.py                        fills two databases, times every path in both, prints ratios and plans
    python bench/rows.py --large 100000         a smaller run
    python bench/rows.py --pending 100000       plans that many pending requests, beside planning a thousand

An embedded Postgres of its own in a temporary directory. Each path is walked in turn in both databases, so that a busy
machine slows both; shown are medians in milliseconds. Beside them: every statement of the paths below whose plan reads
a growing table from end to end. The planner's memory is this process's own peak.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from filling import GROWING, Filled, fill
from hot_paths import Path as HotPath
from hot_paths import explained, known, lists, others, planning
from own_secrets import set_secrets
from provenance import commit
from sqlalchemy import func, select, text

from app import schema
from app.batches import service as batches
from app.db import Database, transaction
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.valkey import EmbeddedValkey
from app.lifecycle import RequestState
from app.tables import Request

BOUND = 2.0
FEW_ROWS = 1000


def seconds(filled: Filled, path: HotPath) -> float:
    """One walk; nothing of it is kept."""
    with filled.db.session_factory() as session:
        begun = time.perf_counter()
        path(session)
        taken = time.perf_counter() - begun
        session.rollback()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=11)
    parser.add_argument("--pending", type=int, help="time the planner with so many pending requests and nothing else")
    asked = parser.parse_args()
    set_secrets()
    print(f"commit {commit()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with (
        tempfile.TemporaryDirectory(prefix="grail-rows-") as place,
        EmbeddedPostgres(Path(place) / "postgres", fsync=False) as postgres,
        EmbeddedValkey(Path(place) / "valkey") as valkey,
    ):
        os.environ["GRAIL_BROKER_URL"] = valkey.url()
        if asked.pending:
            plan_pending(_filled(postgres, Path(place), asked.pending))
            return
        sides = [_filled(postgres, Path(place), rows) for rows in (asked.small, asked.large)]
        compare(sides, asked.repeat)
        read_whole(sides[1])


def compare(sides: list[Filled], repeat: int) -> None:
    """The table of medians."""
    who = [known(side) for side in sides]
    timed = [{**lists(side, one), **planning(side, one)} for side, one in zip(sides, who, strict=True)]
    print(f"{'path':34s} {sides[0].rows:>10,} {sides[1].rows:>10,}   ratio")
    for name in timed[0]:
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeat):
            for side, paths, into in zip(sides, timed, taken, strict=True):
                into.append(seconds(side, paths[name]))
        small, large = (statistics.median(each) * 1000 for each in taken)
        mark = "" if large <= BOUND * small else "  above the bound"
        print(f"{name:34s} {small:10.1f} {large:10.1f} {large / small:7.2f}{mark}", flush=True)
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


PENDING = """
UPDATE request SET state = CAST(:state AS request_state), completed_at = NULL, hold_kind = NULL, held_since = NULL,
                   held_from = NULL, hold_reason = NULL, refusal_reason = NULL;
DELETE FROM job WHERE created_at >= CAST(:now AS timestamptz);
UPDATE served_model SET policy = policy || '{"max_requests_per_batch": 256}'
"""


def plan_pending(filled: Filled) -> None:
    """Passes of the planner over all served models, each model in a transaction of its own as in the control worker:
    with every request queued (one batch a model is made), and with every request received (they are acknowledged)."""
    for state in (RequestState.QUEUED, RequestState.RECEIVED):
        with transaction(filled.db) as session:
            session.execute(text("SET LOCAL session_replication_role = replica"))
            for statement in PENDING.split(";\n"):
                values = {"state": state, "now": filled.now}
                session.execute(text(statement), {name: at for name, at in values.items() if f":{name}" in statement})
        with filled.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE request"))
        passes = [_pass(filled)]
        while state is RequestState.RECEIVED and passes[-1][2]:
            passes.append(_pass(filled))
        taken = [seconds for seconds, _, _ in passes]
        made = sum(jobs for _, jobs, _ in passes)
        print(
            f"{filled.rows:,} requests {state}: {len(passes)} passes, together {sum(taken):.2f} s, the longest "
            f"{max(taken):.2f} s, {made} batches made", flush=True,
        )  # fmt: skip


def _pass(filled: Filled) -> tuple[float, int, int]:
    """Seconds, batches made, and how many requests are still only received."""
    begun = time.perf_counter()
    made = len(batches.plan(filled.db))
    taken = time.perf_counter() - begun
    with filled.db.session_factory() as session:
        left = session.scalar(select(func.count()).where(Request.state == RequestState.RECEIVED)) or 0
    return taken, made, left


def read_whole(large: Filled) -> None:
    """Statements that read a growing table from end to end."""
    who, asked, found, many = known(large), 0, 0, set(GROWING) & _large_tables(large)
    for name, path in {**lists(large, who), **planning(large, who), **others(large, who)}.items():
        with large.db.session_factory() as session:
            with explained(session.connection()) as plans:
                path(session)
            session.rollback()
        asked += len(plans)
        for plan in plans:
            if plan.whole & many:
                found += 1
                print(f"reads {', '.join(sorted(plan.whole & many))} whole: {name}: {plan.statement[:200]}")
    print(f"{asked} statements explained, {found} read a table of {FEW_ROWS:,} rows or more from end to end")


def _large_tables(large: Filled) -> set[str]:
    """Tables that an index is worth while for: a few rows are rightly read whole."""
    with large.db.engine.connect() as connection:
        found = connection.scalars(text("SELECT relname FROM pg_class WHERE reltuples >= :few"), {"few": FEW_ROWS})
        return set(found)


def _filled(postgres: EmbeddedPostgres, place: Path, rows: int) -> Filled:
    name, begun = f"rows_{rows}", time.perf_counter()
    postgres.create_database(name)
    schema.upgrade(postgres.url(name))
    made = fill(Database(postgres.url(name)), rows, place / "models")
    print(f"{rows:,} requests filled in {time.perf_counter() - begun:.0f} s", flush=True)
    return made


if __name__ == "__main__":
    main()
