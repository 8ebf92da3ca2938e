"""Metrics for Prometheus. What the rows say is read from Postgres at each scrape, so that every API process tells the
same; the times of exchanges are each process' own, or, with PROMETHEUS_MULTIPROC_DIR, of all that share that directory.

Labels are served models (the first MOST_MODELS by name), states, stages, regulations, domains and templates of routes:
few, whatever callers send.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app import queue, schema
from app.config import Settings
from app.db import Database
from app.errors import Unavailable
from app.telemetry import repository
from app.telemetry.families import Snapshot, families, gauge
from app.telemetry.snapshot import read

log = structlog.get_logger(__name__)

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
KEPT_SECONDS = 2.0
"""Scrapes that follow each other sooner get the same: a scraper gone wild does not become the database's load."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RowsCollector(Collector):
    """What the database, the broker and the disk say now."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db, self.settings = db, settings
        self._lock = threading.Lock()
        self._kept: tuple[float, list[Metric]] = (0.0, [])

    def collect(self) -> Iterable[Metric]:
        """Called by the registry at each scrape."""
        with self._lock:
            read_at, kept = self._kept
            if not kept or time.monotonic() - read_at > KEPT_SECONDS:
                kept = list(self._read())
                self._kept = (time.monotonic(), kept)
        return kept

    def _read(self) -> Iterator[Metric]:
        found = self._snapshot()
        yield gauge("grail_database_up", "1 when the database answered this scrape in time.", [((), int(bool(found)))])
        yield gauge("grail_broker_up", "1 when the broker answers.", [((), int(self._broker_answers()))])
        place = self.settings.data_dir
        free = shutil.disk_usage(place).free if place.exists() else 0
        yield gauge("grail_data_free_bytes", "Free on the disk of GRAIL_DATA_DIR.", [((), free)])
        yield gauge(
            "grail_build_info", "The schema that this code needs.", [((schema.head() or "none",), 1)], ("schema",)
        )
        if found is not None:
            yield from families(found)

    def _snapshot(self) -> Snapshot | None:
        try:
            with self.db.session_factory() as session:
                repository.limit_time(session, self.settings.database_timeout_seconds / 2)
                return read(session, datetime.now(UTC), self.settings)
        except SQLAlchemyError as error:
            log.warning("metrics_incomplete", kind=type(error).__name__)
            return None

    def _broker_answers(self) -> bool:
        try:
            queue.ping(self.settings.broker_url, self.settings.broker_timeout_seconds)
        except Unavailable:
            return False
        return True


class Metrics:
    """The metrics of one API process."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._shared = bool(os.environ.get(MULTIPROCESS))
        self._registry = CollectorRegistry()
        self._registry.register(RowsCollector(db, settings))
        self._seconds = Histogram(
            "grail_http_request_seconds",
            "From the receipt of a call to the beginning of its answer.",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=None if self._shared else self._registry,
        )
        own = None if self._shared else self._registry
        self._limited = Counter(
            "grail_rate_limited", "Calls that got a 429: over the rate of their key, or of their address without one.",
            ("kind", "role"), registry=own,
        )  # fmt: skip
        self._shed = Counter("grail_http_shed", "Calls that got a 503 at once: as many were at work.", registry=own)
        self._counted = Gauge(
            "grail_rates_counted", "1 while limits hold; 0 while the counter does not answer and calls pass.",
            registry=own, multiprocess_mode="livemin",
        )  # fmt: skip
        if self._shared:
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """One exchange."""
        self._seconds.labels(method, route, f"{status // 100}xx").observe(seconds)

    def rate_limited(self, kind: str, role: str) -> None:
        """One call over its rate."""
        self._limited.labels(kind, role).inc()

    def shed(self) -> None:
        """One call that was refused for want of room."""
        self._shed.inc()

    def rates_counted(self, counted: bool) -> None:
        """Whether limits hold from now on."""
        self._counted.set(int(counted))

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
