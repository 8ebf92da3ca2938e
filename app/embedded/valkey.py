"""An embedded Valkey on a private unix socket. It keeps nothing on disk: losing the broker loses nothing by design."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import redis

from app.embedded.account import account
from app.embedded.binaries import valkey_binary
from app.embedded.locks import SupervisorLock
from app.embedded.places import data_place, leave_socket_place, socket_place
from app.embedded.supervisor import Child

SOCKET = "valkey.sock"


class EmbeddedValkey:
    """A broker whose socket lies under `directory`."""

    def __init__(self, directory: Path) -> None:
        self.wanted = directory.absolute()
        self.who = account()
        self.child: Child | None = None
        self.notes: list[str] = []
        self.socket = self.wanted / "socket" / SOCKET
        self.log = self.wanted.parent / "logs" / "valkey.log"
        self._undo = ExitStack()

    def start(self) -> None:
        """All or nothing. Raises ServerFailed, AlreadyRunning, BinaryMissing, PlaceRefused."""
        binary = valkey_binary(self.who)
        self.notes = []
        place = data_place(self.wanted, self.who, self.notes)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            lock = SupervisorLock(place)
            lock.acquire()
            undo.callback(lock.release)
            self.socket = socket_place(place / "socket", SOCKET, self.who, self.notes) / SOCKET
            undo.callback(leave_socket_place, self.socket.parent, place / "socket")
            self.child = self._child(binary, place)
            undo.callback(self.child.stop)
            self.child.start()
            self._undo = undo.pop_all()

    def _child(self, binary: Path, place: Path) -> Child:
        command = [
            str(binary), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700",
            "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--daemonize", "no",
            "--dir", str(self.socket.parent),
        ]  # fmt: skip
        # It has nothing to save, and forgets a SIGTERM that comes while it starts: it would live on without us.
        return Child(
            "Valkey", command, self.log, self.answers,
            place=place, who=self.who, stop_signal=signal.SIGTERM, death_signal=signal.SIGKILL,
        )  # fmt: skip

    def url(self) -> str:
        """Celery's URL."""
        return f"redis+socket://{self.socket}"

    def redis_url(self) -> str:
        """redis-py's URL."""
        return f"unix://{self.socket}"

    def answers(self) -> bool:
        """True when the server answers."""
        connection = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=2)
        try:
            return bool(connection.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """Stop the server and release the directory. Idempotent."""
        self._undo.close()

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
