"""Both servers of the demo, of development and of tests, under one directory."""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from app.embedded.locks import SupervisorLock
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.valkey import EmbeddedValkey

LOG = logging.getLogger(__name__)


class EmbeddedServices:
    """Postgres and Valkey under `directory`; their logs are in `directory`/logs."""

    def __init__(self, directory: Path = Path(".grail"), *, fsync: bool = True) -> None:
        self.directory = directory.absolute()
        self.postgres = EmbeddedPostgres(self.directory / "postgres", fsync=fsync)
        self.valkey = EmbeddedValkey(self.directory / "valkey")
        self._undo = ExitStack()

    @property
    def database_url(self) -> str:
        """Where the database is."""
        return self.postgres.url()

    @property
    def broker_url(self) -> str:
        """Where the broker is, in Celery's form."""
        return self.valkey.url()

    @property
    def logs(self) -> dict[str, Path]:
        """Where the servers log."""
        return {"postgres": self.postgres.log, "valkey": self.valkey.log}

    @property
    def notes(self) -> list[str]:
        """What a person should know: data or sockets that had to be put outside `directory`."""
        return self.postgres.notes + self.valkey.notes

    def start(self) -> None:
        """Start both, or neither. Raises an EmbeddedError."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            undo.enter_context(self.postgres)
            undo.enter_context(self.valkey)
            self._undo = undo.pop_all()
        for note in self.notes:
            LOG.info(note)

    def stop(self) -> None:
        """Stop both, the second even when the first cannot be stopped. Idempotent."""
        self._undo.close()

    def destroy(self) -> None:
        """Stop both and remove their data, also what lies outside `directory`; the logs stay. Raises AlreadyRunning
        when another supervisor runs there."""
        self.stop()
        for wanted in (self.postgres.wanted, self.valkey.wanted):
            place = wanted.resolve()
            if place.is_dir():
                lock = SupervisorLock(place)
                lock.acquire()
                shutil.rmtree(place)
                lock.release()
            if wanted.is_symlink():
                wanted.unlink()

    def __enter__(self) -> EmbeddedServices:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
