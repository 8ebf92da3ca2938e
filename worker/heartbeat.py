"""Keep a job's lease while the main thread computes, and tell the main thread when it is lost.

The thread has sessions of its own. When the database does not answer, it goes on trying until the lease would have run
out; a worker that lost its lease stops at its next step and can write nothing (its fencing token is stale).

The main thread also looks itself, so that a cancelled job stops within a step or two, however long a heartbeat is.
"""

from __future__ import annotations

import threading
import time
import uuid
from types import TracebackType

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.db import Database, transaction
from app.errors import ServiceError
from app.jobs import leases
from grail.types import Interrupted, Progress
from worker.shutdown import SHUTDOWN, Shutdown

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5
"""A computation whose steps are shorter looks at its job no more often than this."""


class Heartbeat:
    """A context manager; `report` is what long computations call."""

    def __init__(
        self,
        db: Database,
        job_id: uuid.UUID,
        token: int,
        *,
        every_seconds: float,
        lease_seconds: float,
        look_seconds: float = LOOK_SECONDS,
        shutdown: Shutdown = SHUTDOWN,
    ) -> None:
        self.db, self.job_id, self.token = db, job_id, token
        self.every_seconds, self.lease_seconds = every_seconds, lease_seconds
        self.look_seconds, self.shutdown = look_seconds, shutdown
        self.latest: Progress | None = None
        self.lost: Exception | None = None
        self._look_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{job_id}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=self.every_seconds + 10)

    def report(self, progress: Progress) -> None:
        """Note the newest progress. Raises what ends the computation: LeaseLost once the job is no longer ours,
        Interrupted once this process is to end."""
        self.latest = progress
        if self.lost is None and time.monotonic() >= self._look_at:
            self._look()
        if self.lost is not None:
            raise self.lost
        if self.shutdown.asked:
            raise Interrupted

    def _look(self) -> None:
        """Whether the job is still ours. A database that does not answer is the thread's business, and is not asked
        again before the next beat."""
        pause = self.look_seconds
        try:
            with self.db.session_factory() as session:
                leases.check(session, self.job_id, self.token)
        except leases.LeaseLost as error:
            self.lost = error
        except (ServiceError, SQLAlchemyError):
            pause = max(pause, self.every_seconds)
        self._look_at = time.monotonic() + pause

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self.every_seconds):
            try:
                with transaction(self.db) as session:
                    leases.heartbeat(session, self.job_id, self.token, self.lease_seconds, self.latest)
                last = time.monotonic()
            except leases.LeaseLost as error:
                self.lost = error
                return
            except (ServiceError, SQLAlchemyError) as error:  # whatever it is, the next beat may get through
                log.warning("heartbeat_failed", job_id=str(self.job_id), kind=type(error).__name__)
                if time.monotonic() - last > self.lease_seconds:
                    self.lost = leases.LeaseLost(self.job_id, self.token)
                    return
