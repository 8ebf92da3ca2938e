"""One server in the foreground as a child of this process: started, watched, started again when killed, stopped.

A thread of its own forks the server and waits for it, since the kernel's parent-death signal fires when the forking
*thread* ends. The child is in a session of its own, so that Ctrl-C in the terminal reaches only us and we stop it.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class ServerFailed(RuntimeError):
    """A server did not come up; says where its log lies and how it ends."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a server runs as: -1 keeps the present user."""

    uid: int
    gid: int


def account() -> Account:
    """The present user, or for root `postgres`, else `nobody`: Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return Account(-1, -1)
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(found.pw_uid, found.pw_gid)
    raise ServerFailed(
        "running as root, and there is no user postgres or nobody to run the server as: use another user"
    )


class Child:
    """A supervised server process."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], bool],
        *,
        who: Account,
        stop_signal: signal.Signals,
    ) -> None:
        self.name, self.command, self.log, self.ready = name, list(command), log, ready
        self.who, self.stop_signal = who, stop_signal
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, timeout_seconds: float = 30.0) -> None:
        """Start and wait until ready; retried, since a killed Postgres' old backends hold shared memory for a moment.
        Raises ServerFailed."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name=f"supervise-{self.name}", daemon=True)
        self._thread.start()
        self.wait_ready(timeout_seconds)

    def wait_ready(self, timeout_seconds: float) -> None:
        """Wait until the server answers. Raises ServerFailed."""
        deadline = time.monotonic() + timeout_seconds
        while not self.ready():
            if time.monotonic() > deadline:
                self.stop()
                raise ServerFailed(
                    f"{self.name} did not start within {timeout_seconds:g} s; its log {self.log} ends:\n{self.tail()}"
                )
            time.sleep(0.02)

    def tail(self, lines: int = 8) -> str:
        """The end of the server's log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def _watch(self) -> None:
        pause = 0.05
        while not self._stopping.is_set():
            began = time.monotonic()
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self._launcher(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            self.process.wait()
            if self._stopping.is_set():
                return
            self.restarts += 1
            pause = 0.05 if time.monotonic() - began > 5 else min(pause * 2, 2.0)
            self._stopping.wait(pause)

    def _launcher(self) -> list[str]:
        head = [sys.executable, "-m", "app.embedded.launch"]
        numbers = (self.who.uid, self.who.gid, int(self.stop_signal), os.getpid())
        return [*head, *(str(number) for number in numbers), *self.command]

    def stop(self, timeout_seconds: float = 15.0) -> None:
        """Stop gracefully, then by force. Idempotent; no process is left behind."""
        self._stopping.set()
        process = self.process
        if process is not None and process.poll() is None:
            process.send_signal(self.stop_signal)
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)
