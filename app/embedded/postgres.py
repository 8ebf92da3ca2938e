"""An embedded Postgres: the engine of production, on a private unix socket, no TCP."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psycopg
from psycopg import sql

from app.embedded.binaries import postgres_binaries, reachable_copy
from app.embedded.places import DirectoryLock, data_place, outside, socket_place
from app.embedded.supervisor import ROOT, Child, ServerFailed, account

SOCKET = ".s.PGSQL.5432"
FAST = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


class EmbeddedPostgres:
    """A cluster under `directory`. Trust authentication: whoever may enter the 0700 socket directory is the owner."""

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        self.wanted = directory
        self.who = account()
        self.fsync = fsync
        self.child: Child | None = None
        self.sockets = directory
        self.log = directory.parent / "logs" / "postgres.log"
        self._lock: DirectoryLock | None = None

    def start(self) -> None:
        """Start, making the cluster and the database `grail` when they are missing. Raises ServerFailed,
        AlreadyRunning, BinaryMissing."""
        binaries = postgres_binaries()
        if self.who.uid >= 0:
            cache = outside(ROOT).with_name(f"grail-{os.getuid()}-bin")
            cache.mkdir(mode=0o755, parents=True, exist_ok=True)
            binaries = reachable_copy(binaries, cache)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(self.wanted.parent / f"{self.wanted.name}.lock")
        self._lock.acquire()
        place = data_place(self.wanted, self.who)
        self.sockets = socket_place(place / "socket", SOCKET, self.who)
        cluster = place / "cluster"
        self._initialise(binaries, cluster)
        # A killed server leaves its pid file; the lock says that nobody else is at it, so the file is stale.
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        command = [
            str(binaries / "postgres"), "-D", str(cluster), "-c", "listen_addresses=", "-c",
            f"unix_socket_directories={self.sockets}", "-c", "max_connections=100", "-c", "timezone=UTC",
            *(() if self.fsync else FAST),
        ]  # fmt: skip
        self.child = Child("Postgres", command, self.log, self.answers, who=self.who, stop_signal=signal.SIGINT)
        self.child.start()
        if not self.has_database("grail"):
            self.create_database("grail")

    def _initialise(self, binaries: Path, cluster: Path) -> None:
        """initdb into a temporary name, then rename: an interrupted one is never taken for a cluster."""
        if (cluster / "PG_VERSION").is_file():
            return
        partial = cluster.with_name("cluster.partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = [
            sys.executable, "-m", "app.embedded.launch", str(self.who.uid), str(self.who.gid), str(int(signal.SIGKILL)),
            str(os.getpid()), str(binaries / "initdb"), "-D", str(partial), "-U", "grail", "-A", "trust", "-E", "UTF8",
            "--locale=C", "--no-instructions", "--no-sync",
        ]  # fmt: skip
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise ServerFailed(f"initdb failed in {partial.parent}: {made.stderr.strip()[-800:]}")
        partial.rename(cluster)

    def url(self, database: str = "grail") -> str:
        """SQLAlchemy's URL (psycopg 3, over the unix socket)."""
        return f"postgresql+psycopg://grail@/{database}?host={quote(str(self.sockets), safe='/')}"

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            dbname="postgres", user="grail", host=str(self.sockets), autocommit=True, connect_timeout=5
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
        """Make a database, perhaps as a copy of another (0.04 s)."""
        source = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
        with self._connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + source)

    def drop_database(self, name: str) -> None:
        """Remove a database, closing its connections."""
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def stop(self) -> None:
        """Stop the server and release the directory. Idempotent."""
        if self.child is not None:
            self.child.stop()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
