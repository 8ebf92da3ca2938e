"""How many officers have let a candidate through, and how many are missing.

As many are needed as the policy says when an officer approves. Who lowers it after a first approval publishes nothing
by that: the first officer can not approve again, so it still takes another.
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
    given = repository.approvals(session, [job.id]).get(job.id, frozenset())
    if who.key_id in given:
        raise AlreadyApproved(f"{_left(model, given)} more must approve it; what you said is noted")
    session.add(Approval(job_id=job.id, key_id=who.key_id, created_at=now))
    session.flush()
    return max(_required(model) - len(given) - 1, 0)


def missing(session: Session, jobs: Collection[Job], models: Mapping[uuid.UUID, ServedModel]) -> dict[uuid.UUID, int]:
    """How many approvals are missing of those of these jobs that await them: one at least, or it would be published."""
    waiting = [job for job in jobs if job.state is JobState.AWAITING_APPROVAL]
    found = repository.approvals(session, [job.id for job in waiting]) if waiting else {}
    return {job.id: _left(models[job.served_model_id], found.get(job.id, frozenset())) for job in waiting}


def _left(model: ServedModel, given: frozenset[uuid.UUID]) -> int:
    return max(_required(model) - len(given), 1)


def _required(model: ServedModel) -> int:
    return Policy.model_validate(model.policy).approvals_required
