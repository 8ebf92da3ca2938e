"""How many officers have let a candidate through, and how many are missing.

As many are needed as the policy says, and no fewer than it said when the first of them approved: lowering it
meanwhile publishes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy.orm import Session

from app.auth import Principal
from app.jobs import repository
from app.jobs.errors import AlreadyApproved
from app.lifecycle import JobState
from app.served_models.schemas import Policy
from app.tables import Approval, Job, ServedModel


def give(session: Session, model: ServedModel, job: Job, who: Principal, now: datetime) -> int:
    """Note an officer's approval; how many are missing then. The caller holds the job's row. Raises AlreadyApproved."""
    given, needed = repository.approvals(session, [job.id]).get(job.id, (frozenset(), 0))
    if who.key_id in given:
        raise AlreadyApproved(f"{len(given)} of {_needed(model, needed)} approvals are there, yours among them")
    needed = _needed(model, needed)
    session.add(Approval(job_id=job.id, key_id=who.key_id, needed=needed, created_at=now))
    session.flush()
    return max(needed - len(given) - 1, 0)


def missing(session: Session, jobs: Collection[Job], models: Mapping[uuid.UUID, ServedModel]) -> dict[uuid.UUID, int]:
    """How many approvals are missing of those of these jobs that await them."""
    waiting = [job for job in jobs if job.state is JobState.AWAITING_APPROVAL]
    found = repository.approvals(session, [job.id for job in waiting]) if waiting else {}
    left = {}
    for job in waiting:
        given, needed = found.get(job.id, (frozenset(), 0))
        left[job.id] = max(_needed(models[job.served_model_id], needed) - len(given), 1)
    return left


def _needed(model: ServedModel, before: int) -> int:
    return max(Policy.model_validate(model.policy).approvals_required, before)
