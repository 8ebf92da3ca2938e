"""The list of destroyed keys: one file that is only ever appended to, and that outlives a restore of the key store.

A key is in this file, on the disk, before it is destroyed. So a store that was restored from a backup destroys again
what the file names before it gives out any key, and a process that died in between leaves a promise that the next one
keeps. Every record has the same length and a checksum:

    32 hex digits of the id, a space, 13 digits of milliseconds since 1970, a space, 8 hex digits of CRC-32, a line feed

What a dying writer left half is cut off by the next one; anything else that does not add up is damage, and stops all.
"""

from __future__ import annotations

import fcntl
import os
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.envelope.errors import TombstonesDamaged
from app.storage import sync_directory

RECORD_BYTES = 56
AT_ONCE = 1000
"""Records that are read at once."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A key that was destroyed, and when, in milliseconds since 1970."""

    key_id: uuid.UUID
    at_ms: int

    def record(self) -> bytes:
        """Its line in the file."""
        said = f"{self.key_id.hex} {self.at_ms:013d} ".encode()
        return said + f"{zlib.crc32(said):08x}\n".encode()


def parse_record(record: bytes) -> Tombstone:
    """Raises TombstonesDamaged."""
    said = record[:47]
    try:
        found = Tombstone(uuid.UUID(said[:32].decode("ascii")), int(said[33:46]))
    except ValueError:
        raise TombstonesDamaged("a line of it is no record") from None
    if found.record() != record:
        raise TombstonesDamaged("a line of it does not have its checksum")
    return found


class TombstoneFile:
    """The file. Several processes may append to it and read it at once; on one file system, which has to keep locks."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, tombstones: Sequence[Tombstone]) -> None:
        """Add records; they are on the disk when this returns. Raises OSError."""
        if not tombstones:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_new = not self.path.exists()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            end = _whole_bytes(handle)
            os.ftruncate(handle, end)
            _write(handle, b"".join(one.record() for one in tombstones), end)
            os.fsync(handle)
        finally:
            os.close(handle)
        if is_new:
            sync_directory(self.path.parent)

    def records(self) -> int:
        """How many there are."""
        with self._opened() as handle:
            return 0 if handle is None else _whole_bytes(handle) // RECORD_BYTES

    def record(self, number: int) -> bytes | None:
        """The bytes of one record (the first is 1), or None behind the end."""
        with self._opened() as handle:
            if handle is None or not 1 <= number <= _whole_bytes(handle) // RECORD_BYTES:
                return None
            return os.pread(handle, RECORD_BYTES, (number - 1) * RECORD_BYTES)

    def read(self, after: int = 0) -> Iterator[list[Tombstone]]:
        """Those behind the first `after` records, some at a time. Raises TombstonesDamaged."""
        end = self.records()
        while after < end:
            with self.path.open("rb") as file:  # records never change once they are there: no lock is needed
                file.seek(after * RECORD_BYTES)
                data = file.read(min(AT_ONCE, end - after) * RECORD_BYTES)
            if not data or len(data) % RECORD_BYTES:
                raise TombstonesDamaged("it became shorter while it was read")
            yield [parse_record(data[at : at + RECORD_BYTES]) for at in range(0, len(data), RECORD_BYTES)]
            after += len(data) // RECORD_BYTES

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        """The file under a shared lock: no writer is in the middle of a record. None without a file."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield handle
        finally:
            os.close(handle)


def _whole_bytes(handle: int) -> int:
    """Where the last whole record ends; a loss of power may have left zeros behind it. The caller holds a lock."""
    end = os.fstat(handle).st_size // RECORD_BYTES * RECORD_BYTES
    while end and os.pread(handle, 1, end - 1) == b"\0":
        end -= RECORD_BYTES
    return end


def _write(handle: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(handle, data, at)
        data, at = data[written:], at + written
