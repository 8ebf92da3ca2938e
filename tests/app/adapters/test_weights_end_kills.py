"""The end of old weights with a process that is killed at each of its steps: what was promised is kept, what is said
has happened, and nothing is said twice."""

from __future__ import annotations

from app.adapters.files import CONFIG, MANIFEST, WEIGHTS
from tests.app.adapters.test_weights_end import age, files, leaves, path_of, row, sweep, without
from tests.app.service import Floor
from tests.fixtures.deaths import killed_at, places, step_of

CHILD = """
import sys
from pathlib import Path
from app.adapters import files
from app.config import load_settings
from app.db import Database
from app.retention import service
from sqlalchemy.orm import Session
from tests.fixtures.deaths import dies_at

named = (Session, "commit"), (Session, "flush"), (Path, "unlink"), (files, "sync_directory")
dies_at(int(sys.argv[1]), *named)
service.remove(Database(load_settings().database_url), load_settings(), "weights")
"""


def test_a_sweep_killed_at_any_step_keeps_what_it_promised_and_says_only_what_happened(floor: Floor) -> None:
    """Each place has a version of its own that goes, so that all steps come. At each fifth place; at all of them with
    GRAIL_FAULTS=all."""
    floor.ask(1)
    floor.work()
    gone, deaths = [], 0
    for place in places(80, by=5):
        version = len(gone) + 1
        age(floor)
        died = killed_at(place, CHILD)
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
    assert deaths >= 10 // step_of(5), f"{deaths} places at which it could die"
