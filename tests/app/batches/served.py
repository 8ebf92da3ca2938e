"""A served model with an operator, and what tests of batches ask of it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select

from app.auth import Principal, Role
from app.batches import service
from app.db import Database, transaction
from app.ids import new_id
from app.keys.service import create_key
from app.lifecycle import JobState, RequestState
from app.requests import service as requests
from app.requests.conflicts import content_digest
from app.requests.schemas import RequestCreate
from app.tables import (
    Batch,
    BatchExample,
    BatchMember,
    BatchReason,
    Example,
    ExampleDomain,
    Job,
    Request,
)
from app.tables.content import Content
from grail.types import Segment
from tests.fixtures.served import add_model, question

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=301)


class Service:
    """One served model, and every step in a transaction of its own."""

    def __init__(self, db: Database, directory: Path) -> None:
        self.db, self.directory = db, directory
        with transaction(db) as session:
            key, _ = create_key(session, "asker", Role.OFFICER)
            self.who = Principal(key.id, key.name, key.role)

    def model(self, name: str = "people", *, with_adapter: bool = True, **policy) -> uuid.UUID:
        with transaction(self.db) as session:
            return add_model(session, self.directory, name, policy=policy, with_adapter=with_adapter).id

    def ask(self, *numbers: int, served_model="people", domain="privacy", retain=(), now=NOW, **more) -> uuid.UUID:
        payload = RequestCreate.model_validate(
            {
                "served_model": served_model,
                "domain": domain,
                "regulation": "none",
                "forget": [question(number) for number in numbers],
                "retain": [question(number) for number in retain],
                **more,
            }
        )
        with transaction(self.db) as session:
            return requests.submit(session, payload, self.who, now, due_days=30).id

    def stand(self, model_id: uuid.UUID, subject: str, *numbers: int, domain=ExampleDomain.PRIVACY) -> None:
        """Rows as the operator's retain set has them."""
        with transaction(self.db) as session:
            for number in numbers:
                item = question(number)
                digest = content_digest(item["prompt"], item["completion"])
                session.add(
                    Example(
                        id=new_id(), served_model_id=model_id, domain=domain, segment=Segment.RETAIN, position=number,
                        content=Content(subject, item["prompt"], item["completion"]), content_digest=digest,
                        standing=True, subject_index=subject,
                    )
                )  # fmt: skip

    def plan(self, now=LATER) -> list[uuid.UUID]:
        return service.plan(self.db, time_of=lambda _: now)

    def run_now(self, now=NOW, **more) -> uuid.UUID:
        with transaction(self.db) as session:
            return service.run_now(session, "people", self.who, now, **more).id

    def withdraw(self, request_id: uuid.UUID) -> None:
        with transaction(self.db) as session:
            requests.withdraw(session, request_id, self.who, NOW)

    def end(
        self, job_id: uuid.UUID, state: JobState = JobState.CANCELLED, *, after: timedelta = timedelta(0)
    ) -> None:
        """A job that is over, and its requests with it."""
        with transaction(self.db) as session:
            job = session.get_one(Job, job_id)
            job.state, job.finished_at = state, job.created_at + after
            query = select(Request).join(BatchMember).where(BatchMember.batch_id == job.batch_id)
            for request in session.scalars(query):
                request.state, request.completed_at = RequestState.FAILED, job.created_at

    def job(self, job_id: uuid.UUID) -> Job:
        with self.db.session_factory() as session:
            return session.get_one(Job, job_id)

    def state(self, request_id: uuid.UUID) -> RequestState:
        with self.db.session_factory() as session:
            return session.get_one(Request, request_id).state

    def members(self, job_id: uuid.UUID) -> set[uuid.UUID]:
        with self.db.session_factory() as session:
            statement = select(BatchMember.request_id).join(Job, Job.batch_id == BatchMember.batch_id)
            return set(session.scalars(statement.where(Job.id == job_id)))

    def reason(self, job_id: uuid.UUID) -> BatchReason:
        with self.db.session_factory() as session:
            return session.scalars(
                select(Batch.reason).join(Job, Job.batch_id == Batch.id).where(Job.id == job_id)
            ).one()

    def drawn(self, job_id: uuid.UUID) -> list[Example]:
        with self.db.session_factory() as session:
            statement = (
                select(Example)
                .join(BatchExample, BatchExample.example_id == Example.id)
                .join(Job, Job.batch_id == BatchExample.batch_id)
                .where(Job.id == job_id)
            )
            return list(session.scalars(statement))

    def change(self, request_id: uuid.UUID, **values) -> None:
        with transaction(self.db) as session:
            row = session.get_one(Request, request_id)
            for name, value in values.items():
                setattr(row, name, value)

    def count(self, table: type) -> int:
        with self.db.session_factory() as session:
            return session.scalars(select(func.count()).select_from(table)).one()
