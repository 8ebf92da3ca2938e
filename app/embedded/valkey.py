"""An embedded Valkey on a private unix socket. It keeps nothing on disk: losing the broker loses nothing by design."""

from __future__ import annotations

import signal
from pathlib import Path
from types import TracebackType

import redis

from app.embedded.binaries import valkey_binary
from app.embedded.places import DirectoryLock, socket_place
from app.embedded.supervisor import Account, Child

SOCKET = "valkey.sock"


class EmbeddedValkey:
    """A broker whose socket lies under `directory`. Runs as the present user: unlike Postgres it does not mind root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.child: Child | None = None
        self.socket = directory / SOCKET
        self.log = directory.parent / "logs" / "valkey.log"
        self._lock: DirectoryLock | None = None

    def start(self) -> None:
        """Raises ServerFailed, AlreadyRunning, BinaryMissing."""
        who = Account(-1, -1)
        binary = valkey_binary()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = DirectoryLock(self.directory.parent / f"{self.directory.name}.lock")
        self._lock.acquire()
        self.socket = (socket_place(self.directory, SOCKET, who) / SOCKET).absolute()
        self.socket.unlink(missing_ok=True)
        command = [
            str(binary), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700", "--save", "",
            "--appendonly", "no", "--maxmemory-policy", "noeviction", "--daemonize", "no", "--dir", str(self.socket.parent),
        ]  # fmt: skip
        self.child = Child("Valkey", command, self.log, self.answers, who=who, stop_signal=signal.SIGTERM)
        self.child.start()

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
        """Idempotent."""
        if self.child is not None:
            self.child.stop()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
