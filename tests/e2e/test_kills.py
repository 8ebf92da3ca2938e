"""What survives kill -9, with real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.service import Service, tiny_policy
from tests.fixtures.facts import TEMPLATE, body


def slow_policy() -> dict[str, Any]:
    """Enough steps that a kill falls among them."""
    policy = tiny_policy()
    return {**policy, "unlearn": {**policy["unlearn"], "steps": 100, "learning_rate": 2e-3, "score_every_steps": 10}}


def begin(service: Service, taught: Path, name: str) -> str:
    """A model of this test's own, a request of each domain, and their job once it trains."""
    service.register(name, taught / "base", taught / "adapter", TEMPLATE, slow_policy())
    for domain, subject in (("privacy", "Ada"), ("copyright", "Dusk")):
        service.call("requester", "POST", "/v1/requests", 202, json=body(domain, subject, name))
    job = service.call("operator", "POST", "/v1/jobs", 202, json={"served_model": name})
    service.until(f"/v1/jobs/{job['id']}", lambda seen: seen["stage"] == "unlearn" and seen["step"] >= 10)
    return str(job["id"])


def test_a_job_whose_worker_was_killed_resumes_and_publishes_exactly_one_version(
    service: Service, taught: Path
) -> None:
    job_id = begin(service, taught, "killed")
    service.stack.kill("gpu")
    ended = service.job_ended(job_id)
    assert ended["state"] == "published", ended["error"] or ended["verdict"]
    assert ended["attempts"] == 2
    versions = service.call("operator", "GET", "/v1/models/killed/adapters")["items"]
    assert [(v["version"], v["state"]) for v in versions] == [(2, "published"), (1, "superseded")]
    assert len(service.call("operator", "GET", "/v1/jobs", params={"served_model": "killed"})["items"]) == 1
    lines = (service.stack.logs / "gpu.log").read_text(encoding="utf-8").splitlines()
    assert any("training_resumed" in line and job_id in line for line in lines)


def test_servers_killed_in_the_middle_cost_nothing(service: Service, taught: Path) -> None:
    job_id = begin(service, taught, "cut")
    service.stack.kill("postgres")
    service.stack.kill("valkey")
    service.stack.wait_ready()
    ended = service.job_ended(job_id)
    assert ended["state"] == "published", ended["error"] or ended["verdict"]
    versions = service.call("operator", "GET", "/v1/models/cut/adapters")["items"]
    assert [v["version"] for v in versions] == [2, 1]
