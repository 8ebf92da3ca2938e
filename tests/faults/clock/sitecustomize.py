"""Put on a child's PYTHONPATH: a process whose wall clock stands wrong by what a file says, from one call to the next.

`GRAIL_TEST_CLOCKS` names a directory; a process of the name `gpu` (`control`, `api`, `beat`) reads the seconds in `gpu`
there, if that file exists. The monotonic clock is left alone, as a jump of a real clock leaves it.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from pathlib import Path

_REAL_NOW, _REAL_TIME = datetime.datetime.now, time.time
_REAL = datetime.datetime


def _name() -> str:
    """Which of the service's processes this is, by its command line."""
    words = sys.orig_argv
    if "--hostname" in words:
        return words[words.index("--hostname") + 1].partition("@")[0]
    return "beat" if "beat" in words else "api" if "cli.api" in words else ""


def _offset(path: Path) -> float:
    try:
        return float(path.read_text(encoding="ascii") or 0)
    except (OSError, ValueError):
        return 0.0


def _shift(path: Path) -> None:
    class Kind(type):
        def __instancecheck__(cls, thing: object) -> bool:
            return isinstance(thing, _REAL)

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, _REAL)

    class Shifted(_REAL, metaclass=Kind):
        def __new__(cls, *args: object, **named: object) -> datetime.datetime:
            return _REAL(*args, **named)

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return _REAL_NOW(tz) + datetime.timedelta(seconds=_offset(path))

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return cls.now(datetime.UTC).replace(tzinfo=None)

    datetime.datetime = Shifted
    time.time = lambda: _REAL_TIME() + _offset(path)


if (_clocks := os.environ.get("GRAIL_TEST_CLOCKS")) and _name():
    _shift(Path(_clocks) / _name())
