"""What survives kill -9, with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.stack import Stack
from tests.e2e.conftest import settings_env
from tests.e2e.service import Service, tiny_policy
from tests.fixtures.facts import TEMPLATE, body


def slow_policy() -> dict[str, Any]:
    """Enough steps that a kill falls among them."""
    policy = tiny_policy()
    return {**policy, "unlearn": {**policy["unlearn"], "steps": 400, "learning_rate": 2e-3, "score_every_steps": 5}}


@pytest.fixture
def fresh(taught: Path, tmp_path: Path) -> Iterator[Service]:
    """A service of this test's own."""
    with Stack(settings_env(taught), data_dir=tmp_path / "data", fsync=False) as stack, Service(stack) as opened:
        opened.register("tiny", taught / "base", taught / "adapter", TEMPLATE, slow_policy())
        yield opened
    stack.destroy()


def begin(service: Service) -> str:
    """A request of each domain, and their job once it trains."""
    for domain, subject in (("privacy", "Ada"), ("copyright", "Dusk")):
        service.call("requester", "POST", "/v1/requests", 202, json=body(domain, subject))
    job = service.call("operator", "POST", "/v1/jobs", 202, json={"served_model": "tiny"})
    service.until(f"/v1/jobs/{job['id']}", lambda seen: seen["stage"] == "unlearn" and seen["step"] >= 10)
    return str(job["id"])


def test_a_job_whose_worker_was_killed_resumes_and_publishes_exactly_one_version(fresh: Service) -> None:
    job_id = begin(fresh)
    fresh.stack.kill("gpu")
    ended = fresh.job_ended(job_id)
    assert ended["state"] == "published", ended["error"] or ended["verdict"]
    assert ended["attempts"] == 2
    versions = fresh.call("operator", "GET", "/v1/models/tiny/adapters")["items"]
    assert [(v["version"], v["state"]) for v in versions] == [(2, "published"), (1, "superseded")]
    assert len(fresh.call("operator", "GET", "/v1/jobs")["items"]) == 1
    resumed = (fresh.stack.logs / "gpu.log").read_text(encoding="utf-8")
    assert "training_resumed" in resumed


def test_servers_killed_in_the_middle_cost_nothing(fresh: Service) -> None:
    job_id = begin(fresh)
    fresh.stack.kill("postgres")
    fresh.stack.kill("valkey")
    fresh.stack.wait_ready()
    ended = fresh.job_ended(job_id)
    assert ended["state"] == "published", ended["error"] or ended["verdict"]
    versions = fresh.call("operator", "GET", "/v1/models/tiny/adapters")["items"]
    assert [v["version"] for v in versions] == [2, 1]
