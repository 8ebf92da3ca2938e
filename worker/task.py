"""The base of every task: a database, a log context with ids, and the border at which an exception ends.

A task takes ids, re-reads, returns if the work is done. Whatever goes wrong is noted by kind and place, never by text:
an exception's message or its traceback's values may hold what shall be forgotten. Nothing is lost by swallowing it
here: the job's row says what is to be done, and the sweep rings again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import Any

import structlog
from celery import Task

from app.config import Settings, load_settings
from app.db import Database
from app.errors import Unavailable, line_of
from app.webhooks.sender import Sender

log = structlog.get_logger(__name__)


class ServiceTask(Task):  # type: ignore[misc]  # celery is not annotated
    """One instance a process and task name."""

    abstract = True
    leased = False
    """Whether others take its work over when it is not heard of: then it holds no rows for longer than a lease."""

    @property
    def settings(self) -> Settings:
        """The settings of this process."""
        return load_settings()

    @cached_property
    def db(self) -> Database:
        """Connections of this task's own, opened at first use: after any fork."""
        return Database(
            self.settings.database_url,
            timeout_seconds=self.settings.database_timeout_seconds,
            application=f"grail {self.name}",
            idle_seconds=self.settings.lease_seconds if self.leased else None,
        )

    @contextmanager
    def apart(self, **named: str) -> Iterator[None]:
        """A part of a task whose failure, logged without its text, stops none of the others. Raises Unavailable."""
        try:
            yield
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  the border: see the module's docstring
            log.error("part_failed", kind=type(error).__name__, where=line_of(error), **named)

    def __call__(self, *ids: Any, **named: Any) -> Any:
        """Run; an error is logged without its text and goes no further."""
        structlog.contextvars.clear_contextvars()  # what the task before this one noted
        with structlog.contextvars.bound_contextvars(task=self.name, ids=list(ids)):
            try:
                return super().__call__(*ids, **named)
            except Unavailable as error:
                log.warning("task_put_off", kind=error.type)
            except Exception as error:  # noqa: BLE001  the border: see the module's docstring
                log.error("task_failed", kind=type(error).__name__, where=line_of(error))
        return None


class LeasedTask(ServiceTask):
    """One that works under a lease."""

    abstract = True
    leased = True


class SingleTask(ServiceTask):
    """One whose rings may take longer than the time between them: one run at a time in a process."""

    abstract = True
    turn = Lock()


class SenderTask(ServiceTask):
    """One that sends webhooks, one run at a time in a process."""

    abstract = True

    @cached_property
    def sender(self) -> Sender:
        """The sender of this process."""
        return Sender(self.db, self.settings)
