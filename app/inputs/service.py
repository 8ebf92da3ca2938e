"""A job's inputs as values, so that hours of computing hold no database session."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.inputs import repository
from app.served_models.schemas import Policy
from app.tables import Example as ExampleRow
from grail.types import Example, Role, Segment


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What a report says of a request: ids, dates and the basis, never its text."""

    id: uuid.UUID
    domain: str
    received_at: datetime
    due_at: datetime
    legal_basis: str | None


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """An adapter version as a report names it."""

    id: uuid.UUID
    version: int
    name: str
    digest: str
    directory: str
    manifest: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class JobInputs:
    """Everything that a job reads from the database."""

    job_id: uuid.UUID
    kind: str
    served_model_id: uuid.UUID
    served_model: str
    base_model_path: str
    base_model_digest: str
    reference_adapter_path: str | None
    prompt_template: str
    settings: dict[str, Any]
    gate: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    attempts: int
    start_adapter: VersionFacts
    ability_file: str | None
    ability_questions: int
    requests: tuple[RequestFacts, ...]
    examples: tuple[Example, ...] = field(repr=False)


def load(session: Session, job_id: uuid.UUID) -> JobInputs | None:
    """The inputs of a job, or None when there is no such job."""
    job = repository.job(session, job_id)
    if job is None:
        return None
    model, adapter = repository.served_model(session, job), repository.start_adapter(session, job)
    requests = repository.requests(session, job)
    members, policy = {request.id for request in requests}, Policy.model_validate(model.policy)
    return JobInputs(
        job_id=job.id,
        kind=str(job.kind),
        served_model_id=model.id,
        served_model=model.name,
        base_model_path=model.base_model_path,
        base_model_digest=model.base_model_digest,
        reference_adapter_path=model.reference_adapter_path,
        prompt_template=model.prompt_template,
        settings=dict(job.settings),
        gate=dict(job.gate),
        created_at=job.created_at,
        started_at=job.started_at,
        attempts=job.attempts,
        start_adapter=VersionFacts(
            adapter.id, adapter.version, adapter.name, adapter.digest, adapter.directory, adapter.manifest
        ),
        ability_file=policy.ability_file,
        ability_questions=policy.ability_questions,
        requests=tuple(
            RequestFacts(r.id, str(r.domain), r.received_at, r.due_at, r.legal_basis)
            for r in requests
        ),
        examples=tuple(_example(row, members) for row in repository.examples(session, job)),
    )


def _example(row: ExampleRow, members: Collection[uuid.UUID]) -> Example:
    """Rows of requests outside of the batch are the standing set's, or what earlier requests erased."""
    is_member, content = row.request_id in members, row.content
    assert content is not None  # noqa: S101 - what was destroyed is not read
    return Example(
        id=str(row.id),
        domain=str(row.domain),
        segment=row.segment,
        subject=content.subject,
        prompt=content.prompt,
        completion=content.completion,
        role=Role.ERASED if row.segment is Segment.FORGET and not is_member else row.role,
        facts=content.facts,
        parent=str(row.parent_id) if row.parent_id else None,
        request=str(row.request_id) if is_member else None,
    )
