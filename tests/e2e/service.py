"""The service as its users see it: HTTP only. Keys are made as an administrator makes them, on the database."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from app.auth import Role
from app.db import Database, transaction
from app.keys.service import create_key
from cli.stack import Stack

FINAL = {"published", "rejected", "failed", "cancelled"}


def tiny_policy(**more: Any) -> dict[str, Any]:
    """Settings that suit a model of two layers."""
    unlearn = {
        "steps": 40, "examples_per_step": 8, "learning_rate": 1e-2, "score_every_steps": 10, "micro_batch": 8,
        "holdout_share": 0.0, "precision": "fp32", "forget_weight": 1.0,
    }  # fmt: skip
    gate = {"min_rs": 60, "min_request_rs": 50, "max_ppl_ratio": 1000}
    return {"window_seconds": 3600, "retain_per_forget": 3, "unlearn": unlearn, "gate": gate, **more}


class Service:
    """Clients of every role."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.clients: dict[str, httpx.Client] = {}

    def __enter__(self) -> Service:
        db = Database(self.stack.database_url)
        with transaction(db) as session:
            keys = {role.value: create_key(session, role.value, role)[1] for role in Role}
        db.dispose()
        for role, key in keys.items():
            headers = {"Authorization": f"Bearer {key}"}
            self.clients[role] = httpx.Client(
                base_url=self.stack.base_url, headers=headers, timeout=30, trust_env=False
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for client in self.clients.values():
            client.close()

    def call(self, role: str, method: str, path: str, expect: int = 200, **more: Any) -> Any:
        """One call; the JSON of its answer, which must have the status `expect`."""
        answer = self.clients[role].request(method, path, **more)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json()

    def register(self, name: str, base: Path, adapter: Path, template: str, policy: dict[str, Any]) -> Any:
        """A served model."""
        body = {
            "name": name, "base_model_path": str(base), "adapter_path": str(adapter), "prompt_template": template,
            "policy": policy,
        }  # fmt: skip
        return self.call("operator", "POST", "/v1/models", 201, json=body)

    def job_ended(self, job_id: str, seconds: float = 120) -> Any:
        """The job once it is final."""
        return self.until(f"/v1/jobs/{job_id}", lambda job: job["state"] in FINAL, seconds)

    def until(self, path: str, is_so: Any, seconds: float = 60) -> Any:
        """The resource once `is_so` of it."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.call("operator", "GET", path)
            if is_so(found):
                return found
            assert time.monotonic() < deadline, f"{path} was still {found}"
            time.sleep(0.05)
