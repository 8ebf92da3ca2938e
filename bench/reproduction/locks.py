"""Several processes on one queue: a run, a reference or a statistic is computed by one of them. Locks die with their
process, so that a killed run is taken up again."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from reproduction.teaching import CACHE


@contextmanager
def held(name: str, *, wait: bool) -> Iterator[bool]:
    """Whether this process holds the lock of that name; with `wait` it waits until it does."""
    path = CACHE / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
