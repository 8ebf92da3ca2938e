"""One import from its file to its requests.

Whole (the default), in two phases. Every row is checked, without a transaction: what is wrong goes to the file of
faults, what is right becomes lines for COPY, a file a table. If nothing was wrong, one transaction copies them in,
links and settles them all, and ends the import: everything or nothing. A worker that dies has stored nothing, and the
next one starts anew.

`partial`: rows are checked and imported some at a time. How far that is stands in the import's row and is committed
with the requests themselves, so that the next worker goes on where the last one ended, and no row is imported twice.

Memory does not grow with the rows. How far it has come is told about once a second.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import structlog

from app.config import Settings
from app.db import Database, clock, transaction
from app.errors import Unprocessable
from app.imports import service, spool
from app.imports.chunks import Chunk
from app.imports.errors import LeaseLost
from app.imports.faults import FaultFile
from app.imports.rows import ROW, Fault, Row, rows_of
from app.imports.service import Ended, Taken
from app.requests import bulk, copied
from app.requests.errors import UnknownServedModel
from app.requests.known import known_model
from app.requests.service import Asked, prepare
from app.storage import FileStore
from app.tables import ImportState, ServedModel

RENEWALS = 4
"""How often a lease is renewed in its time, at least."""
TELL_SECONDS = 1.0
CHECKS = 3
"""How often one worker checks a file whose served models are being changed."""
NAMES_KEPT = 1000
"""Names of served models, also of such as there are none, that one import remembers."""

Basis = tuple[str, str, int, dict[str, Any], bool]
log = structlog.get_logger(__name__)


class Changed(Exception):
    """A served model is not as its rows were checked against."""


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
        self.bases: dict[uuid.UUID, Basis] = {}
        self.stored = taken.imported
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
            elif self._whole(file, faults):
                return
            faults.to_disk()
        self._end(*self._verdict())

    def _whole(self, file: BinaryIO, faults: FaultFile) -> bool:
        """Check everything, then import everything. False when there is nothing to import, or something wrong.

        Where a served model changed in between all is checked once more. Raises Changed."""
        for attempt in range(CHECKS):
            self.models.clear()
            self.bases.clear()
            file.seek(0)
            with spool.Copies(self.settings.data_dir, self.taken.id, self.taken.token, copied.COLUMNS) as copies:
                imported = self._check(file, faults, copies)
                if not imported or self.done.refused:
                    return False
                try:
                    self._store(copies, imported)
                except Changed:
                    if attempt == CHECKS - 1:
                        raise
                else:
                    return True
        raise AssertionError

    def _check(self, file: BinaryIO, faults: FaultFile, copies: spool.Copies) -> int:
        """Look at every row. How many are right and written."""
        faults.begin(0)
        lines, self.done, self.stored = copied.Lines(copies.files), _Tally(), 0
        for row in self._rows(file):
            found = self._asked(row)
            wrong = isinstance(found, list)
            if isinstance(found, list):
                faults.write(found)
            elif not self.done.refused:
                lines.add(found, self.taken.received_at, self.db.codec())
            self.done = _Tally(row.number, 0, self.done.refused + wrong)
            self._renew()
        return lines.count

    def _store(self, copies: spool.Copies, imported: int) -> None:
        """Import everything and end, in one transaction. Raises Changed."""
        sent, size = 0, copies.size

        def pieces(table: str) -> Iterator[bytes]:
            nonlocal sent
            for piece in copies.pieces(table):
                yield piece
                sent += len(piece)
                self.stored = imported * sent // size
                self._renew()

        begun = time.monotonic()
        with transaction(self.db) as session:
            bulk.load(session, pieces)
            models = bulk.hold_models(session)
            if any(self.bases.get(model.id) != _basis(model) for model in models):
                raise Changed
            bulk.settle(session, models, self.taken.owner.key_id, self.taken.received_at)
            self._renew()
            ended = Ended(ImportState.IMPORTED, self.done.rows, imported, 0)
            service.end(session, self.taken, ended, clock(session))
        seconds = round(time.monotonic() - begun, 3)
        log.info("import_stored", import_id=str(self.taken.id), requests=imported, seconds=seconds)
        spool.remove(self.settings.data_dir, self.taken.id)

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
                bulk.add(session, chunk.asked, self.taken.owner.key_id, self.taken.received_at)
            service.note_chunk(session, self.taken, rows=rows, imported=tally.imported, refused=tally.refused)
        self.done, self.stored = tally, tally.imported
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
                row.payload, model, self.taken.owner, self.taken.received_at, self.db.codec(),
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
        if model is not None:
            self.bases.setdefault(model.id, _basis(model))
        if len(self.models) < NAMES_KEPT:
            self.models[name] = model
        return model

    def _renew(self) -> None:
        """Prolong the lease and tell how far it has come, now and then, in a transaction of its own. Raises
        LeaseLost."""
        now = time.monotonic()
        if now - self.renewed < min(TELL_SECONDS, self.settings.lease_seconds / RENEWALS):
            return
        with transaction(self.db) as session:
            service.prolong(
                session, self.taken, clock(session), self.settings.lease_seconds, self.done.rows, self.stored
            )
        self.renewed = now


def _basis(model: ServedModel) -> Basis:
    """What of a served model its rows are checked against."""
    return (
        model.base_model_path, model.prompt_template, model.context_tokens, dict(model.policy), model.is_keyed,
    )  # fmt: skip


def _problems(error: Unprocessable) -> list[dict[str, Any]]:
    """What is wrong with a request, by field."""
    return error.extra.get("errors") or [{"field": ROW, "problem": error.title}]
