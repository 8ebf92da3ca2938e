"""Certificates are issued once and kept, whatever dies, fails or is damaged on the way."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from app.backup import service as backup
from app.certificates import issuing
from app.certificates.schemas import AS_READ
from app.db import transaction
from app.orphans import service as orphans
from app.storage import FileStore
from app.tables import Job, Report, Request
from app.trust.canonical import canonical
from tests.app.bundles.concluded import concluded
from tests.app.certificates.certified import FORMATS, VALIDATOR, asked_of, drive, leaves, path_of, read, rows
from tests.app.service import Floor
from tests.fixtures.deaths import killed_at, places, step_of


def test_two_rings_and_two_workers_issue_one(floor: Floor) -> None:
    floor.ask(30)
    concluded(floor)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: drive(floor), range(4)))
    drive(floor)
    assert len(rows(floor)) == len(leaves(floor)) == 2
    before = [row.digest for row in rows(floor)]
    with transaction(floor.db) as session:
        session.execute(update(Report).values(certified_at=None))
    drive(floor)
    assert [row.digest for row in rows(floor)] == before, "it stays as it is"


def test_a_worker_that_was_overtaken_adds_nothing(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    concluded(floor)
    note = issuing._note

    def overtaken(*given: Any) -> Any:
        monkeypatch.setattr(issuing, "_note", note)
        given[0].rollback()
        drive(floor)
        return note(*given)

    monkeypatch.setattr(issuing, "_note", overtaken)
    drive(floor)
    assert len(rows(floor)) == len(leaves(floor)) == 1


class Died(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("place", ["_made", "_note", "add", "leaf_about"])
def test_what_ends_between_publication_and_certificate_loses_nothing(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    request_id = asked_of(floor, concluded(floor))

    def dies(*_: Any, **__: Any) -> Any:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(issuing, place, dies)
        with pytest.raises(Died):
            drive(floor)
    assert rows(floor) == [] and leaves(floor) == []
    assert floor.caller.refused("requester", "GET", path_of(request_id)) == (404, "no-certificate")
    drive(floor)
    assert len(rows(floor)) == len(leaves(floor)) == 1
    VALIDATOR.validate(read(floor, request_id))


CHILD = """
import sys
from app.certificates import issuing
from app.config import load_settings
from app.db import Database
from app.storage import FileStore
from sqlalchemy.orm import Session
from tests.fixtures.deaths import dies_at

dies_at(int(sys.argv[1]), (Session, "commit"), (FileStore, "_place"))
issuing.drive(Database(load_settings().database_url), load_settings(), retry_seconds=0.0)
"""


def test_a_process_killed_at_any_place_leaves_what_the_next_one_finishes(floor: Floor) -> None:
    """At each fifth place, the first among them; at all of them with GRAIL_FAULTS=all."""
    deaths = 0
    for place in places(40, by=5):
        request_id = asked_of(floor, concluded(floor, place))
        if not killed_at(place, CHILD):
            break
        deaths += 1
        drive(floor)
        assert len(rows(floor)) == len(leaves(floor)) == deaths, f"killed at {place}"
        VALIDATOR.validate(read(floor, request_id))
    assert deaths > 9 // step_of(5), "there are so many places at which it could die"


def test_the_ring_of_bundles_issues_them_without_any_key(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import tasks
    from worker.celery import celery

    monkeypatch.setitem(celery.tasks["grail.bundle_reports"].__dict__, "db", floor.db)
    request_id = asked_of(floor, concluded(floor))
    tasks.bundle_reports()
    VALIDATOR.validate(read(floor, request_id))


def test_one_that_fails_for_good_holds_up_no_other_and_operators_hear_of_it(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "AT_ONCE", 1)
    lost, whole = concluded(floor, 1), concluded(floor, 2)
    with floor.db.session_factory() as session:
        digest = session.scalars(select(Report.digest).where(Report.job_id == lost)).one()
    path = FileStore(floor.settings.artifacts_dir).path(digest)
    kept = path.read_bytes()
    path.unlink()
    for _ in range(3):
        drive(floor)
    assert [row.job_id for row in rows(floor)] == [whole]
    monkeypatch.setattr(issuing, "RETRY_SECONDS", 0.0)
    assert "certificates" in floor.caller.client.get("/readyz").json()["warnings"]
    path.write_bytes(kept)
    drive(floor)
    assert {row.job_id for row in rows(floor)} == {lost, whole}
    with floor.db.session_factory() as session:
        assert issuing.waiting(session) is None


def test_a_report_that_says_nothing_of_the_request_certifies_nothing(floor: Floor) -> None:
    job_id = concluded(floor)
    blobs = FileStore(floor.settings.artifacts_dir)
    with transaction(floor.db) as session:
        report = session.scalars(select(Report).where(Report.job_id == job_id)).one()
        report.digest = blobs.put(canonical({**json.loads(blobs.get(report.digest)), "requests": []}))
    drive(floor)
    assert rows(floor) == [] and leaves(floor) == []


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_certificate_that_is_not_what_was_issued_is_not_shown(floor: Floor, harm: str) -> None:
    request_id = asked_of(floor, concluded(floor))
    drive(floor)
    path = FileStore(floor.settings.artifacts_dir).path(rows(floor)[0].digest)
    for other in floor.settings.artifacts_dir.rglob("*"):
        os.utime(other, (1, 1))
    orphans.remove(floor.db, floor.settings)
    assert path.is_file(), "a row names it"
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b'"ok":true', b'"ok": true', 1))
    for format_ in FORMATS:
        refused = floor.caller.refused("requester", "GET", path_of(request_id), params={"format": format_})
        assert refused == (500, "certificate-damaged")
    with floor.db.session_factory() as session:
        found = backup.check(session, floor.settings)
    assert f"document {path.name}" in [*found.damaged, *found.missing]


def test_the_archive_of_a_period_holds_them_byte_by_byte(floor: Floor) -> None:
    floor.ask(30, role="other")
    job_id = concluded(floor)
    drive(floor)
    today = datetime.now(UTC).date()
    days = {"from": str(today - timedelta(days=1)), "to": str(today + timedelta(days=1))}
    answer = floor.caller.send("officer", "GET", "/v1/reports.zip", params=days)
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    index = list(csv.DictReader(io.StringIO(archive.read("certificates.csv").decode(), newline="")))
    assert [row["request_id"] for row in index] == [str(row.request_id) for row in rows(floor)] and len(index) == 2
    for row in index:
        raw = archive.read(row["file"])
        assert hashlib.sha256(raw).hexdigest() == row["sha256"] and row["job_id"] == str(job_id)
        assert json.loads(raw)["request"]["id"] == row["request_id"] and AS_READ not in json.loads(raw)
    assert archive.testzip() is None


def test_jobs_from_before_get_theirs(floor: Floor) -> None:
    job_id = concluded(floor)
    with transaction(floor.db) as session:
        long_ago = datetime.now(UTC) - timedelta(days=300)
        session.execute(update(Job).values(finished_at=long_ago))
        session.execute(update(Request).values(received_at=long_ago - timedelta(days=3), completed_at=long_ago))
    drive(floor)
    assert read(floor, asked_of(floor, job_id))["job"]["ended_at"].startswith(str(long_ago.date()))
