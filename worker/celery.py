"""The Celery app. Two kinds of worker: `gpu` (solo, run_job only) and `control` (threads, no torch)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery import Celery
from celery.schedules import schedule
from celery.signals import setup_logging, worker_init, worker_ready, worker_shutdown, worker_shutting_down

from app.config import load_settings
from app.db import Database
from app.logs import configure_logs
from app.queue import GPU, QUEUES, broker_options
from app.telemetry.tracing import configure_traces, flush_traces
from worker.presence import Presence
from worker.shutdown import SHUTDOWN
from worker.steady import steady_now

settings = load_settings()

ORPHANS_SECONDS = 900.0
"""How often beat rings for files that nobody names."""


def every(seconds: float) -> schedule:
    """A ring each so many seconds, whatever happens to the wall clock meanwhile."""
    return schedule(timedelta(seconds=seconds), nowfun=steady_now)


celery = Celery("grail", broker=settings.broker_url, include=["worker.tasks"])
celery.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_default_queue="control",
    task_routes=QUEUES,
    broker_transport_options=broker_options(settings.broker_url),
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    beat_scheduler="celery.beat:Scheduler",  # in memory: it rings each interval anew, and reads no pickle
    beat_schedule={
        "plan": {"task": "grail.plan_batches", "schedule": every(settings.plan_seconds)},
        "sweep": {"task": "grail.sweep", "schedule": every(settings.sweep_seconds)},
        "deliver": {"task": "grail.deliver", "schedule": every(settings.deliver_seconds)},
        "number": {"task": "grail.number_leaves", "schedule": every(settings.number_seconds)},
        "checkpoint": {"task": "grail.issue_checkpoint", "schedule": every(settings.checkpoint_seconds)},
        "bundle": {"task": "grail.bundle_reports", "schedule": every(settings.bundle_seconds)},
        "orphans": {"task": "grail.remove_orphans", "schedule": every(ORPHANS_SECONDS)},
    },
)


@setup_logging.connect  # type: ignore[untyped-decorator]  # celery is not annotated
def _our_logs(**_: Any) -> None:
    """JSON lines with ids and never content, instead of Celery's own tracebacks."""
    configure_logs(settings.log_level)


@worker_init.connect  # type: ignore[untyped-decorator]  # celery is not annotated
def _trace(sender: Any, **_: Any) -> None:
    """Neither pool forks, so that the thread which sends spans is there when tasks run."""
    configure_traces(settings, str(sender.hostname))
    worker_shutdown.connect(lambda **_: flush_traces(), weak=False)


@worker_shutting_down.connect  # type: ignore[untyped-decorator]  # celery is not annotated
def _end_the_job(**_: Any) -> None:
    """SIGTERM (or Ctrl-C) reaches a solo worker in the middle of its job: that ends at its next step and is given back.
    Celery itself would wait for the job's end."""
    SHUTDOWN.asked = True


@worker_ready.connect  # type: ignore[untyped-decorator]  # celery is not annotated
def _announce(sender: Any, **_: Any) -> None:
    """A worker that computes says that it is there, until it ends."""
    if GPU not in sender.app.amqp.queues.consume_from:
        return
    timeout = settings.database_timeout_seconds
    presence = Presence(
        Database(settings.database_url, pool_size=1, timeout_seconds=timeout, application="grail presence"), settings
    )
    presence.begin()
    worker_shutdown.connect(lambda **_: presence.end(), weak=False)
