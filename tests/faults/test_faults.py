"""Each fault by its name, with real processes, and what must be true afterwards (tests/faults/invariants.py).

A cheap choice of processes and points runs always; `GRAIL_FAULTS=all`, as `bench/chaos.py --named` sets it, runs all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.case import Case
from tests.faults.deeds import CHAINS, DONE, Deed, Officer
from tests.faults.ground import LEASE_SECONDS, POINTS, Ground, wait

ALL = os.environ.get("GRAIL_FAULTS") == "all"
PROCESSES = ("gpu", "control", "api", "beat", "postgres", "valkey")
EVERY = [(process, point) for process in PROCESSES for point in POINTS]
KILLED = EVERY if ALL else [
    ("gpu", "unlearn"), ("control", "evaluated"), ("api", "queued"), ("postgres", "report"), ("valkey", "queued"),
]  # fmt: skip
FROZEN = EVERY if ALL else [("postgres", "localise"), ("valkey", "reference")]


def holder(ground: Ground, case: Case) -> str:
    """Which process has the job."""
    pid = int(str(case.job()["lease_owner"]).rpartition(":")[2])
    return next(name for name, number in ground.stack.processes.items() if number == pid)


def logged(ground: Ground, process: str, event: str, **fields: Any) -> bool:
    """Whether a worker's log has such a line."""
    path = Path(ground.stack.logs) / f"{process}.log"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return any({**row, **fields, "event": event} == row for row in rows)


@pytest.mark.parametrize(("process", "point"), KILLED)
def test_kill_9_loses_nothing(ground: Ground, case: Case, process: str, point: str) -> None:
    case.ask()
    ground.until_point(case.model, point)
    ground.kill(holder(ground, case) if process == "gpu" and ground.point(case.model) in POINTS[1:8] else process)
    case.ask(1)
    case.holds()


@pytest.mark.parametrize(("process", "point"), FROZEN)
def test_a_process_that_stands_still_for_longer_than_a_lease_loses_nothing(
    ground: Ground, case: Case, process: str, point: str
) -> None:
    case.ask()
    ground.until_point(case.model, point)
    thawing = ground.freeze_for(process, 1.5 * LEASE_SECONDS)
    case.ask(1)
    thawing.join()
    case.holds()


def test_a_worker_that_wakes_after_its_lease_was_given_away_publishes_nothing(ground: Ground, case: Case) -> None:
    case.ask()
    ground.until_point(case.model, "unlearn")
    sleeper, job_id = holder(ground, case), str(case.job()["id"])
    token = case.job()["fencing_token"]
    ground.freeze(sleeper)
    wait(lambda: case.job()["fencing_token"] != token)
    assert case.job()["attempts"] == 2
    ground.thaw(sleeper)
    wait(lambda: logged(ground, sleeper, "lease_lost", job_id=job_id, token=token))
    case.holds()


def test_a_broker_that_forgets_all_messages_delays_and_loses_nothing(ground: Ground, case: Case) -> None:
    case.ask()
    ground.until_point(case.model, "queued")
    ground.flush()
    case.ask(1)
    ground.flush()
    case.holds()


def test_doorbells_that_ring_again_and_again_make_one_job_of_one(ground: Ground, case: Case) -> None:
    """Both workers are rung for the same job while it is queued, at work, and concluded."""
    case.ask()
    for point in ("queued", "reference", "unlearn", "evaluated"):
        ground.until_point(case.model, point)
        ground.ring_again(times=3)
    case.holds()
    assert (case.job()["attempts"], case.job()["fencing_token"]) == (1, 1)


def test_clocks_that_jump_neither_steal_a_lease_nor_stop_the_rings(ground: Ground, case: Case) -> None:
    """The idle worker's clock is a day ahead: every lease would have run out by it. Beat's goes back by a day, so that
    its next ring would be due tomorrow."""
    case.ask()
    ground.until_point(case.model, "load")
    idle = {"gpu": "gpu-2", "gpu-2": "gpu"}[holder(ground, case)]
    ground.set_clock(idle, 86_400)
    ground.set_clock("control", 86_400)
    ground.set_clock("beat", -86_400)
    ground.ring_again()
    case.ends()
    assert (case.job()["attempts"], case.job()["fencing_token"]) == (1, 1)
    case.ask(1)
    case.load.end()
    case.ends()
    case.holds()


def test_a_full_disk_leaves_nothing_half_written_and_the_job_goes_on_once_there_is_room(
    ground: Ground, case: Case
) -> None:
    if not ground.small_disk:
        pytest.skip("a small file system can not be mounted here (root only)")
    case.ask()
    ground.until_point(case.model, "load")
    ground.fill_disk()
    opened = "SELECT 1 FROM served_model WHERE name = %s AND breaker_opened_at IS NOT NULL"
    wait(lambda: ground.rows(opened, case.model))
    assert str(case.job()["error"]).count("storage-full") == 1
    ground.free_disk()
    case.holds()


def test_a_broker_that_takes_connections_and_says_nothing_does_not_hold_up_callers(ground: Ground, case: Case) -> None:
    """The change is stored, its doorbell is given up soon, and the sweep rings once the broker goes on."""
    ground.service.call("operator", "PATCH", f"/v1/models/{case.model}", json={"policy": {"window_seconds": 3600}})
    case.ask(1)
    case.load.end()
    ground.freeze("valkey")
    answer = ground.service.clients["operator"].post("/v1/jobs", json={"served_model": case.model}, timeout=20)
    assert answer.status_code == 202, answer.text
    case.holds()


def test_people_who_change_their_minds_while_a_worker_dies_get_what_they_were_told(ground: Ground) -> None:
    """One schedule of those that bench/chaos.py draws with `--deeds`. No request is published before the officer comes,
    so that one can be extended whatever its job does."""
    case, chains = Case(ground, approval=True), ((), ("extend",), *CHAINS)
    deeds = [Deed(chain, number * 0.3, 0.2) for number, chain in enumerate(chains)]
    case.ask(len(deeds), deeds)
    ground.until_point(case.model, "load")
    ground.kill(holder(ground, case) if ground.point(case.model) in POINTS[1:8] else "gpu")
    case.load.end()
    assert deeds[1].became == {"extend": DONE}
    with Officer(case.people, case.model, 0.0):
        case.holds()
    ground.heal()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_caller_whose_commit_is_cut_off_repeats_the_call_and_is_stored_once(
    ground: Ground, case: Case, when: str
) -> None:
    """Cut before it reaches the server the commit is undone, cut after it the change is there and nobody was told."""
    cuts = len(ground.cutter.cuts)
    ground.cutter.arm(when, "grail")
    case.ask(1)
    case.load.end()
    assert [cut for cut in ground.cutter.cuts[cuts:] if cut == (when, "grail")], "no commit was cut"
    assert case.load.repeated >= 1
    case.holds()


@pytest.mark.parametrize("task", ["run_job", "publish_job", "plan_batches", "sweep"] if ALL else ["run_job"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_whose_commit_is_cut_off_does_nothing_twice(
    ground: Ground, case: Case, when: str, task: str
) -> None:
    case.ask()
    ground.until_point(case.model, "report" if task == "run_job" else "queued")
    ground.cutter.arm(when, f"grail.{task}")
    case.holds()
