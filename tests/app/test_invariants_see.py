"""The eyes of tests/faults and bench/chaos.py: each thing that could be lost or done twice is seen when it is there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from app.audit_log.checkpoints import issue_checkpoint
from app.audit_log.sequencing import number_all
from app.db import transaction
from app.trust.keys import Ed25519Signer
from tests.app.service import Floor
from tests.faults import invariants
from tests.faults.callers import CANARY
from tests.faults.deeds import DONE, IN_DOUBT, REFUSED, Deed
from tests.fixtures.served import question


class Still:
    """What invariants ask of a ground, of a service that is at rest."""

    def __init__(self, floor: Floor, logs: Path) -> None:
        self.url = floor.settings.database_url.replace("+psycopg", "")
        self.data = floor.settings.data_dir
        self.stack = SimpleNamespace(logs=logs)
        logs.mkdir()

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(statement, values).fetchall()  # type: ignore[call-overload]

    def break_it(self, statement: str) -> None:
        """As no code of ours would: rules and triggers do not hold."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SET session_replication_role = replica")
            assert connection.execute(statement).rowcount > 0, "nothing was broken"  # type: ignore[arg-type]


@pytest.fixture
def still(floor: Floor, tmp_path: Path) -> Still:
    return Still(floor, tmp_path / "logs")


@pytest.fixture
def accepted(floor: Floor) -> dict[str, str]:
    """Two requests of one job, published."""
    found = {name: floor.ask(number, client_reference=name) for number, name in ((1, "one"), (2, "two"))}
    number_all(floor.db, 5, rounds=1)
    with transaction(floor.db) as session:
        issue_checkpoint(session, [Ed25519Signer.new("log.example.com")], datetime.now(UTC))
    floor.work()
    return found


def seen(
    still: Still, accepted: dict[str, str], *, tried: tuple[str, ...] = ("one", "two"), **became: dict[str, str]
) -> list[str]:
    deeds = {name: Deed(became=what) for name, what in became.items()}
    return invariants.broken(still, "people", accepted, tried, deeds)  # type: ignore[arg-type]


def test_nothing_is_seen_where_nothing_is_broken(still: Still, accepted: dict[str, str]) -> None:
    assert seen(still, accepted) == []


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("DELETE FROM request WHERE client_reference = 'one'", "is not there"),
        ("UPDATE request SET client_reference = 'one'", "is there 2 times"),
        ("UPDATE request SET state = 'running', completed_at = NULL WHERE client_reference = 'two'", "ended as"),
        ("UPDATE request SET id = gen_random_uuid() WHERE client_reference = 'two'", "another id"),
        ("UPDATE adapter SET job_id = NULL WHERE version = 2", "published with 0 versions"),
        ("UPDATE adapter SET state = 'candidate' WHERE version = 2", "its candidate is candidate"),
        ("UPDATE adapter SET parent_id = NULL WHERE version = 2", "another parent"),
        ("UPDATE served_model SET active_adapter_id = (SELECT id FROM adapter WHERE version = 1)", "the alias"),
        ("UPDATE served_model SET alias_revision = 2", "moved 2 times"),
        ("UPDATE adapter SET state = 'published' WHERE version = 1", "older versions"),
        ("UPDATE adapter SET manifest = jsonb_set(manifest, '{files}', '[]')", "version"),
        ("DELETE FROM report", "0 reports"),
        ("DELETE FROM audit WHERE event = 'request.published'", "the trail ends at"),
        ("INSERT INTO audit (event, subject_id, leaf) SELECT event, subject_id, leaf FROM audit "
         "WHERE event = 'request.running'", "leads from published to running"),
        ("INSERT INTO audit (event, subject_id, leaf) SELECT event, subject_id, leaf FROM audit "
         "WHERE event = 'request.published'", "leads from published to published"),
        ("DELETE FROM audit WHERE event = 'request.batched'", "leads from"),
        ("DELETE FROM event WHERE kind = 'request.published'", "events have"),
        ("INSERT INTO event (kind, request_id, served_model_id, data, created_at) SELECT kind, request_id, "
         "served_model_id, data, created_at FROM event WHERE kind = 'request.running'", "events have"),
        ("DELETE FROM audit_pending WHERE audit_id = 9", "neither has a number"),
        ("DELETE FROM log_leaf WHERE position = 1", "have a gap"),
        ("UPDATE log_leaf SET hash = sha256('other') WHERE position = 1", "number 1 has another hash"),
        ("UPDATE checkpoint SET root = sha256('other')", "is not of those that are there"),
        ("UPDATE checkpoint SET size = 1000", "is not of those that are there"),
        ("UPDATE job SET fencing_token = fencing_token + 1", "claims with"),
        ("UPDATE job SET state = 'rejected'", "is rejected, its version"),
    ],
)  # fmt: skip
def test_what_is_broken_in_the_rows_is_seen(
    still: Still, accepted: dict[str, str], statement: str, word: str
) -> None:
    still.break_it(statement)
    found = seen(still, accepted)
    assert any(word in one for one in found), found


