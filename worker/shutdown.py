"""Whether this process was told to end. Set by a signal, looked at between steps of a computation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Shutdown:
    """A plain flag: a signal's handler may interrupt any line, also one that holds a lock, so it takes none."""

    asked: bool = False


SHUTDOWN = Shutdown()
"""That of this process: a signal reaches the process, not a job."""
