"""Rows as they are shown: a page of jobs costs six statements at most, whatever its length."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.jobs import approvals, repository
from app.jobs.schemas import JobSummary, JobView, VersionRef
from app.jobs.turns import waiting_for
from app.lifecycle import JobState
from app.reports.service import is_shown
from app.served_models import breaker
from app.tables import Adapter, Job, ServedModel
from app.workers import service as workers

TOLD = ("type", "title", "mend")
"""What of a job's error is said to one of those whose requests it serves: the rest may be about the others'."""


def summaries(session: Session, jobs: Sequence[Job], owner: uuid.UUID | None, now: datetime) -> list[JobSummary]:
    """Jobs in a list."""
    return [JobSummary(**fields) for fields in _fields(session, jobs, owner, now)]


def view(session: Session, job: Job, owner: uuid.UUID | None, now: datetime) -> JobView:
    """One job. With `owner`, other people's requests of the batch and their checks are left out, and an error's words.
    """
    ids = repository.request_ids(session, [job.batch_id], owner)[job.batch_id]
    return JobView(
        **_fields(session, [job], owner, now)[0],
        losses=job.losses,
        timings_seconds=job.timings,
        verdict=job.verdict if owner is None else _own_checks(job.verdict, {str(request_id) for request_id in ids}),
        request_ids=ids,
    )


def _fields(
    session: Session, jobs: Sequence[Job], owner: uuid.UUID | None, now: datetime
) -> list[dict[str, Any]]:
    models = repository.models(session, {job.served_model_id for job in jobs})
    queued = any(job.state is JobState.QUEUED for job in jobs)
    memories = workers.memories(session, now) if queued else []
    wanted = {job.start_adapter_id for job in jobs} | {
        job.candidate_adapter_id for job in jobs if job.candidate_adapter_id
    }
    versions = repository.adapters(session, wanted)
    missing = approvals.missing(session, jobs, models)
    reported = repository.with_report(session, [job.id for job in jobs])
    return [
        {
            "id": job.id,
            "served_model": models[job.served_model_id].name,
            "state": job.state,
            "stage": job.stage,
            "progress": job.progress,
            "step": job.step,
            "steps": job.steps,
            "attempts": job.attempts,
            "put_off": job.put_off,
            "needed_bytes": job.needed_bytes,
            "waiting_for": _waiting_for(job, models[job.served_model_id], memories, now),
            "approvals_missing": missing.get(job.id),
            "start_adapter": _version(versions, job.start_adapter_id),
            "candidate_adapter": _version(versions, job.candidate_adapter_id),
            "error": job.error if owner is None else _kind_of(job.error),
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "report": f"/v1/jobs/{job.id}/report" if job.id in reported else None,
        }
        for job in jobs
    ]


def _waiting_for(job: Job, model: ServedModel, memories: Sequence[int], now: datetime) -> str | None:
    if job.state is not JobState.QUEUED:
        return None
    return waiting_for(
        job.needed_bytes, job.not_before, memories, now, breaker_open=breaker.blocks(model, now)
    )


def _version(versions: Mapping[uuid.UUID, Adapter], adapter_id: uuid.UUID | None) -> VersionRef | None:
    adapter = None if adapter_id is None else versions.get(adapter_id)
    return None if adapter is None else VersionRef(version=adapter.version, name=adapter.name)


def _kind_of(error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An error without its details, which name files, other people's texts by id, or an officer's reason."""
    return None if error is None else {name: error[name] for name in TOLD if name in error}


def _own_checks(verdict: Mapping[str, Any] | None, own: Collection[str]) -> dict[str, Any] | None:
    """A verdict without the checks on other people's requests."""
    if verdict is None:
        return None
    checks = [check for check in verdict.get("checks", []) if is_shown(str(check.get("scope", "")), own)]
    return {**verdict, "checks": checks}
