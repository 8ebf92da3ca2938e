"""The end of old weights with a process that is killed at each of its steps: what was promised is kept, what is said
has happened, and nothing is said twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from app.adapters.files import CONFIG, MANIFEST, WEIGHTS
from tests.app.adapters.test_weights_end import age, files, leaves, path_of, row, sweep, without
from tests.app.service import Floor

CHILD = """
import os, signal, sys
from app import db as database
from app.adapters import files
from app.config import load_settings
from app.retention import service
from pathlib import Path
from sqlalchemy.orm import Session

left = int(sys.argv[1])
def die_at(function):
    def counted(*given, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        made = function(*given, **more)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return made
    return counted
Session.commit, Session.flush = die_at(Session.commit), die_at(Session.flush)
Path.unlink, files.sync_directory = die_at(Path.unlink), die_at(files.sync_directory)
service.remove(database.Database(load_settings().database_url), load_settings(), "weights")
print("DONE")
"""
"""Dies before, or after, the N-th commit, flush, removal or sync."""


def killed_at(place: int) -> bool:
    """Whether a sweep died there; it came to its end otherwise."""
    command = [sys.executable, "-c", CHILD, str(place)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert ran.returncode in (0, -signal.SIGKILL), ran.stderr[-2000:]
    assert ("DONE" in ran.stdout) == (ran.returncode == 0)
    return ran.returncode != 0


def test_a_sweep_killed_at_any_step_keeps_what_it_promised_and_says_only_what_happened(floor: Floor) -> None:
    """Each place has a version of its own that goes, so that all steps come. At each fifth place; at all of them with
    GRAIL_FAULTS=all."""
    floor.ask(1)
    floor.work()
    step = 1 if os.environ.get("GRAIL_FAULTS") == "all" else 5
    gone, deaths = [], 0
    for place in range(1, 80, step):
        version = len(gone) + 1
        age(floor)
        died = killed_at(place)
        now = row(floor, version)
        there = WEIGHTS in files(floor, version)
        assert not there or now.weights_destroyed_at is None, f"killed at {place}: said to be gone, and there"
        assert there or now.weights_doomed_at is not None, f"killed at {place}: gone, and nobody was told before"
        assert len(leaves(floor)) == len(gone) + (now.weights_destroyed_at is not None), f"killed at {place}"
        if now.weights_doomed_at is not None:
            answer = floor.caller.send("operator", "GET", path_of(version, "/download"))
            assert answer.status_code in (404, 409, 410), f"killed at {place}: promised away, and handed out"
        sweep(floor)
        gone.append(version)
        assert without(floor) == gone == [leaf["fields"]["version"] for leaf in leaves(floor)], f"killed at {place}"
        assert files(floor, version) == {CONFIG, MANIFEST}
        assert WEIGHTS in files(floor, version + 1), "what is served stays"
        if not died:
            break
        deaths += 1
        floor.ask(version + 1)
        floor.work()
    assert not died
    assert deaths >= 10 // step, f"{deaths} places at which it could die"
