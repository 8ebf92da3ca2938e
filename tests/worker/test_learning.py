"""Two threads that want the learning stack get it one after the other."""

from __future__ import annotations

import threading
import time

import pytest

from worker import learning


def test_the_learning_stack_is_never_imported_by_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, a fresh worker's first job ends as an ImportError of a module that is imported by half."""
    inside, most, guard = 0, 0, threading.Lock()

    def slow_import(_: str) -> None:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)  # room for the other; a wrong lock is seen, a right one never waits for it
        with guard:
            inside -= 1

    monkeypatch.setattr(learning.importlib, "import_module", slow_import)
    threads = [threading.Thread(target=learning.load_stack) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
