"""Ids are made in Python, time-ordered (UUIDv7, RFC 9562), since Postgres < 18 has no uuidv7()."""

from __future__ import annotations

import os
import time
import uuid
from datetime import datetime, timedelta


def new_id(at: datetime | None = None) -> uuid.UUID:
    """A UUIDv7: 48 bits of milliseconds, then randomness. Newer ids sort after older ones to the millisecond.

    `at` is the moment that it sorts by, without one this one; years before 1970 all sort first.
    """
    milliseconds = time.time_ns() // 1_000_000 if at is None else max(int(at.timestamp() * 1000), 0)
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def first_id(moment: datetime, slack: timedelta = timedelta()) -> uuid.UUID:
    """The smallest id that can be made `slack` after `moment`: ids begin with milliseconds (RFC 9562, section 5.7).

    In numbers, not in dates: the first and the last moment that a date can name have no hour before and after them.
    """
    milliseconds = int((moment.timestamp() + slack.total_seconds()) * 1000)
    return uuid.UUID(int=max(milliseconds, 0) << 80)
