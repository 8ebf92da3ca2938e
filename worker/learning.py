"""The learning stack is imported by one thread at a time.

A worker's presence and its first job both want it, each in its own thread. Libraries that import their parts lazily
fail when two threads do that at once, and the first job of a fresh worker would end as an ImportError.
"""

from __future__ import annotations

import importlib
import threading

_ONE_AT_A_TIME = threading.Lock()
PARTS = ("worker.device", "worker.job")


def load_stack() -> None:
    """Import whatever a job needs; at once if that has been done. Raises ImportError."""
    with _ONE_AT_A_TIME:
        for part in PARTS:
            importlib.import_module(part)
