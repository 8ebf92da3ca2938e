"""An embedded Postgres: the engine of production, on a private unix socket, no TCP."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psycopg
from psycopg import sql

from app.embedded.account import account
from app.embedded.binaries import postgres_binaries
from app.embedded.errors import ServerFailed
from app.embedded.locks import SupervisorLock
from app.embedded.places import data_place, leave_socket_place, own_directory, socket_place
from app.embedded.supervisor import Child, launcher

PORT = 5432  # named everywhere, lest PGPORT of the user's shell rename the socket
SOCKET = f".s.PGSQL.{PORT}"
FAST = ("-c", "fsync=off", "-c", "full_page_writes=off")
"""Not synchronous_commit=off: it keeps commits in the server's own memory for a while, and kill -9 would lose them."""


class EmbeddedPostgres:
    """A cluster under `directory`. Trust authentication: whoever may enter the 0700 socket directory is the owner.
    `fsync=False` is for tests: quicker, and a crash of the machine (not of the server) may lose data."""

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        self.wanted = directory.absolute()
        self.who = account()
        self.fsync = fsync
        self.child: Child | None = None
        self.notes: list[str] = []
        self.sockets = self.wanted / "socket"
        self.log = self.wanted.parent / "logs" / "postgres.log"
        self._undo = ExitStack()

    def start(self) -> None:
        """Start, making the cluster and the database `grail` when they are missing; all or nothing. Raises
        ServerFailed, AlreadyRunning, BinaryMissing, PlaceRefused."""
        binaries = postgres_binaries(self.who)
        self.notes = []
        place = data_place(self.wanted, self.who, self.notes)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            lock = SupervisorLock(place)
            lock.acquire()
            undo.callback(lock.release)
            self.sockets = socket_place(place / "socket", SOCKET, self.who, self.notes)
            undo.callback(leave_socket_place, self.sockets, place / "socket")
            cluster = place / "cluster"
            self._initialise(binaries, cluster)
            self.child = self._child(binaries, cluster)
            undo.callback(self.child.stop)
            self.child.start()
            if not self.has_database("grail"):
                self.create_database("grail")
            self._undo = undo.pop_all()

    def _child(self, binaries: Path, cluster: Path) -> Child:
        command = [
            str(binaries / "postgres"), "-D", str(cluster), "-c", "listen_addresses=", "-c", f"port={PORT}",
            "-c", f"unix_socket_directories={self.sockets}", "-c", "max_connections=100", "-c", "timezone=UTC",
            "-c", "log_error_verbosity=terse",  # the DETAIL of a refused row would show its text
            *(() if self.fsync else FAST),
        ]  # fmt: skip
        # Pid files of a killed server: Postgres asks only whether a process of that number lives, which after a reboot
        # or in a new container is somebody else. The child removes them when nothing of that server is left.
        stale = (cluster / "postmaster.pid", self.sockets / f"{SOCKET}.lock")

        def prepare() -> None:
            for path in stale:
                path.unlink(missing_ok=True)

        return Child(
            "Postgres", command, self.log, self.answers,
            place=cluster.parent, who=self.who, stop_signal=signal.SIGINT, death_signal=signal.SIGINT, prepare=prepare,
        )  # fmt: skip

    def _initialise(self, binaries: Path, cluster: Path) -> None:
        """initdb into a temporary name, then rename: an interrupted one is never taken for a cluster."""
        if (cluster / "PG_VERSION").is_file():
            return
        if cluster.exists():
            raise ServerFailed(f"{cluster} is not a whole cluster: remove it to start afresh, or restore its files")
        partial = cluster.with_name("cluster.partial")
        shutil.rmtree(partial, ignore_errors=True)
        own_directory(partial, self.who)
        command = [
            str(binaries / "initdb"), "-D", str(partial), "-U", "grail", "-A", "trust", "-E", "UTF8",
            "--locale=C", "--no-instructions", *(() if self.fsync else ("--no-sync",)),
        ]  # fmt: skip
        made = subprocess.run(
            launcher(self.who, signal.SIGKILL, command), capture_output=True, text=True, errors="replace", check=False
        )
        if made.returncode != 0:
            raise ServerFailed(f"initdb failed in {partial.parent}: {(made.stderr or made.stdout).strip()[-800:]}")
        partial.rename(cluster)

    def url(self, database: str = "grail") -> str:
        """SQLAlchemy's URL (psycopg 3, over the unix socket)."""
        return f"postgresql+psycopg://grail@/{quote(database)}?host={quote(str(self.sockets), safe='/')}&port={PORT}"

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            dbname="postgres", user="grail", host=str(self.sockets), port=PORT, autocommit=True, connect_timeout=5
        )

    def answers(self) -> bool:
        """True when the server takes connections."""
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def has_database(self, name: str) -> bool:
        """True when there is such a database."""
        with self._connect() as connection:
            return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is not None

    def create_database(self, name: str, template: str | None = None) -> None:
        """Make a database, perhaps as a copy of another, to which nobody may be connected meanwhile. Its files are
        copied (0.03 s of computing): to log every page, as Postgres does by itself, costs over five times as much."""
        copied = sql.SQL(" TEMPLATE {} STRATEGY FILE_COPY")
        source = copied.format(sql.Identifier(template)) if template else sql.SQL("")
        with self._connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + source)

    def drop_database(self, name: str) -> None:
        """Remove a database, closing its connections."""
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def stop(self) -> None:
        """Stop the server and release the directory. Idempotent."""
        self._undo.close()

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
