"""Where embedded servers keep their data and sockets, and the lock that keeps a second supervisor out."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from app.embedded.binaries import open_to_others
from app.embedded.supervisor import Account

SOCKET_PATH_MAX = 107
"""Bytes of a unix socket's path, the kernel's limit."""


class AlreadyRunning(RuntimeError):
    """Another live supervisor holds this directory."""


def outside(directory: Path) -> Path:
    """A directory outside of home for data that another user must reach; the same for the same `directory`."""
    stamp = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:12]
    return Path("/var/tmp") / f"grail-{os.getuid()}-{stamp}"  # noqa: S108  owned and private, checked below


def data_place(directory: Path, who: Account) -> Path:
    """`directory`, made ready for `who`; or, when root's parents are closed to the server's user, a place outside with a
    link from `directory`. Parents' modes are never changed."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    place = directory
    if who.uid >= 0 and not directory.is_symlink() and not open_to_others(directory.absolute()):
        place = outside(directory)
        if not directory.exists():
            directory.symlink_to(place, target_is_directory=True)
    place = place.resolve()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if who.uid >= 0:
        if place.stat().st_uid not in {0, who.uid}:
            raise PermissionError(f"{place} belongs to another user: remove it or choose another data directory")
        os.chown(place, who.uid, who.gid)
    return place


def socket_place(directory: Path, file: str, who: Account) -> Path:
    """A private directory for a socket called `file`: `directory`, or a short one when the path would be too long."""
    place = directory
    if len(os.fsencode(str(directory.absolute() / file))) > SOCKET_PATH_MAX:
        stamp = hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:12]
        place = Path(tempfile.gettempdir()) / f"grail-{os.getuid()}-{stamp}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if who.uid >= 0:
        os.chown(place, who.uid, who.gid)
    return place


class DirectoryLock:
    """One supervisor a directory. The kernel drops the lock with the process, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> None:
        """Raises AlreadyRunning, naming the process that holds it."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise AlreadyRunning(
                f"process {holder} already runs the servers of {self.path.parent}: stop it (kill {holder}) or choose "
                "another data directory with GRAIL_DATA_DIR"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        self._file = handle

    def release(self) -> None:
        """Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
