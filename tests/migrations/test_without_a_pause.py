"""Migrations while the service runs: the statements that they make are of kinds that hold nobody up for long, they wait
for locks briefly and try again, and the code of the version before goes on answering on the schema of this one."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError

from app import schema
from app.auth import Role
from app.embedded.services import EmbeddedServices
from tests.app import weights
from tests.fixtures.served import question

ROOT = Path(__file__).resolve().parents[2]
PREVIOUS = "1fab4ae0edd55f0f7efc7e1ffd7ed1031551699f"
"""The version before: the last commit whose newest revision is FROM. Moved forward with each release."""
FROM = "0009"
EXEMPT = {"0002", "0003"}
"""From before there was anything that ran."""
OF_ITS_OWN_VERSION = {"0008": {"webhook", "delivery"}}
"""Tables that an earlier migration of the same version had made, so that nobody has had rows in them yet."""
ALLOWED = {
    "0018": {
        "nothing is renamed: the code before knows the old name",
        "an index on a table in use is built CONCURRENTLY",
    },
}
"""0018: in the transaction of the renaming an empty table takes the name, whose indexes are those of the old one."""
CONTRACT = "Contracting:"
"""How the docstring begins of a migration that takes something away which no code in use knows any more."""
TABLES = text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


def faults(statement: str, existing: set[str], *, contracting: bool = False) -> list[str]:
    """What of a statement would hold up, or break, a service that runs."""
    said = " ".join(statement.split()).lower()
    table = re.match(r"(?:alter table|create (?:unique )?index.* on) (?:only |if exists )?\"?(\w+)\"?", said)
    if table is None or table[1] not in existing:
        return []
    rules = {
        "an index on a table in use is built CONCURRENTLY": "index" in said[:20] and "concurrently" not in said,
        "a column without a default can not be NOT NULL": bool(re.search(r"add column (?!.*default).*not null", said)),
        "a volatile default rewrites the table": bool(re.search(r"add column .*default (\w*random|clock|uuid)", said)),
        "a constraint is added NOT VALID, and validated later": bool(
            re.search(r"add (constraint .*)?(check|foreign key)", said)
        ) and "not valid" not in said,
        "a unique constraint takes an index that was built before": bool(
            re.search(r"add (constraint \w+ )?(unique|primary key) *\(", said)
        ),
        "a type is not changed: add a column and fill it": bool(re.search(r"alter column \w+ (set data )?type", said)),
        "NOT NULL is a CHECK, NOT VALID, that is validated later": "set not null" in said,
        "nothing is renamed: the code before knows the old name": " rename " in said,
        "nothing is taken away before a contracting migration": bool(re.search(r"drop (column|table)", said))
        and not contracting,
    }  # fmt: skip
    return [rule for rule, broken in rules.items() if broken]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX ix_x ON request (due_at)",
        "CREATE UNIQUE INDEX ix_x ON request (due_at)",
        "ALTER TABLE request ADD COLUMN x INTEGER NOT NULL",
        "ALTER TABLE request ADD COLUMN x UUID DEFAULT uuidv7() NOT NULL",
        "ALTER TABLE request ADD CONSTRAINT c CHECK (x > 0)",
        "ALTER TABLE request ADD CONSTRAINT c FOREIGN KEY(x) REFERENCES key (id)",
        "ALTER TABLE request ADD CONSTRAINT c UNIQUE (x)",
        "ALTER TABLE request ALTER COLUMN x TYPE BIGINT",
        "ALTER TABLE request ALTER COLUMN x SET NOT NULL",
        "ALTER TABLE request RENAME COLUMN x TO y",
        "ALTER TABLE request RENAME TO demand",
        "ALTER TABLE request DROP COLUMN x",
    ],
)
def test_what_would_hold_up_a_service_is_refused(statement: str) -> None:
    assert len(faults(statement, {"request"})) == 1
    assert faults(statement, {"of this migration"}) == []


def test_what_expands_is_not_refused() -> None:
    for statement in (
        "CREATE INDEX CONCURRENTLY ix_x ON request (due_at)",
        "ALTER TABLE request ADD COLUMN x INTEGER",
        "ALTER TABLE request ADD COLUMN x INTEGER DEFAULT '0' NOT NULL",
        "ALTER TABLE request ADD CONSTRAINT c CHECK (x > 0) NOT VALID",
        "ALTER TABLE request VALIDATE CONSTRAINT c",
    ):
        assert faults(statement, {"request"}) == []
    assert faults("ALTER TABLE request DROP COLUMN x", {"request"}, contracting=True) == []


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Every statement that any engine sends."""
    statements: list[str] = []

    def note(_c: Any, _k: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield statements
    event.remove(Engine, "before_cursor_execute", note)


def found_in(url: str, heard: list[str]) -> tuple[dict[str, list[str]], int]:
    """What is wrong with each migration on the way from nothing to the newest, and how many alterations were seen."""
    script = ScriptDirectory.from_config(schema.configuration(""))
    engine = create_engine(url)
    found, altering = {}, 0
    for revision in reversed(list(script.walk_revisions())):
        with engine.connect() as connection:
            existing = set(connection.scalars(TABLES)) - OF_ITS_OWN_VERSION.get(revision.revision, set())
        heard.clear()
        schema.upgrade(url, revision.revision)
        made = list(heard)
        assert any("lock_timeout = '2s'" in statement for statement in made)
        if revision.revision in EXEMPT:
            continue
        altering += sum(statement.strip().startswith("ALTER TABLE") for statement in made)
        contracting = (revision.doc or "").startswith(CONTRACT)
        wrong = [fault for statement in made for fault in faults(statement, existing, contracting=contracting)
                 if fault not in ALLOWED.get(revision.revision, ())]  # fmt: skip
        if wrong:
            found[revision.revision] = wrong
    engine.dispose()
    return found, altering


def test_every_migration_only_expands(empty_url: str, heard: list[str]) -> None:
    found, altering = found_in(empty_url, heard)
    assert found == {}
    assert altering > 20, "it looks at something"


BAD = """from alembic import op
revision, down_revision, branch_labels, depends_on = "bad", {head!r}, None, None
def upgrade():
    op.create_index("ix_bad", "webhook", ["url"])
    op.alter_column("delivery", "attempts", nullable=False)
"""
BAD_TOO = """    op.create_index("ix_more", "request", ["note"])
    op.add_column("key", sa.Column("x", TIME, nullable=False))
"""


def test_a_bad_migration_is_seen_and_so_is_bad_work_in_one_that_is_partly_exempt(
    empty_url: str, heard: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0008 may change the tables that its own version made, and no other; a later one not even those."""
    place = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, place, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "versions" / "9999_bad.py").write_text(BAD.format(head=schema.head()))
    (eighth,) = [path for path in (place / "versions").glob("*.py") if '\nrevision = "0008"' in path.read_text()]
    begins = "def upgrade() -> None:\n"
    eighth.write_text(eighth.read_text().replace(begins, begins + BAD_TOO))
    monkeypatch.setattr(schema, "MIGRATIONS", place)
    found, _ = found_in(empty_url, heard)
    index = "an index on a table in use is built CONCURRENTLY"
    assert found == {
        "0008": [index, "a column without a default can not be NOT NULL"],
        "bad": [index, "NOT NULL is a CHECK, NOT VALID, that is validated later"],
    }


def test_a_migration_that_gets_no_lock_lets_others_pass_and_tries_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that reads for a long time holds the table; calls between the tries come through."""
    schema.downgrade(database_url, FROM)
    engine, passed = create_engine(database_url), []
    reader = engine.connect()
    reader.execute(text("SELECT count(*) FROM request"))

    def pause(_: float) -> None:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '1ms'"))
            passed.append(connection.execute(text("SELECT count(*) FROM request")).scalar_one())
        if len(passed) == 2:
            reader.rollback()

    monkeypatch.setattr(schema.time, "sleep", pause)
    schema.upgrade(database_url)
    assert passed == [0, 0]
    assert schema.current(database_url) == schema.head()
    reader.execute(text("SELECT count(*) FROM request"))
    with pytest.raises(OperationalError):
        monkeypatch.setattr(schema, "PAUSES", ())
        schema.downgrade(database_url, FROM)
        schema.upgrade(database_url)
    reader.close()
    engine.dispose()


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The code of the version before. Skips the test where the history is not there."""
    archived = subprocess.run(["git", "archive", PREVIOUS], cwd=ROOT, capture_output=True, check=False)
    if archived.returncode != 0:
        pytest.skip(f"the commit {PREVIOUS} is not in this checkout: the version before was not run on the new schema")
    place = tmp_path / "before"
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as tar:
        tar.extractall(place, filter="data")
    return place


KEYS = """
import sys
from app.auth import Role
from app.config import load_settings
from app.db import Database, transaction
from app.keys.service import create_key
with transaction(Database(load_settings().database_url)) as session:
    for role in sys.argv[1:]:
        print(create_key(session, role, Role(role))[1])
"""


def test_the_version_before_answers_while_the_schema_becomes_this_ones(
    before: Path, services: EmbeddedServices, empty_url: str, tmp_path: Path
) -> None:
    schema.upgrade(empty_url, FROM)
    environment = {
        **os.environ, "PYTHONPATH": str(before), "GRAIL_DATABASE_URL": empty_url,
        "GRAIL_MODEL_ROOTS": f'["{tmp_path}"]', "GRAIL_BROKER_URL": services.broker_url,
        "GRAIL_DATA_DIR": str(tmp_path / "data"),
    }  # fmt: skip
    run = [sys.executable, "-c"]
    roles = [Role.OPERATOR.value, Role.REQUESTER.value]
    made = subprocess.run([*run, KEYS, *roles], env=environment, cwd=before, check=True, capture_output=True, text=True)
    keys = dict(zip(roles, made.stdout.split(), strict=True))
    with subprocess.Popen(
        [*run, "from cli.main import main; main()", "api", "--port", "0"], env=environment, cwd=before,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        deadline = threading.Timer(120, process.kill)
        deadline.start()
        assert process.stderr is not None
        line = next((line for line in process.stderr if "Uvicorn running on" in line), "")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        address = line.split("running on ")[1].split()[0].strip('"')
        try:
            statuses = asked_meanwhile(address, keys, empty_url, tmp_path)
        finally:
            process.terminate()
            process.wait()
            deadline.cancel()
    assert schema.current(empty_url) == schema.head()
    assert set(statuses) == {200, 202}, statuses
    assert len(statuses) > 10


def asked_meanwhile(address: str, keys: dict[str, str], url: str, place: Path) -> list[int]:
    """Every answer before, while and after the schema is migrated."""
    statuses: list[int] = []
    ended = threading.Event()

    def client(role: str) -> httpx.Client:
        return httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {keys[role]}"}, timeout=60, trust_env=False
        )

    body = {"name": "people", "base_model_path": str(weights.base_model(place / "base")),
            "adapter_path": str(weights.adapter(place / "adapter"))}  # fmt: skip
    with client("operator") as operator:
        assert operator.post("/v1/models", json=body).status_code == 201

    def ask() -> None:
        with client("requester") as requester:
            while not ended.is_set():
                number = uuid.uuid4().int % 10**6
                body = {"served_model": "people", "domain": "privacy", "forget": [question(number)]}
                posted = requester.post("/v1/requests", json=body)
                read = requester.get("/v1/requests")
                statuses.extend((posted.status_code, read.status_code))

    thread = threading.Thread(target=ask)
    thread.start()
    _until(lambda: len(statuses) >= 4)
    schema.upgrade(url)
    seen = len(statuses)
    _until(lambda: len(statuses) >= seen + 6)
    ended.set()
    thread.join()
    return statuses


def _until(is_so: Any) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
