"""Remove files that nobody names: half-written ones of processes that died, and whole ones whose row never came.

A file is an orphan when no row names it and nobody who may still name it is at work. What is whole lies under its
final name before its row is committed, so names and rows alone do not decide:

- a version's directory is taken away under the locks that registering a model and claiming a job take, while no job of
  the model is at work: whoever could register it has lost its lease, or has not begun;
- everything else is left alone for an hour, and for as long as a job or an import is open that is older than it.

Where a data directory holds versions and the database knows none of them, it is another database's (a wrong address, an
empty one): then nothing at all is removed.

Weights that were destroyed and lie there again, restored from a backup, go too.

Artefacts of stages are no orphans: they lie under the digest of all that shaped them, for whoever computes the same.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

import structlog

from app.adapters.files import WEIGHTS, destroy_weights, has_weights
from app.adapters.repository import job_at_work
from app.adapters.weights_repository import destroyed_among
from app.config import Settings
from app.db import Database, clock, transaction
from app.orphans import repository
from app.requests.repository import lock_model
from app.served_models.repository import hold_name

log = structlog.get_logger(__name__)

ORPHAN_SECONDS = 3600.0
AT_ONCE = 500
"""Names asked for in one statement."""
VERSION = re.compile(r"(?P<model>.+)-v\d{6,}-[0-9a-f]{8}")
BLOB = re.compile(r"[0-9a-f]{64}")
CHECKPOINTS = ".partial"
Thing = TypeVar("Thing")


def remove(db: Database, settings: Settings, *, after_seconds: float = ORPHAN_SECONDS) -> list[Path]:
    """Remove what is nobody's, if nothing has changed in it for so long; which paths. Raises Unavailable, OSError."""
    with transaction(db) as session:
        now, oldest_open = clock(session), repository.oldest_open(session)
        names = [path.name for path in _entries(settings.adapters_dir) if VERSION.fullmatch(path.name)]
        if names and not any(repository.versions_among(session, some) for some in _some(names)):
            log.warning("data_directory_of_another_database", versions=len(names))
            return []
    aged = now - timedelta(seconds=after_seconds)
    left = min(aged, oldest_open or aged).timestamp()
    removed = [
        *_hidden(settings.adapters_dir, left),
        *_versions(db, settings, aged.timestamp()),
        *_checkpoints(settings.artifacts_dir, left),
        *_blobs(db, settings.artifacts_dir, left),
    ]
    if removed:
        log.info("orphans_removed", count=len(removed))
    return removed


def _hidden(root: Path, before: float) -> Iterator[Path]:
    """Versions that were being written."""
    for path in _entries(root):
        if path.name.startswith(".") and newest_change(path) < before:
            _remove(path)
            yield path


def _versions(db: Database, settings: Settings, before: float) -> Iterator[Path]:
    """Whole versions that no row names, each under its model's locks."""
    there = [path for path in _entries(settings.adapters_dir) if VERSION.fullmatch(path.name)]
    for some in _some(there):
        with transaction(db) as session:
            known = repository.versions_among(session, [path.name for path in some])
            destroyed = destroyed_among(session, known)
        for path in some:
            if path.name in destroyed and has_weights(path):  # files of a backup from before
                destroy_weights(path)
                yield path / WEIGHTS
            if path.name not in known and newest_change(path) < before:
                doomed = _taken_away(db, path)
                if doomed is not None:
                    _remove(doomed)
                    yield path


def _taken_away(db: Database, path: Path) -> Path | None:
    """The directory under a name that nobody looks for; None when it is, or may become, a version's."""
    form = VERSION.fullmatch(path.name)
    assert form is not None  # noqa: S101  filtered by the caller
    with transaction(db) as session:
        hold_name(session, form["model"])
        model_id = repository.model_id_of(session, form["model"])
        if model_id is not None:
            lock_model(session, model_id)
            if job_at_work(session, model_id) is not None:
                return None
        if repository.versions_among(session, [path.name]):
            return None
        doomed = path.with_name(f".orphan-{uuid.uuid4().hex}")
        path.rename(doomed)
    return doomed


def _checkpoints(root: Path, before: float) -> Iterator[Path]:
    """Artefacts that were being written, and checkpoints of training that nobody goes on with."""
    for path in _sharded(root):
        if (path.name.startswith(".") or path.name.endswith(CHECKPOINTS)) and newest_change(path) < before:
            _remove(path)
            yield path


def _blobs(db: Database, root: Path, before: float) -> Iterator[Path]:
    """Documents whose row never came."""
    there = (path for path in _sharded(root) if BLOB.fullmatch(path.name) and newest_change(path) < before)
    for some in _some(there):
        with transaction(db) as session:
            known = repository.blobs_among(session, [path.name for path in some])
        for path in some:
            if path.name not in known:
                path.unlink(missing_ok=True)
                yield path


def newest_change(path: Path) -> float:
    """When a file, or anything in a directory, was changed last, in seconds since the epoch; infinity if it is gone."""
    try:
        inside = max((newest_change(inner) for inner in path.iterdir()), default=0.0) if path.is_dir() else 0.0
        return max(path.lstat().st_mtime, inside)
    except FileNotFoundError:
        return float("inf")


def _entries(root: Path) -> list[Path]:
    return sorted(root.iterdir()) if root.is_dir() else []


def _sharded(root: Path) -> Iterator[Path]:
    """What lies in the directories of two digits."""
    for shard in _entries(root):
        if shard.is_dir():
            yield from _entries(shard)


def _some(all_of_them: Iterable[Thing]) -> Iterator[tuple[Thing, ...]]:
    rest = iter(all_of_them)
    while some := tuple(islice(rest, AT_ONCE)):
        yield some


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
