"""A job that is cancelled or given back stops within a step or two, with real processes.

Heartbeats are a minute apart and leases ten, so that nothing here is owed to a lease that ran out.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.stack import Stack
from tests.e2e.conftest import settings_env
from tests.e2e.service import Service, tiny_policy
from tests.e2e.test_kills import slow_policy
from tests.fixtures.facts import TEMPLATE, body

STEPS = {"cancelled": 4000, "stopped": 200, "whole": 200}
"""Enough that a signal falls among them; the first never comes to its last, however slow the machine is."""


def policy(steps: int) -> dict[str, Any]:
    return {**tiny_policy(), "unlearn": {**slow_policy()["unlearn"], "steps": steps}}


@pytest.fixture(scope="module")
def patient(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose workers hold what they have."""
    environment = {**settings_env(taught), "GRAIL_LEASE_SECONDS": "600", "GRAIL_HEARTBEAT_SECONDS": "60"}
    place = tmp_path_factory.mktemp("patient")
    with Stack(environment, data_dir=place, fsync=False) as stack, Service(stack) as opened:
        for name, steps in STEPS.items():
            opened.register(name, taught / "base", taught / "adapter", TEMPLATE, policy(steps))
        yield opened
    stack.destroy()


def until(found: Callable[[], Any]) -> Any:
    """What is found, once it is."""
    deadline = time.monotonic() + 120
    while not (there := found()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return there


def logged(service: Service, event: str, job_id: str) -> dict[str, Any] | None:
    """The worker's last log line of that kind about a job."""
    lines = (service.stack.logs / "gpu.log").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    found = [row for row in rows if row.get("event") == event and row.get("job_id") == job_id]
    return found[-1] if found else None


def order(service: Service, model: str) -> str:
    """A request of each domain, and their job."""
    for domain, subject in (("privacy", "Ada"), ("copyright", "Dusk")):
        service.call("requester", "POST", "/v1/requests", 202, json={**body(domain, subject), "served_model": model})
    return str(service.call("operator", "POST", "/v1/jobs", 202, json={"served_model": model})["id"])


def begin(service: Service, model: str) -> str:
    """A job once it trains and has kept a checkpoint."""
    scratch = Path(service.stack.data_dir) / "scratch"
    before = set(scratch.rglob("resume.safetensors"))
    job_id = order(service, model)
    until(lambda: set(scratch.rglob("resume.safetensors")) - before)
    return job_id


def test_a_cancelled_job_stops_within_a_step_or_two_and_writes_nothing(patient: Service) -> None:
    job_id = begin(patient, "cancelled")
    cancelled = patient.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    assert cancelled["state"] == "cancelled"
    line = until(lambda: logged(patient, "lease_lost", job_id))
    assert 0 < line["step"] < STEPS["cancelled"], "it ended in the middle of training"
    until(lambda: logged(patient, "job_left", job_id))
    after = patient.call("operator", "GET", f"/v1/jobs/{job_id}")
    assert after == cancelled
    versions = patient.call("operator", "GET", "/v1/models/cancelled/adapters")["items"]
    assert [version["version"] for version in versions] == [1]
    assert len(list((Path(patient.stack.data_dir) / "adapters").glob("cancelled-*"))) == 1


def test_a_worker_that_is_told_to_end_gives_its_job_back_and_the_adapter_is_the_same_to_the_bit(
    patient: Service,
) -> None:
    job_id = begin(patient, "stopped")
    process = patient.stack.children["gpu"].process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    given_back = logged(patient, "job_given_back", job_id)
    assert given_back is not None
    stopped = patient.job_ended(job_id)
    assert stopped["state"] == "published", stopped["error"] or stopped["verdict"]
    assert (stopped["attempts"], stopped["put_off"]) == (1, 0)
    assert "training_resumed" in (patient.stack.logs / "gpu.log").read_text(encoding="utf-8")
    whole = patient.job_ended(order(patient, "whole"))
    assert whole["state"] == "published", whole["error"] or whole["verdict"]
    digests = {
        patient.call("operator", "GET", f"/v1/models/{name}/adapters")["items"][0]["digest"]
        for name in ("stopped", "whole")
    }
    assert len(digests) == 1
