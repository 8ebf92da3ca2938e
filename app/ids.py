"""Ids are made in Python, time-ordered (UUIDv7, RFC 9562), since Postgres < 18 has no uuidv7()."""

from __future__ import annotations

import os
import time
import uuid
from datetime import datetime, timedelta

RANDOM_BYTES = 10
RANDOM_BITS = (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)
"""Those that are neither version nor variant."""


def new_id(at: datetime | None = None) -> uuid.UUID:
    """A UUIDv7: 48 bits of milliseconds, then randomness. Newer ids sort after older ones to the millisecond.

    `at` is the moment that it sorts by, without one this one; years before 1970 all sort first.
    """
    return new_ids(1, at)[0]


def new_ids(count: int, at: datetime | None = None) -> list[uuid.UUID]:
    """As many, of one moment; the system is asked for randomness once."""
    milliseconds = time.time_ns() // 1_000_000 if at is None else max(int(at.timestamp() * 1000), 0)
    first, drawn = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | 0x2 << 62, os.urandom(RANDOM_BYTES * count)
    return [
        uuid.UUID(int=first | int.from_bytes(drawn[start : start + RANDOM_BYTES]) & RANDOM_BITS)
        for start in range(0, len(drawn), RANDOM_BYTES)
    ]


def first_id(moment: datetime, slack: timedelta = timedelta()) -> uuid.UUID:
    """The smallest id that can be made `slack` after `moment`: ids begin with milliseconds (RFC 9562, section 5.7).

    In numbers, not in dates: the first and the last moment that a date can name have no hour before and after them.
    """
    milliseconds = int((moment.timestamp() + slack.total_seconds()) * 1000)
    return uuid.UUID(int=max(milliseconds, 0) << 80)
