"""How many officers have let a candidate through, and how many are missing.

As many are needed as the policy says when an officer approves. Who lowers it after a first approval publishes nothing
by that: the first officer can not approve again, so it still takes another.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app.audit.repository import of_subject
from app.auth import Principal
from app.jobs import repository
from app.jobs.errors import AlreadyApproved
from app.lifecycle import JobState
from app.served_models.schemas import Policy
from app.tables import Approval, Job, ServedModel

APPROVED = "approved"
DECISIONS = {"job.approved": APPROVED, "job.refused": "refused"}


def give(session: Session, model: ServedModel, job: Job, who: Principal, now: datetime) -> int:
    """Note an officer's approval; how many are missing then. The caller holds the job's row. Raises AlreadyApproved."""
    given = repository.approvals(session, [job.id]).get(job.id, frozenset())
    if who.key_id in given:
        raise AlreadyApproved(f"{_left(model, given)} more must approve it; what you said is noted")
    session.add(Approval(job_id=job.id, key_id=who.key_id, created_at=now))
    session.flush()
    return max(_required(model) - len(given) - 1, 0)


def decisions(session: Session, job_id: uuid.UUID) -> tuple[dict[str, str], ...]:
    """What officers decided about a job's candidate, in their order: `decision` (approved, refused), `key_id`, `role`,
    `at`. Refusals, and approvals from before these had rows, are in the trail, as long as it has them."""
    given, trail = repository.given_approvals(session, job_id), of_subject(session, str(job_id))
    found = {(row.key_id, APPROVED): (row.created_at, str(row.role)) for row in given}
    said = [(DECISIONS[row.event], json.loads(row.leaf)) for row in trail if row.event in DECISIONS]
    keys = {uuid.UUID(leaf["fields"]["key_id"]) for _, leaf in said}
    roles = repository.roles(session, keys) if keys else {}
    for decision, leaf in said:
        key_id = uuid.UUID(leaf["fields"]["key_id"])
        found.setdefault((key_id, decision), (datetime.fromisoformat(leaf["at"]), roles.get(key_id, "unknown")))
    ordered = sorted(found.items(), key=lambda one: one[1][0])
    return tuple(
        {"decision": decision, "key_id": str(key_id), "role": role, "at": at.astimezone(UTC).isoformat()}
        for (key_id, decision), (at, role) in ordered
    )


def missing(session: Session, jobs: Collection[Job], models: Mapping[uuid.UUID, ServedModel]) -> dict[uuid.UUID, int]:
    """How many approvals are missing of those of these jobs that await them: one at least, or it would be published."""
    waiting = [job for job in jobs if job.state is JobState.AWAITING_APPROVAL]
    found = repository.approvals(session, [job.id for job in waiting]) if waiting else {}
    return {job.id: _left(models[job.served_model_id], found.get(job.id, frozenset())) for job in waiting}


def _left(model: ServedModel, given: frozenset[uuid.UUID]) -> int:
    return max(_required(model) - len(given), 1)


def _required(model: ServedModel) -> int:
    return Policy.model_validate(model.policy).approvals_required
