"""Rows as they are shown: a page of jobs costs four statements, whatever its length."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.jobs import repository
from app.jobs.schemas import JobSummary, JobView, VersionRef
from app.reports.service import is_shown
from app.tables import Adapter, Job


def summaries(session: Session, jobs: Sequence[Job]) -> list[JobSummary]:
    """Jobs in a list."""
    return [JobSummary(**fields) for fields in _fields(session, jobs)]


def view(session: Session, job: Job, owner: uuid.UUID | None) -> JobView:
    """One job. With `owner`, other people's requests of the batch and their checks are left out."""
    ids = repository.request_ids(session, [job.batch_id], owner)[job.batch_id]
    return JobView(
        **_fields(session, [job])[0],
        losses=job.losses,
        timings_seconds=job.timings,
        verdict=job.verdict if owner is None else _own_checks(job.verdict, {str(request_id) for request_id in ids}),
        request_ids=ids,
    )


def _fields(session: Session, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    names = repository.model_names(session, {job.served_model_id for job in jobs})
    wanted = {job.start_adapter_id for job in jobs} | {
        job.candidate_adapter_id for job in jobs if job.candidate_adapter_id
    }
    versions = repository.adapters(session, wanted)
    reported = repository.with_report(session, [job.id for job in jobs])
    return [
        {
            "id": job.id,
            "served_model": names[job.served_model_id],
            "state": job.state,
            "stage": job.stage,
            "progress": job.progress,
            "step": job.step,
            "steps": job.steps,
            "attempts": job.attempts,
            "start_adapter": _version(versions, job.start_adapter_id),
            "candidate_adapter": _version(versions, job.candidate_adapter_id),
            "error": job.error,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "finished_at": job.finished_at,
            "report": f"/v1/jobs/{job.id}/report" if job.id in reported else None,
        }
        for job in jobs
    ]


def _version(versions: Mapping[uuid.UUID, Adapter], adapter_id: uuid.UUID | None) -> VersionRef | None:
    adapter = None if adapter_id is None else versions.get(adapter_id)
    return None if adapter is None else VersionRef(version=adapter.version, name=adapter.name)


def _own_checks(verdict: Mapping[str, Any] | None, own: Collection[str]) -> dict[str, Any] | None:
    """A verdict without the checks on other people's requests."""
    if verdict is None:
        return None
    checks = [check for check in verdict.get("checks", []) if is_shown(str(check.get("scope", "")), own)]
    return {**verdict, "checks": checks}
