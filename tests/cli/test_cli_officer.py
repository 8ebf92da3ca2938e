"""An officer's commands, over real HTTP: recipients, queue, two approvals, a year in numbers, reports of a period."""

from __future__ import annotations

import json
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.auth import Role
from app.config import Settings
from app.db import Database, transaction
from app.keys.service import create_key
from tests.cli.conftest import Grail
from tests.cli.test_cli_commands import evaluated
from tests.conftest import Keys
from tests.fixtures.served import question


@pytest.fixture(autouse=True)
def key(keys: Keys, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_KEY", keys.admin)


def job_of(grail: Grail, people: str, directory: Path) -> str:
    body = {"forget": [question(1)], "retain": [question(3)]}
    (directory / "body.json").write_text(json.dumps(body))
    grail("requests", "submit", directory / "body.json", "--model", people, "--domain", "privacy")
    return grail("jobs", "run", people).out.strip()


def test_two_officers_are_asked_and_the_queue_says_so(
    grail: Grail, people: str, db: Database, settings: Settings, tmp_path: Path
) -> None:
    grail("models", "policy", people, "--set", "approvals_required=2")
    job_id = job_of(grail, people, tmp_path)
    evaluated(db, settings, job_id, ok=True)
    (item,) = json.loads(grail("officer", "queue", "--kind", "approval", "--json").out)
    assert (item["id"], item["approvals_missing"]) == (job_id, 2)
    assert "approvals missing: 1, by another officer" in grail("jobs", "approve", job_id).err
    assert job_id in grail("officer", "queue").out
    assert "1 more must approve it" in grail("jobs", "approve", job_id, expect=1).err
    with transaction(db) as session:
        _, second = create_key(session, "second", Role.OFFICER)
    said = grail("jobs", "approve", job_id, "--key", second)
    assert "The job is published." in said.err
    assert "Nothing waits" in grail("officer", "queue").err


def test_recipients_are_listed_and_told(grail: Grail, people: str, tmp_path: Path) -> None:
    grail("adapters", "download", people, 1, "--out", tmp_path / "out")
    said = grail("adapters", "recipients", people, 1)
    assert "not notified" in said.out and "admin" in said.out
    (listed,) = json.loads(grail("adapters", "recipients", people, 1, "--json").out)
    refused = grail("adapters", "notified", people, 1, listed["id"], "--channel", "mail", expect=1)
    assert "version 1 is published" in refused.err
    missing = grail("adapters", "notified", people, 1, uuid.uuid4(), "--channel", "By mail", expect=1)
    assert "channel" in missing.err


def test_a_year_in_numbers_and_the_reports_of_a_period(
    grail: Grail, people: str, db: Database, settings: Settings, tmp_path: Path
) -> None:
    job_id = job_of(grail, people, tmp_path)
    evaluated(db, settings, job_id, ok=True)
    now = datetime.now(UTC)
    numbers = json.loads(grail("requests", "statistics", "--year", now.year, "--json").out)
    assert (numbers["total"]["received"], numbers["total"]["done"]) == (1, 1)
    said = grail("requests", "statistics", "--year", now.year, "--model", people).out
    assert "MEDIAN DAYS" in said and "privacy" in said
    day, out = f"{now:%Y-%m-%d}", tmp_path / "reports.zip"
    grail("jobs", "reports", "--from", day, "--to", day, "--out", out)
    assert zipfile.ZipFile(out).namelist() == [f"reports/{job_id}.json", "certificates.csv", "index.csv"]
    grail("jobs", "reports", "--from", day, "--to", "2001-01-01", "--out", tmp_path / "none.zip", expect=1)
    assert [path.name for path in tmp_path.glob("*none*")] == []
