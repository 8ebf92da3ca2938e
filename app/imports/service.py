"""Rules of imports: what is taken in, who sees it, who works on it. `app.imports.run` does the work.

An import is leased: `attempts` counts the workers that took it up and is the fencing token of the last one, which every
write compares. A worker that was taken for dead can store nothing more.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import Principal
from app.config import load_settings
from app.errors import NotFound
from app.imports import repository, spool
from app.imports.errors import FaultsRemoved, LeaseLost, NoFaultsYet, TooManyImports
from app.imports.schemas import ImportPage, ImportView
from app.imports.spool import Upload
from app.jobs.service import is_due
from app.keys.repository import any_valid
from app.queue import enqueue
from app.requests.cursors import cursor_of, id_of
from app.storage import FileStore
from app.tables import Import, ImportForm, ImportState

RUN_IMPORT = "grail.run_import"
MAX_ATTEMPTS = 10
"""Workers that may die on one import before it is given up."""
MOST_AT_WORK = 2
"""Imports at the same time, about: two that are claimed in the same moment do not see each other."""
OPEN = (ImportState.QUEUED, ImportState.RUNNING)


@dataclass(frozen=True, slots=True)
class Taken:
    """An import in a worker's hands. `rows`, `imported` and `refused` are as committed by the workers before."""

    id: uuid.UUID
    token: int
    form: ImportForm
    partial: bool
    owner: Principal
    received_at: datetime
    rows: int
    imported: int
    refused: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How an import ended."""

    state: ImportState
    rows: int
    imported: int
    refused: int
    error: str | None = None
    errors_digest: str | None = None


def create(
    session: Session, upload: Upload, form: ImportForm, who: Principal, now: datetime, *, partial: bool
) -> ImportView:
    """Take in an upload that lies on the disk; its import is rung for once this is committed. Raises TooManyImports."""
    repository.hold_key(session, who.key_id)
    room(session, who)
    row = Import(
        id=upload.id, created_by=who.key_id, state=ImportState.QUEUED, form=form, partial=partial,
        upload=upload.path.name, rows=0, imported=0, refused=0, attempts=0, created_at=now,
    )  # fmt: skip
    session.add(row)
    record(
        session, "import.received", subject_id=str(row.id), at=now, key_id=str(who.key_id), form=str(form),
        partial=partial, size_bytes=upload.size,
    )  # fmt: skip
    session.flush()
    enqueue(session, RUN_IMPORT, row.id)
    return view(row)


def room(session: Session, who: Principal) -> None:
    """Whether a key may bring another file now. Raises TooManyImports."""
    most = load_settings().imports_per_key
    if repository.open_of_key(session, who.key_id) >= most:
        raise TooManyImports(f"{most} imports of this key have not ended", limit=most)


def read(session: Session, import_id: uuid.UUID, who: Principal) -> ImportView:
    """One import. Raises NotFound, also for somebody else's."""
    return view(_visible(session, import_id, who))


def browse(session: Session, who: Principal, *, cursor: str | None, limit: int) -> ImportPage:
    """A page of what `who` may see, newest first. Raises BadCursor."""
    rows = repository.page(session, owner=who.owner, before=id_of(cursor) if cursor else None, limit=limit + 1)
    more = cursor_of(rows[limit - 1].id) if len(rows) > limit else None
    return ImportPage(items=[view(row) for row in rows[:limit]], next_cursor=more)


def faults(session: Session, import_id: uuid.UUID, who: Principal, store: FileStore) -> Path | None:
    """The file of faults; None when there are none. Raises NotFound, NoFaultsYet, FaultsRemoved, BlobDamaged."""
    row = _visible(session, import_id, who)
    if row.finished_at is None:
        raise NoFaultsYet
    if row.errors_removed_at is not None:
        raise FaultsRemoved
    return None if row.errors_digest is None else store.checked(row.errors_digest)


def view(row: Import) -> ImportView:
    """An import as it is shown."""
    return ImportView(
        id=row.id, state=row.state, form=row.form, partial=row.partial, rows=row.rows, stored=row.stored,
        imported=row.imported, refused=row.refused, error=row.error, created_at=row.created_at,
        finished_at=row.finished_at, errors=None if row.errors_digest is None else f"/v1/imports/{row.id}/errors",
    )  # fmt: skip