AGAIN = """
INSERT INTO audit (event, subject_id, leaf) SELECT '{}', subject_id, leaf FROM audit WHERE event = '{}' LIMIT 1
"""


@pytest.mark.parametrize(
    ("became", "statement", "word"),
    [
        ({"withdraw": DONE}, None, "ended as published"),
        ({"withdraw": DONE}, None, "withdraw was done, the trail has it 0 times"),
        ({"refuse": DONE}, None, "refuse was done, the trail has it 0 times"),
        ({"extend": DONE}, None, "extend was done, the trail has it 0 times"),
        ({"hold": DONE, "resume": DONE}, None, "resume was done, the trail has it 0 times"),
        ({"withdraw": REFUSED}, ("request.withdrawn", "request.running"), "withdraw was refused, the trail has it 1"),
        ({}, ("request.resumed", "request.running"), "resume was not asked for, the trail has it 1 times"),
        ({}, ("request.extended", "request.running"), "differ about an extension"),
        ({}, ("job.approved", "job.published"), "approved 1 times"),
    ],
)  # fmt: skip
def test_what_people_were_told_and_what_is_so_are_compared(
    still: Still, accepted: dict[str, str], became: dict[str, str], statement: tuple[str, str] | None, word: str
) -> None:
    if statement is not None:
        still.break_it(AGAIN.format(*statement))
    found = seen(still, accepted, one=became, two=became)
    assert any(word in one for one in found), found


def test_what_ended_otherwise_and_is_in_a_version_is_seen(still: Still, accepted: dict[str, str]) -> None:
    still.break_it("UPDATE request SET state = 'withdrawn' WHERE client_reference = 'one'")
    found = seen(still, accepted, one={"withdraw": IN_DOUBT})
    assert any("is withdrawn and in 1 versions" in one for one in found), found
    assert not any("ended as" in one for one in found), "which of both it is nobody was told"
    still.break_it("UPDATE served_model SET policy = policy || '{\"require_approval\": true}'")
    assert any("is published and was approved 0 times" in one for one in seen(still, accepted))


def test_a_request_that_nobody_sent_is_seen(still: Still, accepted: dict[str, str]) -> None:
    assert "two was never sent" in seen(still, accepted, tried=("one",))


@pytest.mark.parametrize(
    ("place", "word"),
    [("adapters/people-v000009", "belongs to no version"), ("artifacts/ab/.tmp", "never ended"),
     ("artifacts/ab/cd.partial", "never ended"), ("artifacts/ab/abcd", "no job's report"), ("scratch/job", "is over")],
)  # fmt: skip
def test_files_that_nobody_names_are_seen(still: Still, accepted: dict[str, str], place: str, word: str) -> None:
    path = still.data / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"left")
    found = seen(still, accepted)
    assert any(word in one for one in found), found


def test_weights_that_changed_on_the_disk_are_seen(still: Still, accepted: dict[str, str]) -> None:
    (directory,) = (still.data / "adapters").glob("people-v000002*")
    weights = directory / "adapter_model.safetensors"
    directory.chmod(0o755)
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    found = seen(still, accepted)
    assert any("version 2" in one for one in found), found


def test_a_text_in_a_log_is_seen(still: Still, accepted: dict[str, str]) -> None:
    (still.stack.logs / "gpu.log").write_text(f"well\n{question(1)['prompt']} {CANARY}\n", encoding="utf-8")
    assert "gpu.log:2 holds a text" in seen(still, accepted)
