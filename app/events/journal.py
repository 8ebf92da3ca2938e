"""Events of a change, derived from its audit leaf: one call writes both, in the change's own transaction.

An event may be read by every owner of a request that shares the job, and is sent to webhooks: it names neither the key
that acted, nor another person's request, nor a digest of what a person wrote.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.events import repository
from app.tables import Event, Job

STEPS_SHOWN = 20
"""Progress is told in steps of 5 %."""
HIDDEN = {"key_id", "served_model_id", "request_id"}
HIDDEN_END = "digest"
JOB_MADE = "batch.made"
"""The leaf that says that a job was made: its subject is the batch."""


def note(session: Session, change: str, subject_id: str | None, at: datetime, fields: Mapping[str, Any]) -> None:
    """Write the event of an audited change, if its subject is a request or a job."""
    noun, _, _ = change.partition(".")
    if change == JOB_MADE:
        _add(session, "job.queued", Job, fields["job_id"], at, {**_model(fields), "state": "queued"})
    elif noun in repository.SUBJECTS and subject_id is not None:
        _add(session, change, repository.SUBJECTS[noun], subject_id, at, fields)


def note_all(
    session: Session,
    change: str,
    request_ids: Sequence[uuid.UUID],
    served_model_id: uuid.UUID,
    at: datetime,
    fields: Mapping[str, Any],
) -> None:
    """Write the event of one audited change of many requests of a model, one for each in their order."""
    repository.append(session, change, request_ids, served_model_id, _shown(fields), at)


def of_request(change: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the event of an audited change of a request says (`kind`, `data`); None where the change is no event."""
    if change.partition(".")[0] != "request":
        return None
    return {"kind": change, "data": _shown(fields)}


def note_progress(session: Session, job: Job, stage_before: str, progress_before: float, at: datetime) -> None:
    """Write `job.progress` when the job's stage has changed or it has passed another step of 5 %."""
    if job.stage == stage_before and int(job.progress * STEPS_SHOWN) <= int(progress_before * STEPS_SHOWN):
        return
    fields = {
        "state": str(job.state), "stage": job.stage, "progress": round(job.progress, 4), "step": job.step,
        "steps": job.steps, "served_model_id": str(job.served_model_id),
    }  # fmt: skip
    _add(session, "job.progress", Job, str(job.id), at, fields)


def note_webhook(session: Session, kind: str, webhook_id: uuid.UUID, at: datetime, **fields: str) -> Event:
    """Write an event about a webhook, for its owner and for those who see everything."""
    event = Event(kind=kind, data={"webhook_id": str(webhook_id), **fields}, created_at=at)
    session.add(event)
    return event


def _add(
    session: Session, kind: str, table: type[Any], subject_id: str, at: datetime, fields: Mapping[str, Any]
) -> None:
    subject = uuid.UUID(subject_id)
    given = fields.get("served_model_id")
    model_id = uuid.UUID(given) if given else repository.model_of(session, table, subject)
    column = "job_id" if table is Job else "request_id"
    session.add(Event(kind=kind, served_model_id=model_id, data=_shown(fields), created_at=at, **{column: subject}))


def _shown(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in HIDDEN and not name.endswith(HIDDEN_END)}


def _model(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in {"served_model_id", "reason"}}