def claim(session: Session, import_id: uuid.UUID, now: datetime, lease_seconds: float) -> Taken | None:
    """Take up an import that waits, or whose worker's lease ran out. None when there is nothing to take, or enough are
    at work: planning and the sweep need threads, too."""
    row = repository.locked(session, import_id, skip_locked=True)
    if row is None or row.state not in OPEN or (row.lease_until is not None and row.lease_until >= now):
        return None
    key = repository.key(session, row.created_by)
    held = any_valid(session, key.id, now)
    gone = "key-revoked" if not held else "workers-died" if row.attempts >= MAX_ATTEMPTS else None
    if gone is None and repository.at_work(session, now) >= MOST_AT_WORK:
        return None
    if gone is not None:
        _end(session, row, Ended(ImportState.FAILED, row.rows, row.imported, row.refused, gone), now)
        return None
    row.state, row.attempts, row.lease_until = ImportState.RUNNING, row.attempts + 1, _lease(now, lease_seconds)
    session.flush()
    return Taken(
        row.id, row.attempts, row.form, row.partial, Principal(key.id, key.name, key.role), row.created_at,
        row.rows, row.imported, row.refused,
    )  # fmt: skip


def prolong(
    session: Session, taken: Taken, now: datetime, lease_seconds: float, rows: int, stored: int = 0
) -> None:
    """Prolong the lease and note how far it has come. Raises LeaseLost."""
    if not repository.prolong(session, taken.id, taken.token, _lease(now, lease_seconds), rows, stored):
        raise LeaseLost


def note_chunk(session: Session, taken: Taken, *, rows: int, imported: int, refused: int) -> None:
    """What has been imported so far, in the transaction that imports it. Raises LeaseLost."""
    row = _held(session, taken)
    row.rows, row.stored, row.imported, row.refused = rows, imported, imported, refused
    session.flush()


def end(session: Session, taken: Taken, ended: Ended, now: datetime) -> None:
    """The import is over. Raises LeaseLost."""
    _end(session, _held(session, taken), ended, now)


def sweep(session: Session, now: datetime) -> list[uuid.UUID]:
    """Ring again for imports that wait or whose worker died, and remove files that belong to none. Ids of those rung
    for."""
    settings = load_settings()
    rows = repository.open_imports(session)
    rung = []
    for row in rows:
        since = row.lease_until or row.created_at
        if since <= now and is_due(now, since, settings.sweep_seconds):
            enqueue(session, RUN_IMPORT, row.id)
            rung.append(row.id)
    spool.remove_orphans(settings.data_dir, [row.id for row in rows])
    return rung


def _held(session: Session, taken: Taken) -> Import:
    """The import's row, held until the transaction ends, if it is still in this worker's hands. Raises LeaseLost."""
    row = repository.locked(session, taken.id)
    if row is None or row.state is not ImportState.RUNNING or row.attempts != taken.token:
        raise LeaseLost
    return row


def _end(session: Session, row: Import, ended: Ended, now: datetime) -> None:
    row.state, row.error, row.errors_digest = ended.state, ended.error, ended.errors_digest
    row.rows, row.stored, row.imported, row.refused = ended.rows, ended.imported, ended.imported, ended.refused
    row.finished_at, row.lease_until, row.upload = now, None, None
    record(
        session, f"import.{row.state}", subject_id=str(row.id), at=now, state=str(row.state), rows=row.rows,
        imported=row.imported, refused=row.refused, error=row.error,
    )  # fmt: skip
    session.flush()
    for waiting in repository.open_imports(session)[:MOST_AT_WORK]:
        enqueue(session, RUN_IMPORT, waiting.id)


def _lease(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)


def _visible(session: Session, import_id: uuid.UUID, who: Principal) -> Import:
    row = repository.find(session, import_id, owner=who.owner)
    if row is None:
        raise NotFound("there is no import with this id that this key may see", mend="GET /v1/imports lists them.")
    return row

