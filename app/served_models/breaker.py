"""The circuit breaker of a served model: when its jobs fail for no fault of their requests, none starts for a while.

Requests stay queued and their clocks run. Open: no batch is made and no job claimed. Half-open, once it has cooled
down: one job may try (a served model never has two). The first that comes to a verdict closes it, and so does a person.

The first functions are pure; the others change a row that the caller holds.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import Principal
from app.config import load_settings
from app.tables import ServedModel

MOST_DOUBLINGS = 5
"""A trial that fails doubles the cool-down, so often: a machine that is broken all night is not tried every few
minutes."""


class BreakerState(StrEnum):
    """Whether jobs of a served model may start."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Limits:
    """`failures` in a row open it, for `seconds` at first."""

    failures: int
    seconds: float


def cooled_at(failures: int, opened_at: datetime, limits: Limits) -> datetime:
    """When a breaker that was opened then, after so many failures in a row, lets one job try."""
    doublings = min(max(failures - limits.failures, 0), MOST_DOUBLINGS)
    return opened_at + timedelta(seconds=limits.seconds * 2**doublings)


def state_of(failures: int, opened_at: datetime | None, now: datetime, limits: Limits) -> BreakerState:
    """Where it stands."""
    if opened_at is None:
        return BreakerState.CLOSED
    return BreakerState.HALF_OPEN if now >= cooled_at(failures, opened_at, limits) else BreakerState.OPEN


def after_failure(
    failures: int, opened_at: datetime | None, now: datetime, limits: Limits, *, at_once: bool
) -> tuple[int, datetime | None]:
    """(failures in a row, when it was opened) after one more; `at_once` opens it whatever the count."""
    failures = max(failures + 1, limits.failures) if at_once else failures + 1
    return failures, now if failures >= limits.failures else opened_at


def limits() -> Limits:
    """Those of this process' settings."""
    settings = load_settings()
    return Limits(settings.breaker_failures, settings.breaker_seconds)


def state(model: ServedModel, now: datetime) -> BreakerState:
    """Where a model's breaker stands."""
    return state_of(model.breaker_failures, model.breaker_opened_at, now, limits())


def blocks(model: ServedModel, now: datetime) -> bool:
    """Whether the model is to be left alone."""
    return state(model, now) is BreakerState.OPEN


def tries_again_at(model: ServedModel) -> datetime | None:
    """When one job may try; None while it is closed."""
    opened = model.breaker_opened_at
    return None if opened is None else cooled_at(model.breaker_failures, opened, limits())


def note_failure(
    session: Session, model: ServedModel, job_id: uuid.UUID, error: Mapping[str, Any], now: datetime, *, at_once: bool
) -> None:
    """One more failure that is no request's fault; `error` is shown as the reason."""
    before = model.breaker_opened_at
    model.breaker_failures, model.breaker_opened_at = after_failure(
        model.breaker_failures, before, now, limits(), at_once=at_once
    )
    model.breaker_error = {**error, "job_id": str(job_id)}
    if model.breaker_opened_at != before:
        record(
            session, "model.breaker_opened", subject_id=str(model.id), at=now, job_id=str(job_id),
            failures=model.breaker_failures,
        )  # fmt: skip
    session.flush()


def note_success(session: Session, model: ServedModel, now: datetime) -> None:
    """A job came to a verdict: the count begins anew."""
    if model.breaker_failures or model.breaker_opened_at is not None:
        reset(session, model, now)


def reset(session: Session, model: ServedModel, now: datetime, who: Principal | None = None) -> None:
    """Close it; audited where it was open."""
    was_open = model.breaker_opened_at is not None
    model.breaker_failures, model.breaker_opened_at, model.breaker_error = 0, None, None
    if was_open:
        by = None if who is None else str(who.key_id)
        record(session, "model.breaker_closed", subject_id=str(model.id), at=now, key_id=by)
    session.flush()
