"""A clock for intervals: it says the time at which the process started plus what has passed since, and never jumps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

STARTED, AT = datetime.now(UTC), time.monotonic()


def steady_now() -> datetime:
    """The time in UTC as it would be if nobody had set the clock since."""
    return STARTED + timedelta(seconds=time.monotonic() - AT)
