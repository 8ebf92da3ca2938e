"""The archive of a period's reports: whole, byte by byte as issued, in memory that does not grow with it."""

from __future__ import annotations

import csv
import hashlib
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from tempfile import TemporaryFile
from typing import Any

import pytest
from sqlalchemy import text, update

from app.db import transaction
from app.reports import archive, zipped
from app.reports.zipped import ZipStream
from app.storage import FileStore
from app.tables import Job
from tests.app.service import BAD, Floor

PATH = "/v1/reports.zip"
INDEXES = ("certificates.csv", "index.csv")
AT = datetime(2026, 11, 27, 10, 30, 42, tzinfo=UTC)


def opened(raw: bytes) -> zipfile.ZipFile:
    found = zipfile.ZipFile(io.BytesIO(raw))
    assert found.testzip() is None
    return found


def index_of(found: zipfile.ZipFile) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(found.read("index.csv").decode(), newline="")))


def fetch(floor: Floor, first: date, last: date) -> bytes:
    answer = floor.caller.send("officer", "GET", PATH, params={"from": str(first), "to": str(last)})
    assert answer.status_code == 200, answer.text[:500]
    assert answer.headers["content-type"] == "application/zip"
    assert f"grail-reports-{first}-to-{last}.zip" in answer.headers["content-disposition"]
    return answer.content


def ended(floor: Floor, job_id: Any, at: datetime) -> None:
    with transaction(floor.db) as session:
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=at))


def test_every_job_that_ended_in_the_period_is_in_the_archive_and_no_other(floor: Floor) -> None:
    last = datetime(2026, 3, 2, tzinfo=UTC) - timedelta(microseconds=1)
    times = [
        datetime(2026, 2, 1, tzinfo=UTC), last, datetime(2026, 2, 1, tzinfo=UTC) - timedelta(microseconds=1),
        last + timedelta(microseconds=1),
    ]  # fmt: skip
    jobs = []
    for number, at in enumerate(times, 1):
        floor.ask(number)
        jobs.append(floor.work(BAD if number == 2 else {"ok": True, "checks": []}))
        if number == 2:
            floor.caller.call("operator", "POST", f"/v1/jobs/{floor.order()}/cancel")
        ended(floor, jobs[-1], at)
    found = opened(fetch(floor, date(2026, 2, 1), date(2026, 3, 1)))
    rows = index_of(found)
    assert [(row["job_id"], row["state"], row["version"], row["note"]) for row in rows] == [
        (str(jobs[0]), "published", "2", ""), (str(jobs[1]), "rejected", "3", ""),
    ]  # fmt: skip
    assert found.namelist() == [*(row["file"] for row in rows), *INDEXES]
    for row, job_id in zip(rows, jobs, strict=False):
        document = found.read(row["file"])
        assert document.startswith(f"report of {job_id}".encode())
        assert hashlib.sha256(document).hexdigest() == row["sha256"]
        assert row["served_model"] == "people"
    assert found.getinfo(rows[0]["file"]).date_time == (2026, 2, 1, 0, 0, 0)
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in found.infolist())


def test_what_has_no_report_or_a_damaged_one_is_said_in_the_index(floor: Floor) -> None:
    today = datetime.now(UTC).date()
    floor.ask(1)
    whole = floor.work()
    floor.ask(2)
    damaged = floor.work()
    floor.ask(3)
    cancelled = floor.order()
    floor.caller.call("operator", "POST", f"/v1/jobs/{cancelled}/cancel")
    with floor.db.engine.connect() as connection:
        of_job = text("SELECT digest FROM report WHERE job_id = :job")
        digest = connection.execute(of_job, {"job": damaged}).scalar_one()
    FileStore(floor.settings.artifacts_dir).path(digest).write_bytes(b"other")
    found = opened(fetch(floor, today - timedelta(days=1), today + timedelta(days=1)))
    rows = {row["job_id"]: row for row in index_of(found)}
    assert rows[str(whole)]["note"] == "" and rows[str(whole)]["file"]
    assert rows[str(damaged)]["note"].startswith("damaged") and rows[str(damaged)]["sha256"] == digest
    assert (rows[str(cancelled)]["note"], rows[str(cancelled)]["state"]) == ("no report", "cancelled")
    assert found.namelist() == [f"reports/{whole}.json", *INDEXES]


def test_an_empty_period_is_an_archive_with_an_empty_index(shared: Floor) -> None:
    found = opened(fetch(shared, date(2001, 1, 1), date(2001, 1, 1)))
    assert found.namelist() == [*INDEXES] and index_of(found) == []


