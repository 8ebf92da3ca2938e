"""Whose turn it is: which of the jobs that could be taken up a worker takes, and what a queued job waits for. Pure.

Urgent ones come first, by whole days until they are due. Among equally urgent ones the served model that was served
longest ago comes first, so that with more models than workers none starves.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DAY = timedelta(days=1)
GIGABYTE = 1e9
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that could be taken up. `served_at` is when another job of its model was last begun."""

    job_id: uuid.UUID
    due_at: datetime | None
    served_at: datetime | None
    needed_bytes: int | None = None


def fits(needed_bytes: int | None, memory_bytes: int | None) -> bool:
    """Whether a job fits a worker's memory; what nobody has measured fits."""
    return needed_bytes is None or memory_bytes is None or needed_bytes <= memory_bytes


def days_left(due_at: datetime | None, now: datetime) -> float:
    """Whole days until a date, 0 when it is past; a job without a date has for ever."""
    return math.inf if due_at is None else max((due_at - now) // DAY, 0)


def in_turn(candidates: Iterable[Candidate], now: datetime, memory_bytes: int | None) -> list[uuid.UUID]:
    """Jobs that fit a worker with so much memory, in the order in which it is to take them up."""

    def turn(job: Candidate) -> tuple[float, datetime, datetime, uuid.UUID]:
        due = job.due_at or datetime.max.replace(tzinfo=UTC)
        return days_left(job.due_at, now), job.served_at or LONG_AGO, due, job.job_id

    return [job.job_id for job in sorted(candidates, key=turn) if fits(job.needed_bytes, memory_bytes)]


def waiting_for(
    needed_bytes: int | None,
    not_before: datetime | None,
    workers: Sequence[int],
    now: datetime,
    *,
    breaker_open: bool,
) -> str | None:
    """What keeps a queued job from being taken up; None: nothing, it is its turn. `workers` are the memories of those
    that were seen lately."""
    if breaker_open:
        return "the model's breaker to be closed"
    if not workers:
        return "a gpu worker"
    if not any(fits(needed_bytes, memory) for memory in workers):
        return f"a worker with {math.ceil((needed_bytes or 0) / GIGABYTE)} GB"
    if not_before is not None and not_before > now:
        return f"{not_before.astimezone(UTC).isoformat(timespec='seconds')}, when it is tried again"
    return None
