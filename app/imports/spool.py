"""Uploaded files while they wait for their import: below the data directory, for the service's user alone.

A file is whole and on the disk before its import's row is committed; it is removed once the import has ended. What a
dead process left behind belongs to no open import, and the sweep removes it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from starlette.concurrency import run_in_threadpool

from app.errors import StorageFull
from app.storage import sync_directory

DIRECTORY = "imports"
FAULTS = ".faults"
PIECE_BYTES = 256 * 1024
ORPHAN_SECONDS = 3600.0
"""A file that nobody wrote to for so long, and that no open import names, is nobody's."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that has come in. `digest` is the SHA-256 of its bytes."""

    id: uuid.UUID
    path: Path
    size: int
    digest: bytes


def place(data_dir: Path, import_id: uuid.UUID) -> Path:
    """Where the file of an import lies."""
    return data_dir / DIRECTORY / str(import_id)


def faults_place(data_dir: Path, import_id: uuid.UUID) -> Path:
    """Where the faults of an import are gathered while it runs."""
    return data_dir / DIRECTORY / f"{import_id}{FAULTS}"


class Copies:
    """What a worker makes of an upload, a file a table, under its fencing token: one that was taken for dead writes
    into none of another's. A context manager."""

    def __init__(self, data_dir: Path, import_id: uuid.UUID, token: int, tables: Iterable[str]) -> None:
        self.paths = {table: data_dir / DIRECTORY / f"{import_id}.{token}.{table}" for table in tables}
        self.files: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Copies:
        for table, path in self.paths.items():
            path.unlink(missing_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            self.files[table] = os.fdopen(handle, "w+b", buffering=PIECE_BYTES)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for file in self.files.values():
            file.close()
        for path in self.paths.values():
            path.unlink(missing_ok=True)

    def pieces(self, table: str) -> Iterator[bytes]:
        """What was written of a table, from its beginning."""
        file = self.files[table]
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            yield piece

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(file.seek(0, os.SEEK_END) for file in self.files.values())


async def receive(data_dir: Path, import_id: uuid.UUID, pieces: AsyncIterator[bytes]) -> Upload:
    """Write a body to its file as it comes in, and bring it to the disk. Nothing is left of one that breaks off. Raises
    StorageFull, and what reading the body raises."""
    path = place(data_dir, import_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    digest, size, whole = hashlib.sha256(), 0, False
    try:
        with os.fdopen(handle, "wb") as file:
            async for piece in pieces:
                digest.update(piece)
                size += len(piece)
                await run_in_threadpool(file.write, piece)
            await run_in_threadpool(_to_disk, file, path.parent)
        whole = True
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFull("the file could not be stored") from None
        raise
    finally:
        if not whole:
            path.unlink(missing_ok=True)
    return Upload(import_id, path, size, digest.digest())


def remove(data_dir: Path, import_id: uuid.UUID) -> None:
    """The files of an import that has ended, those of dead workers, too."""
    for path in (data_dir / DIRECTORY).glob(f"{import_id}*"):
        path.unlink(missing_ok=True)


def remove_orphans(data_dir: Path, open_ids: Collection[uuid.UUID], *, now: float | None = None) -> list[Path]:
    """Remove files of no open import that nobody writes any more. Which ones. `now` is in seconds since the epoch."""
    directory, kept = data_dir / DIRECTORY, {str(one) for one in open_ids}
    if not directory.is_dir():
        return []
    oldest = (time.time() if now is None else now) - ORPHAN_SECONDS
    orphans = [
        path
        for path in directory.iterdir()
        if path.name.partition(".")[0] not in kept and _modified(path) < oldest
    ]
    for path in orphans:
        path.unlink(missing_ok=True)
    return orphans


def _modified(path: Path) -> float:
    """When it was written last; now, if it has just gone."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def _to_disk(file: IO[bytes], directory: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    sync_directory(directory)
