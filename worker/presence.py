"""A gpu worker says that it is there, and how much memory it has, from its start to its end, also while it computes."""

from __future__ import annotations

import os
import platform
import threading

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.db import Database, clock, transaction
from app.errors import ServiceError
from app.workers import service as workers
from worker.learning import load_stack

log = structlog.get_logger(__name__)


def worker_name() -> str:
    """Machine and process: also the owner of this worker's leases."""
    return f"{platform.node()}:{os.getpid()}"


class Presence:
    """A thread with sessions of its own, from `begin` to `end`."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db, self.settings = db, settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._announce, name="presence", daemon=True)

    def begin(self) -> None:
        """Start to announce."""
        self._thread.start()

    def end(self) -> None:
        """Say goodbye; a database that is away is told nothing, and forgets by itself."""
        self._stop.set()
        self._thread.join(timeout=1.0)
        try:
            with transaction(self.db) as session:
                workers.leave(session, worker_name())
        except (ServiceError, SQLAlchemyError) as error:
            log.warning("goodbye_failed", kind=type(error).__name__)

    def _announce(self) -> None:
        load_stack()  # it takes seconds: the worker starts meanwhile
        from worker.device import offered_bytes

        memory = offered_bytes(self.settings)
        log.info("worker_offers", memory_bytes=memory)
        while True:
            try:
                with transaction(self.db) as session:
                    workers.announce(session, worker_name(), memory, clock(session))
            except (ServiceError, SQLAlchemyError) as error:
                log.warning("announcing_failed", kind=type(error).__name__)
            if self._stop.wait(self.settings.heartbeat_seconds):
                return
