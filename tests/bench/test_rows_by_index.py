"""Whatever is asked often stays quick with a million rows: no plan reads a growing table from end to end.

A few thousand rows are there, and the server's statistics are told that they are a million, so that it plans as it
would then; a table is read whole only where no index could serve.
"""

from __future__ import annotations

from pathlib import Path

from filling import GROWING, fill
from hot_paths import explained, known, lists, others, planning
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db import Database

ROWS, TIMES = 5000, 200
AS_IF_MORE = "UPDATE pg_class SET reltuples = reltuples * :times WHERE relname = ANY(:tables)"


def test_no_path_reads_a_growing_table_from_end_to_end(db: Database, tmp_path: Path) -> None:
    filled = fill(db, ROWS, tmp_path)
    with db.engine.begin() as connection:
        connection.execute(text(AS_IF_MORE), {"times": TIMES, "tables": list(GROWING)})
    who = known(filled)
    paths = {**lists(filled, who), **planning(filled, who), **others(filled, who)}
    walked = 0
    for name, path in paths.items():
        with Session(db.engine) as session:
            session.execute(text("SET LOCAL enable_seqscan = off"))  # some tables have too few rows for an index
            with explained(session.connection()) as plans:
                path(session)
            session.rollback()
        for plan in plans:
            assert not plan.whole & set(GROWING), f"{name}: {plan.nodes}: {plan.statement[:500]}"
        walked += len(plans)
    assert walked > len(paths)
