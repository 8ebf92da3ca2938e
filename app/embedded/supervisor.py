"""One server in the foreground as a child of this process: started, watched, started again when killed, stopped.

A thread of its own forks the server and waits for it, since the kernel's parent-death signal fires when the forking
*thread* ends: that thread ends only after the server. Were this process to die, even by kill -9, the server gets its
death signal from the kernel. The child is in a session of its own, so that Ctrl-C in the terminal reaches only us, who
stop it in order.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from app.embedded.account import Account
from app.embedded.errors import ServerFailed
from app.embedded.locks import ServerLock

LOG = logging.getLogger(__name__)
LAUNCH = Path(__file__).resolve().with_name("launch.py")
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0
SETTLED_SECONDS = 5.0
"""A server that lived this long is started again without a growing pause."""
PATIENCE_SECONDS = 10.0
"""How long what is left of an earlier server may take to end by itself."""


def launcher(who: Account, death_signal: signal.Signals, command: Sequence[str]) -> list[str]:
    """The command line that becomes `command` as `who`, bound to the life of this process' calling thread."""
    numbers = (who.uid, who.gid, int(death_signal), os.getpid())
    return [sys.executable, "-IS", str(LAUNCH), *(str(number) for number in numbers), *command]


def _ended(process: subprocess.Popen[bytes], signal_number: signal.Signals, timeout_seconds: float) -> bool:
    """Ask again each second: a Valkey that is still starting forgets the first SIGTERM."""
    deadline = time.monotonic() + timeout_seconds
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal_number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
    return process.poll() is not None


class Child:
    """A supervised server process. `prepare` runs before each start, when nothing of an earlier server is left;
    `death_signal` is what the kernel sends it once when this process dies. `environment` replaces ours, `keep_open`
    are descriptors that it inherits, and with `restart=False` one that died stays dead."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], bool],
        *,
        place: Path,
        who: Account,
        stop_signal: signal.Signals,
        death_signal: signal.Signals,
        prepare: Callable[[], None] = lambda: None,
        environment: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
        restart: bool = True,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self.name, self.command, self.log, self.ready, self.prepare = name, list(command), log, ready, prepare
        self.who, self.stop_signal, self.death_signal = who, stop_signal, death_signal
        self.environment, self.keep_open = environment, tuple(keep_open)
        self.restart, self.longest_pause_seconds = restart, longest_pause_seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.lock = ServerLock(place, Path(command[0]).resolve().name)
        self._trouble = ""
        self._stopping = threading.Event()
        self._guard = threading.Lock()  # no server starts once _stopping is set
        self._thread: threading.Thread | None = None

    def start(self, timeout_seconds: float = 30.0) -> None:
        """Start and wait until ready; a start that fails is tried again. Raises ServerFailed."""
        with self._guard:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._watch, name=f"supervise-{self.name}", daemon=True)
            self._thread.start()
        try:
            self.wait_ready(timeout_seconds)
        except ServerFailed:
            self.stop()
            raise

    def wait_ready(self, timeout_seconds: float = 30.0) -> None:
        """Wait until the server answers, as after it was killed. Raises ServerFailed."""
        deadline = time.monotonic() + timeout_seconds
        while not self.ready():
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"{self.name} did not answer within {timeout_seconds:g} s; its log {self.log} ends:\n"
                    f"{self.tail()}{self._trouble}"
                )
            time.sleep(0.02)

    def tail(self, lines: int = 8) -> str:
        """The end of the server's log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def _watch(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                process = self._launch()
            except (OSError, subprocess.SubprocessError) as error:  # no memory, no disk: may pass, so try again
                self._trouble = f"\n{self.name} could not be started: {error}"
            else:
                if process is None:
                    return
                self._note_end(process.wait())
                if not self.restart:
                    return
            settled = time.monotonic() - began > SETTLED_SECONDS
            pause = FIRST_PAUSE_SECONDS if settled else min(pause * 2, self.longest_pause_seconds)
            self._stopping.wait(pause)

    def _note_end(self, code: int) -> None:
        if not self._stopping.is_set():
            self.restarts += self.restart
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            LOG.warning("%s %s%s", self.name, how, ": it is started again" if self.restart else "")

    def _launch(self) -> subprocess.Popen[bytes] | None:
        """The started server, or None when it is no longer wanted. The lock's descriptor goes to the server."""
        held = self.lock.take(self._stopping, PATIENCE_SECONDS)
        if held is None:
            return None
        try:
            self.prepare()
            with self._guard, self.log.open("ab") as log:
                if self._stopping.is_set():
                    return None
                self.process = subprocess.Popen(
                    launcher(self.who, self.death_signal, self.command),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    pass_fds=(held, *self.keep_open), env=self.environment,
                )  # fmt: skip
                return self.process
        finally:
            os.close(held)

    def stop(self, timeout_seconds: float = 15.0) -> None:
        """Stop gracefully, then less so, then by force. Idempotent; no process is left behind."""
        with self._guard:
            self._stopping.set()
            process, thread, self._thread = self.process, self._thread, None
        for signal_number in (self.stop_signal, signal.SIGQUIT, signal.SIGKILL):
            if process is None or _ended(process, signal_number, timeout_seconds):
                break
        if thread is not None:
            thread.join(timeout_seconds)
        deadline = time.monotonic() + timeout_seconds
        while self.lock.holders() and time.monotonic() < deadline:  # a killed Postgres' backends
            self.lock.kill_holders()
            time.sleep(0.02)
