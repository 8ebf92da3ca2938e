"""Two locks of a data directory, both the kernel's own: they end with the processes that hold them, however those die.

`SupervisorLock` keeps a second supervisor out. `ServerLock` is held by the server itself and by everything it forks,
through a descriptor handed down at its start; when it can be taken, nothing of an earlier server is left, and only
then are pid files stale for certain. A pid file alone does not say so: its number may by now be another process's.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from app.embedded.errors import AlreadyRunning

POLL_SECONDS = 0.02


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class SupervisorLock:
    """One supervisor a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._handles: list[int] = []

    def acquire(self) -> None:
        """Raises AlreadyRunning, naming the process that holds it."""
        path = self.directory / "supervisor.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not _try_lock(handle):
            holder = os.read(handle, 32).decode(errors="replace").strip()
            os.close(handle)
            raise AlreadyRunning(
                f"process {holder or '(unknown)'} already runs the server in {self.directory}: stop it "
                f"(kill {holder or 'PID'}), or choose another data directory with GRAIL_DATA_DIR"
            )
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        self._handles = [handle]
        # systemd empties /var/tmp of old files, but passes by a directory that somebody has locked.
        shown = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._handles.append(shown)
        with suppress(OSError):  # not every file system locks directories
            fcntl.flock(shown, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def release(self) -> None:
        """Idempotent."""
        while self._handles:
            os.close(self._handles.pop())


class ServerLock:
    """Held by a server called `program` and by its children; see the module's docstring."""

    def __init__(self, directory: Path, program: str) -> None:
        self.path = directory / "server.lock"
        self.program = program

    def take(self, given_up: threading.Event, patience_seconds: float) -> int | None:
        """Wait until nothing of an earlier server is left; what is still there after `patience_seconds` is killed.
        Returns the locked descriptor to hand to the new server, or None when `given_up` was set."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + patience_seconds
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                self.kill_holders()
            if given_up.wait(POLL_SECONDS):
                os.close(handle)
                return None
        return handle

    def kill_holders(self) -> None:
        """Kill what is left of the server: its write-ahead log keeps what it promised."""
        for pid in self.holders():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def holders(self) -> list[int]:
        """Processes of the server that still live: they run `program` and hold this file open."""
        if not self.path.exists():
            return []
        return [
            int(process.name)
            for process in Path("/proc").iterdir()
            if process.name.isdigit() and int(process.name) != os.getpid() and self._holds(process)
        ]

    def _holds(self, process: Path) -> bool:
        try:
            if Path(os.readlink(process / "exe").removesuffix(" (deleted)")).name != self.program:
                return False
            ours = self.path.stat()
            return any(os.path.samestat(ours, handle.stat()) for handle in (process / "fd").iterdir())
        except OSError:  # it ended meanwhile, or is another user's
            return False
