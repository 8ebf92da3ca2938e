"""One import from its file to its requests.

Whole (the default): every row is checked first; if one is wrong nothing is imported, else all rows are, in one
transaction. A worker that dies has stored nothing, and the next one starts anew.

`partial`: rows are checked and imported some at a time. How far that is stands in the import's row and is committed
with the requests themselves, so that the next worker goes on where the last one ended, and no row is imported twice.

Memory does not grow with the rows, but for the ids of a whole import, which are kept until its commit.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import structlog
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import Database, clock, transaction
from app.errors import Unprocessable
from app.imports import service, spool
from app.imports.chunks import Chunk, StoredIds
from app.imports.errors import LeaseLost
from app.imports.faults import FaultFile
from app.imports.rows import ROW, Fault, Row, rows_of
from app.imports.service import Ended, Taken
from app.requests import bulk
from app.requests.errors import UnknownServedModel
from app.requests.known import known_model
from app.requests.service import Asked, prepare
from app.storage import FileStore
from app.tables import ImportState, ServedModel

RENEWALS = 4
"""How often a lease is renewed in its time."""
NAMES_KEPT = 1000
"""Names of served models, also of such as there are none, that one import remembers."""

log = structlog.get_logger(__name__)


class Changed(Exception):
    """A row that was found right is wrong now: a served model changed meanwhile. The next worker says what is wrong."""


def run(db: Database, settings: Settings, import_id: uuid.UUID) -> None:
    """Take up an import and bring it to its end. Nothing when somebody else has it, or it is done."""
    with transaction(db) as session:
        taken = service.claim(session, import_id, clock(session), settings.lease_seconds)
    if taken is None:
        return
    log.info("import_claimed", import_id=str(import_id), attempts=taken.token)
    try:
        _Work(db, settings, taken).to_its_end()
    except LeaseLost:
        log.warning("lease_lost", import_id=str(import_id), token=taken.token)


@dataclass(frozen=True, slots=True)
class _Tally:
    """How far an import has come: rows of the file, requests stored and refused."""

    rows: int = 0
    imported: int = 0
    refused: int = 0


class _Work:
    """One worker's part in one import."""

    def __init__(self, db: Database, settings: Settings, taken: Taken) -> None:
        self.db, self.settings, self.taken = db, settings, taken
        self.models: dict[str, ServedModel | None] = {}
        self.renewed = time.monotonic()
        self.done = _Tally(taken.rows, taken.imported, taken.refused) if taken.partial else _Tally()

    def to_its_end(self) -> None:
        """Check, import, and end. Raises LeaseLost, Unavailable."""
        try:
            file = spool.place(self.settings.data_dir, self.taken.id).open("rb")
        except FileNotFoundError:
            self._end(ImportState.FAILED, "upload-missing")
            return
        with file, FaultFile(spool.faults_place(self.settings.data_dir, self.taken.id)) as faults:
            if self.taken.partial:
                self._some_at_a_time(file, faults)
            else:
                self._check(file, faults)
                if self.done.rows and not self.done.refused:
                    file.seek(0)
                    self._all_at_once(file)
                    return
            faults.to_disk()
        self._end(*self._verdict())

    def _check(self, file: BinaryIO, faults: FaultFile) -> None:
        """Look at every row."""
        faults.begin(0)
        for row in self._rows(file):
            found = self._asked(row)
            wrong = isinstance(found, list)
            if isinstance(found, list):
                faults.write(found)
            self.done = _Tally(row.number, 0, self.done.refused + wrong)
            self._renew()

    def _all_at_once(self, file: BinaryIO) -> None:
        """Import everything and end, in one transaction. Raises Changed."""
        ids, imported = StoredIds(), 0
        with transaction(self.db) as session:
            for asked in self._right(file):
                bulk.add(session, asked, self.taken.received_at)
                ids.add(asked)
                imported += len(asked)
            self._settle(session, ids)
            ended = Ended(ImportState.IMPORTED, self.done.rows, imported, 0)
            service.end(session, self.taken, ended, clock(session))
        spool.remove(self.settings.data_dir, self.taken.id)

    def _right(self, file: BinaryIO) -> Iterator[list[Asked]]:
        """The rows of a file that was found right, some at a time."""
        chunk = Chunk()
        for row in self._rows(file):
            found = self._asked(row)
            if isinstance(found, list):
                raise Changed
            chunk.add(found)
            self._renew()
            if chunk.full:
                yield chunk.asked
                chunk = Chunk()
        if chunk.asked:
            yield chunk.asked

    def _some_at_a_time(self, file: BinaryIO, faults: FaultFile) -> None:
        """Import what is right from where the last worker ended, each chunk with its count in one transaction."""
        chunk, begun, last = Chunk(), False, Row(0, 0, 0, None)
        for row in self._rows(file):
            if row.number <= self.done.rows:
                last = row
                continue
            if not begun:
                faults.begin(last.last_line)
                begun = True
            found, last = self._asked(row), row
            if isinstance(found, list):
                faults.write(found)
                chunk.refuse()
            else:
                chunk.add(found)
            if chunk.full:
                self._commit(chunk, row.number, faults)
                chunk = Chunk()
        if not chunk.empty:
            self._commit(chunk, last.number, faults)

    def _commit(self, chunk: Chunk, rows: int, faults: FaultFile) -> None:
        faults.to_disk()
        tally = _Tally(rows, self.done.imported + len(chunk.asked), self.done.refused + chunk.refused)
        with transaction(self.db) as session:
            if chunk.asked:
                ids = StoredIds()
                bulk.add(session, chunk.asked, self.taken.received_at)
                ids.add(chunk.asked)
                self._settle(session, ids)
            service.note_chunk(session, self.taken, rows=rows, imported=tally.imported, refused=tally.refused)
        self.done = tally
        self._renew()

    def _settle(self, session: Session, ids: StoredIds) -> None:
        for model_id, part in ids.parts():
            bulk.settle(session, model_id, part, self.taken.received_at)
            self._renew()

    def _verdict(self) -> tuple[ImportState, str | None]:
        state = ImportState.IMPORTED if self.done.imported else ImportState.REFUSED
        if self.done.refused:
            return state, "faulty-rows"
        return state, None if self.done.imported else "no-rows"

    def _end(self, state: ImportState, error: str | None) -> None:
        """End with the file of faults, then remove the files."""
        path, digest = spool.faults_place(self.settings.data_dir, self.taken.id), None
        if path.is_file() and path.stat().st_size:
            digest = FileStore(self.settings.artifacts_dir).put_file(path)
        ended = Ended(state, self.done.rows, self.done.imported, self.done.refused, error, digest)
        with transaction(self.db) as session:
            service.end(session, self.taken, ended, clock(session))
        spool.remove(self.settings.data_dir, self.taken.id)

    def _rows(self, file: BinaryIO) -> Iterator[Row]:
        bounds = self.settings
        return rows_of(
            self.taken.form, file, max_row_bytes=bounds.max_body_bytes, max_rows=bounds.max_import_rows
        )

    def _asked(self, row: Row) -> Asked | list[Fault]:
        """The request of a row, checked, or what is wrong with it. Raises TokeniserMissing."""
        if row.payload is None:
            return list(row.faults)
        model = self._model(row.payload.served_model)
        if model is None:
            return row.faults_of([{"field": "served_model", "problem": UnknownServedModel.title}])
        try:
            return prepare(
                row.payload, model, self.taken.owner, self.taken.received_at,
                due_days=self.settings.request_due_days, sorts_at=self.taken.received_at,
            )  # fmt: skip
        except Unprocessable as error:
            return row.faults_of(_problems(error))

    def _model(self, name: str) -> ServedModel | None:
        """The served model of that name, read once an import."""
        if name in self.models:
            return self.models[name]
        try:
            with transaction(self.db) as session:
                model: ServedModel | None = known_model(session, name)
        except UnknownServedModel:
            model = None
        if len(self.models) < NAMES_KEPT:
            self.models[name] = model
        return model

    def _renew(self) -> None:
        """Prolong the lease when a part of it is over, in a transaction of its own. Raises LeaseLost."""
        now = time.monotonic()
        if (now - self.renewed) * RENEWALS < self.settings.lease_seconds:
            return
        with transaction(self.db) as session:
            service.prolong(session, self.taken, clock(session), self.settings.lease_seconds, self.done.rows)
        self.renewed = now


def _problems(error: Unprocessable) -> list[dict[str, Any]]:
    """What is wrong with a request, by field."""
    return error.extra.get("errors") or [{"field": ROW, "problem": error.title}]
