"""The service as callers of each role see it, and what a worker does to its rows, step by step."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from app.adapters import service as adapters
from app.adapters.files import WrittenVersion, write_version
from app.auth import Principal, Role
from app.config import Settings
from app.db import Database, transaction
from app.jobs import service as jobs
from app.jobs.failures import Failure, FailureKind
from app.keys.service import create_key
from app.storage import FileStore
from app.tables import Example, Job, Key, Request, ServedModel
from grail.types import Segment
from tests.app import weights
from tests.fixtures.served import question

NOW = datetime.now(UTC)
LEASE = 60.0
GOOD: dict[str, Any] = {"ok": True, "checks": [{"name": "min_cus", "scope": "privacy", "value": 99.0, "ok": True}]}
BAD: dict[str, Any] = {
    "ok": False, "checks": [{"name": "min_cus", "scope": "privacy", "value": 10.0, "bound": 85.0, "ok": False}],
}  # fmt: skip


class Caller:
    """A client with a key of each role, and a second requester."""

    def __init__(self, client: TestClient, db: Database) -> None:
        self.client, self.db = client, db
        roles = {"other": Role.REQUESTER, **{role.value: role for role in Role}}
        with transaction(db) as session:
            made = {name: create_key(session, name, role) for name, role in roles.items()}
            self.keys = {name: plaintext for name, (_, plaintext) in made.items()}
            self.who = {name: Principal(row.id, row.name, row.role) for name, (row, _) in made.items()}

    def header(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[role]}"}

    def send(self, role: str, method: str, path: str, **more: Any) -> httpx.Response:
        """One call, whatever comes."""
        headers = {**self.header(role), **more.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **more)

    def call(self, role: str, method: str, path: str, expect: int = 200, **more: Any) -> Any:
        """The JSON of an answer that must have the status `expect`."""
        answer = self.send(role, method, path, **more)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json()

    def refused(self, role: str, method: str, path: str, **more: Any) -> tuple[int, str]:
        """Status and slug of an answer that must be a problem document."""
        answer = self.send(role, method, path, **more)
        return answer.status_code, slug(answer)


def slug(answer: httpx.Response) -> str:
    """The kind of a problem document."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text[:500]
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["detail"] and problem["mend"]
    return str(problem["type"]).removeprefix("urn:grail:problem:")


