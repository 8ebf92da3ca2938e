"""How long an import of many rows takes, how long its last transaction is open, and what memory its worker takes.

    python bench/imports.py                         1,000, 10,000 and 100,000 rows, one after the other
    python bench/imports.py --rows 10000 --before 100000

An embedded Postgres that syncs, in a temporary directory; each import in a process of its own. A row is a request of
one key with three items of some 60 tokens to forget; each tenth has an item to retain, each twentieth asks what the one
before it asks. `--before` requests are there already. Rows are generated, uploads not timed. `events held` is the last
transaction: for so long events of others wait, and, from `models held` on, requests for the same served model.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from own_secrets import set_secrets
from provenance import commit
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import schema
from app.auth import Principal, Role
from app.config import load_settings
from app.db import Database, transaction
from app.embedded.postgres import EmbeddedPostgres
from app.ids import new_id
from app.imports import run, service, spool
from app.imports.spool import Upload
from app.keys.service import create_key
from app.requests import bulk
from app.tables import ImportForm, Request

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fixtures.served import add_model

WORDS = (
    "the", "a", "some", "this", "that", "house", "tree", "river", "stone", "light", "green", "old", "new", "far",
    "near", "under", "over", "between", "city", "road",
)  # fmt: skip


def row(number: int) -> dict[str, Any]:
    """One request; each twentieth is that before it once more."""
    number -= number % 20 == 19
    items = [{"prompt": f"What of {number} and {one}?", "completion": _text(number * 3 + one)} for one in range(3)]
    keep = [{"prompt": f"What stays of {number}?", "completion": _text(number + 10**8)}] if number % 10 == 0 else []
    return {"served_model": "people", "domain": "privacy", "forget": items, "retain": keep}


def _text(number: int) -> str:
    return " ".join(WORDS[(number * 31 + at * at) % len(WORDS)] for at in range(48)) + f" {number}"


def bring(db: Database, rows: int, who: Principal) -> uuid.UUID:
    """An upload of so many rows."""
    path = spool.place(load_settings().data_dir, new_id())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(json.dumps(row(number)).encode() + b"\n" for number in range(rows))
    upload = Upload(uuid.UUID(path.name), path, path.stat().st_size, b"")
    with transaction(db) as session:
        service.create(session, upload, ImportForm.JSONL, who, datetime.now(UTC), partial=False)
    return upload.id


def peak_megabytes() -> float:
    """Of this process alone: what getrusage says begins with the parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def work(import_id: uuid.UUID) -> None:
    """The worker's side, in a process of its own: prints what it measured."""
    taken = {"longest": 0.0, "held": 0.0}
    open_, hold = run.transaction, bulk.hold_models

    @contextmanager
    def timed(db: Database) -> Iterator[Session]:
        begun = time.perf_counter()
        with open_(db) as session:
            yield session
        seconds = time.perf_counter() - begun
        if seconds > taken["longest"]:
            taken["longest"], taken["ended"] = seconds, time.perf_counter()

    def noted(session: Session) -> Any:
        taken["held"] = time.perf_counter()
        return hold(session)

    run.transaction, bulk.hold_models = timed, noted  # type: ignore[assignment]  # measured from outside
    settings, before = load_settings(), peak_megabytes()
    begun = time.perf_counter()
    run.run(Database(settings.database_url), settings, import_id)
    print(json.dumps({
        "seconds": time.perf_counter() - begun, "longest": taken["longest"], "held": taken["ended"] - taken["held"],
        "before": before, "peak": peak_megabytes(),
    }))  # fmt: skip


def measure(postgres: EmbeddedPostgres, place: Path, rows: int, before: int) -> str:
    """A line of the table."""
    name = f"rows_{rows}"
    postgres.create_database(name)
    os.environ |= {"GRAIL_DATABASE_URL": postgres.url(name), "GRAIL_DATA_DIR": str(place / name)}
    load_settings.cache_clear()
    schema.upgrade(postgres.url(name))
    db = Database(postgres.url(name))
    with transaction(db) as session:
        add_model(session, place / name, context_tokens=512)
        keys = [create_key(session, owner, Role.REQUESTER)[0] for owner in ("one", "other")]
        session.flush()
        mine, others = (Principal(key.id, key.name, key.role) for key in keys)
    if before:
        _in_process(bring(db, before, others))
    found = _in_process(bring(db, rows, mine))
    with db.session_factory() as session:
        count = select(func.count()).where(Request.created_by == mine.key_id)
        stored, linked = session.scalar(count), session.scalar(count.where(Request.state == "linked"))
    db.dispose()
    assert (stored, linked) == (rows, rows // 20)
    return (
        f"| {rows:,} | {before:,} | {found['seconds']:.1f} | {found['longest']:.1f} | {found['held']:.1f} "
        f"| {found['before']:.0f} MB | {found['peak']:.0f} MB |"
    )


def _in_process(import_id: uuid.UUID) -> dict[str, float]:
    made = subprocess.run(
        [sys.executable, __file__, "--work", str(import_id)], capture_output=True, text=True, check=True
    )  # fmt: skip
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--before", type=int, default=0)
    parser.add_argument("--work", type=uuid.UUID, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    set_secrets()
    if asked.work:
        work(asked.work)
        return
    print(f"commit {commit()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| rows | there before | seconds | events held | models held | memory at the start | peak |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="grail-imports-") as place,
        EmbeddedPostgres(Path(place) / "postgres") as postgres,
    ):
        for rows in asked.rows:
            print(measure(postgres, Path(place), rows, asked.before), flush=True)


if __name__ == "__main__":
    main()
