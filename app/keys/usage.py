"""When each key was last used: noted in memory at each call, written every half minute, by no call's transaction."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database, transaction
from app.errors import ServiceError
from app.keys import repository

log = structlog.get_logger(__name__)

EVERY_SECONDS = 30.0


class KeyUsage:
    """Between `begin` and `end` a thread writes what was noted; the rest is written at the end."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._noted: dict[uuid.UUID, datetime] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, key_id: str) -> None:
        """A key was accepted now."""
        with self._lock:
            self._noted[uuid.UUID(key_id)] = datetime.now(UTC)

    def begin(self) -> None:
        """Start to write."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="key-usage", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Write what is left."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.write()

    def write(self) -> None:
        """Write what was noted. While the database is away it is kept for the next time."""
        with self._lock:
            noted, self._noted = self._noted, {}
        if not noted:
            return
        try:
            with transaction(self.db) as session:
                repository.note_used(session, noted)
        except (ServiceError, SQLAlchemyError) as error:
            log.warning("key_usage_not_written", kind=type(error).__name__)
            with self._lock:
                self._noted = noted | self._noted

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            self.write()
