"""The reports of a period as one archive: `reports/<job>.json` for each job that ended in it,
`certificates/<request>.json` for each erasure that it did, and an index of both, `index.csv` and `certificates.csv`.

Documents lie in it byte by byte as they were issued, each compared with its digest on the way. Jobs are read some at a
time, each time in a transaction of its own, so that a slow reader holds none open.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from sqlalchemy import Row

from app.db import Database, transaction
from app.errors import NotFound, Unprocessable
from app.reports import repository
from app.reports.zipped import IN_MEMORY, ZipStream
from app.storage import BlobDamaged, BlobStore
from app.tables import Certificate

AT_ONCE = 200
"""Jobs of one statement."""
CERTIFICATES = ("request_id", "job_id", "issued_at", "sha256", "file", "note")
COLUMNS = ("job_id", "served_model", "state", "finished_at", "version", "sha256", "file", "note")
NO_REPORT, DAMAGED = "no report", "damaged: restore it from a backup"
LAST_YEAR = 9998


def period(first: date, last: date) -> tuple[datetime, datetime]:
    """From the beginning of the first day to the end of the last, by UTC. Raises Unprocessable."""
    if first > last or last.year > LAST_YEAR:
        mend = "Give `from` and `to` as days, the earlier one first."
        raise Unprocessable("the period ends before it begins, or lies beyond all calendars", mend=mend)
    start, end = (datetime.combine(day, time.min, UTC) for day in (first, last + timedelta(days=1)))
    return start, end


def stream(db: Database, blobs: BlobStore, start: datetime, end: datetime) -> Iterator[bytes]:
    """The archive, piece by piece. Raises Unavailable."""
    written, at = ZipStream(), end - timedelta(seconds=2)
    with SpooledTemporaryFile(IN_MEMORY) as index, SpooledTemporaryFile(IN_MEMORY) as certified, closing(written):
        index.write(_line(COLUMNS))
        certified.write(_line(CERTIFICATES))
        for row in _jobs(db, start, end):
            yield from _document(written, index, row, blobs)
            for certificate in _certificates(db, row.id):
                yield from _certificate(written, certified, certificate, blobs)
        yield from written.entry_of("certificates.csv", certified, at)
        yield from written.entry_of("index.csv", index, at)
        yield from written.end()


def _jobs(db: Database, start: datetime, end: datetime) -> Iterator[Row[Any]]:
    after = None
    while True:
        with transaction(db) as session:
            rows = repository.concluded(session, start, end, after, AT_ONCE)
        yield from rows
        if len(rows) < AT_ONCE:
            return
        after = rows[-1].finished_at, rows[-1].id


def _document(written: ZipStream, index: IO[bytes], row: Row[Any], blobs: BlobStore) -> Iterator[bytes]:
    """The report of a job, if there is one and it is whole; its line of the index."""
    name, note = f"reports/{row.id}.json", ""
    if row.digest is None:
        name, note = "", NO_REPORT
    else:
        try:
            yield from written.entry(name, blobs.get(row.digest), row.finished_at.astimezone(UTC))
        except (NotFound, BlobDamaged):
            name, note = "", DAMAGED
    finished = row.finished_at.astimezone(UTC).isoformat(timespec="seconds")
    index.write(_line((row.id, row.name, row.state, finished, row.version, row.digest, name, note)))


def _certificates(db: Database, job_id: uuid.UUID) -> Iterator[Certificate]:
    after = None
    while True:
        with transaction(db) as session:
            rows = repository.certificates(session, job_id, after, AT_ONCE)
            session.expunge_all()
        yield from rows
        if len(rows) < AT_ONCE:
            return
        after = rows[-1].request_id


def _certificate(written: ZipStream, index: IO[bytes], row: Certificate, blobs: BlobStore) -> Iterator[bytes]:
    """A certificate, if it is whole; its line of the index."""
    name, note = f"certificates/{row.request_id}.json", ""
    try:
        yield from written.entry(name, blobs.get(row.digest), row.issued_at.astimezone(UTC))
    except (NotFound, BlobDamaged):
        name, note = "", DAMAGED
    issued = row.issued_at.astimezone(UTC).isoformat(timespec="seconds")
    index.write(_line((row.request_id, row.job_id, issued, row.digest, name, note)))


def _line(values: tuple[Any, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow("" if value is None else value for value in values)
    return text.getvalue().encode()