class Floor:
    """One registered model with real files; its workers' steps, each in a transaction of its own."""

    def __init__(self, caller: Caller, settings: Settings, directory: Path) -> None:
        self.caller, self.settings, self.directory, self.db = caller, settings, directory, caller.db
        self.base = weights.base_model(directory / "base")
        self.adapter = weights.adapter(directory / "adapter")

    def registration(self, name: str = "people", **more: Any) -> dict[str, Any]:
        return {"name": name, "base_model_path": str(self.base), "adapter_path": str(self.adapter), **more}

    def register(self, name: str = "people", **policy: Any) -> Any:
        return self.caller.call("operator", "POST", "/v1/models", 201, json=self.registration(name, policy=policy))

    def ask(self, *numbers: int, role: str = "requester", model: str = "people", **more: Any) -> str:
        """A request that wants facts forgotten, with one to keep; its id."""
        body = {
            "served_model": model, "domain": "privacy", "forget": [question(number) for number in numbers],
            "retain": [question(900 + numbers[0])], **more,
        }  # fmt: skip
        return str(self.caller.call(role, "POST", "/v1/requests", 202, json=body)["id"])

    def order(self, model: str = "people", **more: Any) -> uuid.UUID:
        made = self.caller.call("operator", "POST", "/v1/jobs", 202, json={"served_model": model, **more})
        return uuid.UUID(made["id"])

    def claim(self, job_id: uuid.UUID, now: datetime = NOW, owner: str = "worker") -> int | None:
        """The fencing token; None when there was nothing to take."""
        with transaction(self.db) as session:
            job = jobs.claim(session, job_id, owner, now, LEASE)
            return None if job is None else job.fencing_token

    def written(self, job_id: uuid.UUID, fill: bytes = b"\x3d") -> WrittenVersion:
        """What a worker makes: other weights as the next version's files."""
        with transaction(self.db) as session:
            model = session.get_one(ServedModel, session.get_one(Job, job_id).served_model_id)
            source = weights.adapter(self.directory / f"made-{job_id}", fill=fill)
            return write_version(
                source, self.settings.adapters_dir, model_name=model.name, parent=None,
                version=adapters.next_version(session, model.id), base_model_digest=model.base_model_digest,
            )  # fmt: skip

    def write_candidate(self, job_id: uuid.UUID, fill: bytes = b"\x3d") -> uuid.UUID:
        """The same, registered for the job."""
        written = self.written(job_id, fill)
        with transaction(self.db) as session:
            return adapters.register_candidate(session, session.get_one(Job, job_id), written).id

    def evaluate(
        self,
        job_id: uuid.UUID,
        token: int,
        verdict: Mapping[str, Any] = GOOD,
        *,
        candidate: bool = True,
        outcomes: Mapping[Any, str] | None = None,
    ) -> None:
        """A worker's last word."""
        made = self.written(job_id) if candidate else None
        digest = FileStore(self.settings.artifacts_dir).put(f"report of {job_id} by {token}".encode())
        with transaction(self.db) as session:
            jobs.evaluated(session, job_id, token, dict(verdict), made, digest, outcomes or {}, {}, now=NOW)

    def conclude(self, job_id: uuid.UUID, now: datetime = NOW) -> str:
        with transaction(self.db) as session:
            return str(jobs.conclude(session, job_id, now))

    def work(self, verdict: Mapping[str, Any] = GOOD, **more: Any) -> uuid.UUID:
        """A job ordered, claimed, evaluated and concluded."""
        job_id = self.order()
        token = self.claim(job_id)
        assert token is not None
        self.evaluate(job_id, token, verdict, **more)
        self.conclude(job_id)
        return job_id

    def fail(
        self,
        job_id: uuid.UUID,
        token: int,
        kind: FailureKind,
        now: datetime = NOW,
        *,
        changes: dict[str, Any] | None = None,
        at_fault: Iterable[str] = (),
        offered_bytes: int | None = None,
    ) -> None:
        """A worker's job went wrong."""
        error = {"type": "made-up", "title": "t", "detail": "d", "mend": "m"}
        requests = frozenset(map(uuid.UUID, at_fault))
        with transaction(self.db) as session:
            failure = Failure(kind, error, changes, requests)
            jobs.fail(session, job_id, token, failure, now, offered_bytes=offered_bytes)

    def job(self, job_id: uuid.UUID) -> Job:
        with self.db.session_factory() as session:
            return session.get_one(Job, job_id)

    def request(self, request_id: str) -> Request:
        with self.db.session_factory() as session:
            return session.get_one(Request, uuid.UUID(request_id))

    def model(self, name: str = "people") -> ServedModel:
        with self.db.session_factory() as session:
            return session.scalars(select(ServedModel).where(ServedModel.name == name)).one()

    def versions(self, name: str = "people") -> list[tuple[int, str, bool]]:
        items = self.caller.call("operator", "GET", f"/v1/models/{name}/adapters")["items"]
        return [(item["version"], item["state"], item["active"]) for item in items]

    def forget_items(self, request_id: str) -> list[uuid.UUID]:
        with self.db.session_factory() as session:
            query = select(Example.id).where(
                Example.request_id == uuid.UUID(request_id), Example.segment == Segment.FORGET
            )
            return list(session.scalars(query))


def revoke(db: Database, plaintext: str) -> None:
    """Take a key away."""
    with transaction(db) as session:
        row = session.scalars(select(Key).where(Key.prefix == plaintext.split("_")[1])).one()
        row.revoked_at = datetime.now(UTC)


def until_blocked(db: Database, done: Callable[[], bool]) -> None:
    """Go on once another session of this database waits for a lock, or `done`: the one or the other must come."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 60
    while not done():
        with db.engine.connect() as connection:
            if connection.execute(waiting).scalar_one():
                return
        assert time.monotonic() < deadline, "nobody waits and nothing is done"


def until_settled(db: Database) -> None:
    """Go on once every event may be read: no transaction that is older than the last of them is open, not even one of
    the server's own (autovacuum has some)."""
    waits = text("SELECT count(*) FROM event WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    deadline = time.monotonic() + 60
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.execute(waits).scalar_one():
            assert time.monotonic() < deadline, "an older transaction stays open"
            time.sleep(0.005)


def later(seconds: float) -> datetime:
    """A moment after NOW."""
    return NOW + timedelta(seconds=seconds)