@pytest.mark.parametrize(
    "query",
    [
        "", "?from=2026-01-01", "?from=2026-02-01&to=2026-01-01", "?from=x&to=2026-01-01",
        "?from=2026-01-01&to=9999-12-31",
    ],
)
def test_a_period_without_sense_is_refused(shared: Floor, query: str) -> None:
    assert shared.caller.refused("officer", "GET", f"{PATH}{query}") == (422, "unprocessable")


JOBS = text("""
    WITH made AS (
        INSERT INTO batch (id, served_model_id, reason)
        SELECT gen_random_uuid(), served_model_id, 'size' FROM adapter, generate_series(1, :count) WHERE version = 1
        RETURNING id, served_model_id
    ), jobs AS (
        INSERT INTO job (id, served_model_id, batch_id, state, stage, progress, step, steps, losses, timings, artefacts,
                         settings, gate, start_adapter_id, fencing_token, attempts, finished_at)
        SELECT gen_random_uuid(), made.served_model_id, made.id, 'failed', 'failed', 1, 0, 0, '[]', '{}', '{}', '{}',
               '{}', adapter.id, 0, 0, CAST('2026-05-05T00:00:00Z' AS timestamptz)
        FROM made JOIN adapter ON adapter.version = 1
        RETURNING id
    )
    INSERT INTO report (id, job_id, digest, schema_version) SELECT gen_random_uuid(), id, :digest, '1' FROM jobs
""")


def test_memory_does_not_grow_with_the_archive_and_many_jobs_of_one_moment_are_all_in_it(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "AT_ONCE", 7)
    store, count, size = FileStore(floor.settings.artifacts_dir), 150, 400_000
    digest = store.put(b"x" * size)
    with transaction(floor.db) as session:
        session.execute(JOBS, {"count": count, "digest": digest})
    start, end = archive.period(date(2026, 5, 1), date(2026, 5, 31))

    def total(chunks: Iterator[bytes]) -> int:
        return sum(len(chunk) for chunk in chunks)

    total(archive.stream(floor.db, store, start, end))  # statements are compiled
    tracemalloc.start()
    try:
        assert total(archive.stream(floor.db, store, start, end)) > count * size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * size, peak
    found = opened(b"".join(archive.stream(floor.db, store, start, end)))
    assert len(found.namelist()) == len(set(found.namelist())) == count + len(INDEXES)


@pytest.fixture
def stream() -> Iterator[ZipStream]:
    with closing(ZipStream()) as made:
        yield made


@pytest.mark.parametrize(("first", "last"), [("0001-01-01", "0001-01-01"), ("0001-01-01", "9998-12-31")])
def test_a_period_that_no_entry_of_an_archive_can_name_is_an_archive(shared: Floor, first: str, last: str) -> None:
    answer = shared.caller.send("officer", "GET", PATH, params={"from": first, "to": last})
    assert opened(answer.content).namelist()[-1] == "index.csv"


def test_an_archive_that_breaks_off_is_no_archive(stream: ZipStream) -> None:
    raw = b"".join([*stream.entry("a", b"1", AT), *stream.entry("b", b"2", AT)])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(raw))


def test_more_entries_than_a_plain_archive_can_name_are_all_there(stream: ZipStream) -> None:
    count = 66_000
    pieces = [piece for number in range(count) for piece in stream.entry(f"{number}.json", b"{}", AT)]
    end = b"".join(stream.end())
    record = end.index(b"PK\x06\x06")
    assert struct.unpack_from("<QQ", end, record + 24) == (count, count)
    assert end[-14:-10] == b"\xff" * 4, "the plain record says that there is another"
    found = zipfile.ZipFile(io.BytesIO(b"".join([*pieces, end])))
    assert len(found.namelist()) == count
    assert found.read(f"{count - 1}.json") == b"{}"


def test_entries_beyond_four_gibibytes_are_found_again(stream: ZipStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a lower limit on, what is written is what is written beyond the real one."""
    pieces: list[bytes] = []
    with monkeypatch.context() as patch, TemporaryFile() as file:
        patch.setattr(zipped, "MOST_BYTES", 2000)
        for number in range(5):
            pieces += stream.entry(f"é{number}", bytes([number]) * 900, AT)
        file.write(b"index")
        pieces += stream.entry_of("index.csv", file, AT)
    raw = b"".join(pieces)
    assert stream.offset == len(raw)
    found = opened(raw + b"".join(stream.end()))
    assert [found.read(f"é{number}") for number in range(5)] == [bytes([number]) * 900 for number in range(5)]
    assert found.read("index.csv") == b"index"
    assert found.infolist()[4].extra and not found.infolist()[0].extra
