"""When a delivery that failed is tried again. Pure."""

from __future__ import annotations

from collections.abc import Sequence

JITTER = 0.2
"""A wait lies within 10 % of the schedule's, so that what failed together is not tried again together."""
RETRY_AFTER_MOST_SECONDS = 3600.0


def wait_seconds(schedule: Sequence[float], attempts: int, chance: float, retry_after: float | None) -> float | None:
    """Seconds until the next attempt after `attempts` that failed; None when that was the last one.

    `chance` is a number of 0..1. What the receiver asked for (`Retry-After`) counts where it is longer, up to an hour.
    """
    if attempts > len(schedule):
        return None
    wait = schedule[attempts - 1] * (1 + JITTER * (chance - 0.5))
    return max(wait, min(retry_after or 0.0, RETRY_AFTER_MOST_SECONDS))


def seconds_asked(header: str | None) -> float | None:
    """The seconds of a `Retry-After`; its other form, a date, is not regarded."""
    return float(header) if header and header.isascii() and header.isdigit() and len(header) < 10 else None
