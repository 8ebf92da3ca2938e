"""Both servers of the demo, of development and of tests, under one directory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from app.embedded.postgres import EmbeddedPostgres
from app.embedded.valkey import EmbeddedValkey


class EmbeddedServices:
    """Postgres and Valkey under `directory`; their logs are in `directory`/logs."""

    def __init__(self, directory: Path = Path(".grail"), *, fsync: bool = True) -> None:
        self.directory = directory.absolute()
        self.postgres = EmbeddedPostgres(self.directory / "postgres", fsync=fsync)
        self.valkey = EmbeddedValkey(self.directory / "valkey")

    @property
    def database_url(self) -> str:
        """Where the database is."""
        return self.postgres.url()

    @property
    def broker_url(self) -> str:
        """Where the broker is."""
        return self.valkey.url()

    @property
    def logs(self) -> dict[str, Path]:
        """Where the servers log."""
        return {"postgres": self.postgres.log, "valkey": self.valkey.log}

    def start(self) -> None:
        """Start both, or neither. Raises ServerFailed, AlreadyRunning, BinaryMissing."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self.postgres.start()
            self.valkey.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both. Idempotent."""
        self.valkey.stop()
        self.postgres.stop()

    def __enter__(self) -> EmbeddedServices:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
