"""A job with its report in rows and files: the first two requests are the requester's, the others somebody else's."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fixtures.served import add_adapter, add_model
from report_documents import sample

from app.config import Settings
from app.db import Database, transaction
from app.keys import repository as key_rows
from app.lifecycle import JobState, RequestState
from app.reports.service import issue
from app.storage import FileStore
from app.tables import Adapter, Batch, BatchMember, BatchReason, Job, Key, Replica, Request, RequestDomain, ServedModel

FINAL = {JobState.PUBLISHED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED}
NOW = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
MakeJob = Callable[..., str]


@pytest.fixture
def make_job(db: Database, keys: Any, settings: Settings, tmp_path: Path) -> MakeJob:
    """make_job(document | None, state) -> the job's id; without a document it has no report."""

    def make(document: dict[str, Any] | None, state: JobState = JobState.PUBLISHED) -> str:
        with transaction(db) as session:
            model = add_model(session, tmp_path)
            assert model.active_adapter_id is not None
            batch = Batch(served_model_id=model.id, reason=BatchReason.MANUAL)
            session.add(batch)
            session.flush()
            owners = [key_rows.by_prefix(session, getattr(keys, name).split("_")[1]) for name in ("requester", "other")]
            for position, asked in enumerate(sample()["requests"]):
                session.add(_request(model, owners[position // 2], asked))
                session.flush()
                session.add(BatchMember(batch_id=batch.id, request_id=uuid.UUID(asked["id"])))
            job = Job(
                id=uuid.UUID(sample()["job"]["id"]), served_model_id=model.id, batch_id=batch.id, state=state,
                stage="evaluated" if document else "unlearn", settings={}, gate={},
                start_adapter_id=model.active_adapter_id, finished_at=NOW if state in FINAL else None,
            )  # fmt: skip
            session.add(job)
            session.flush()
            if document is not None:
                issue(session, job.id, document, FileStore(settings.artifacts_dir))
            return str(job.id)

    return make


def _request(model: ServedModel, owner: Key | None, asked: dict[str, Any]) -> Request:
    assert owner is not None
    return Request(
        id=uuid.UUID(asked["id"]), served_model_id=model.id, domain=RequestDomain(asked["domain"]),
        state=RequestState.EVALUATED, created_by=owner.id, received_at=NOW, due_at=NOW + timedelta(days=30),
    )  # fmt: skip


@pytest.fixture
def replica_behind(db: Database, tmp_path: Path) -> Callable[[str], None]:
    """A replica of the job's model whose last word was another version than the active one."""

    def add(job_id: str) -> None:
        with transaction(db) as session:
            job = session.get_one(Job, uuid.UUID(job_id))
            old: Adapter = add_adapter(session, job.served_model_id, tmp_path / "people-v2", version=2)
            session.add(
                Replica(served_model_id=job.served_model_id, replica_id="edge-7", adapter_id=old.id, digest=old.digest,
                        acknowledged_at=NOW)
            )  # fmt: skip

    return add
