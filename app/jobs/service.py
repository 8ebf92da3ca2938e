"""Rules of jobs. What workers call is gathered here: leases, results, conclusion and the sweep."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import Principal
from app.batches import service as batches
from app.batches.schemas import BatchPreview
from app.config import load_settings
from app.errors import NotFound
from app.jobs import leases, members, repository, views
from app.jobs.conclusion import approve, conclude, refuse
from app.jobs.errors import LeaseLost, NotAwaitingApproval, NotCancellable
from app.jobs.failures import Failure, FailureKind
from app.jobs.leases import check, claim, claimable, give_back, held, next_version, store_artefact
from app.jobs.moves import release
from app.jobs.repository import JobFilter
from app.jobs.results import evaluated, fail
from app.jobs.schemas import JobOrder, JobPage, JobView
from app.jobs.verdicts import changed_settings
from app.lifecycle import IllegalMove, JobEvent, JobState
from app.queue import enqueue
from app.requests.cursors import cursor_of, id_of
from grail.types import Progress

__all__ = [
    "Failure",
    "FailureKind",
    "LeaseLost",
    "NotAwaitingApproval",
    "NotCancellable",
    "approve",
    "browse",
    "cancel",
    "changed_settings",
    "check",
    "claim",
    "claimable",
    "conclude",
    "evaluated",
    "fail",
    "give_back",
    "heartbeat",
    "held",
    "next_version",
    "order",
    "preview",
    "read",
    "refuse",
    "store_artefact",
    "sweep",
]

RUN_JOB, PUBLISH_JOB = "grail.run_job", "grail.publish_job"
SETTLED_TICKS = 8
"""After its first doublings a doorbell rings every so many sweeps: a busy worker's queue must not fill with echoes."""


def read(session: Session, job_id: uuid.UUID, who: Principal, now: datetime) -> JobView:
    """One job. Raises NotFound, also for a job of other people's requests only."""
    job = repository.find(session, job_id, owner=who.owner)
    if job is None:
        raise NotFound("there is no job with this id that this key may see", mend="GET /v1/jobs lists them.")
    return views.view(session, job, who.owner, now)


def browse(
    session: Session,
    who: Principal,
    now: datetime,
    *,
    state: JobState | None,
    served_model: str | None,
    cursor: str | None,
    limit: int,
) -> JobPage:
    """A page of what `who` may see, newest first. Raises BadCursor."""
    wanted = JobFilter(who.owner, state, served_model)
    rows = repository.page(session, wanted, before=id_of(cursor) if cursor else None, limit=limit + 1)
    more = cursor_of(rows[limit - 1].id) if len(rows) > limit else None
    return JobPage(items=views.summaries(session, rows[:limit], who.owner, now), next_cursor=more)


def order(session: Session, asked: JobOrder, who: Principal, now: datetime) -> JobView:
    """Run a batch now. Raises what batches.service.run_now raises."""
    job = batches.run_now(session, asked.served_model, who, now, include_attention=asked.include_attention)
    session.refresh(job)
    return views.view(session, job, who.owner, now)


def preview(session: Session, asked: JobOrder, now: datetime) -> BatchPreview:
    """What `order` would do and cost. Raises UnknownServedModel."""
    return batches.preview(session, asked.served_model, now)


def heartbeat(
    session: Session,
    job_id: uuid.UUID,
    token: int,
    now: datetime,
    lease_seconds: float,
    progress: Progress | None = None,
) -> None:
    """Prolong the lease. Raises LeaseLost when the token is stale or the job no longer runs."""
    leases.heartbeat(session, job_id, token, lease_seconds, progress, now=now)


def cancel(session: Session, job_id: uuid.UUID, who: Principal, now: datetime) -> JobView:
    """Stop a job: a queued one at once; a running one's worker hears it at its next step and can write nothing.

    Its requests wait for a person, or the planner would batch them again within seconds; `include_attention` queues
    them. Raises NotFound, NotCancellable.
    """
    job = repository.locked(session, job_id)
    if job is None:
        raise NotFound("there is no job with this id", mend="GET /v1/jobs lists them.")
    try:
        release(job, JobEvent.CANCEL, now)
    except IllegalMove:
        raise NotCancellable(job.state) from None
    job.stage = str(job.state)
    record(
        session, "job.cancelled", subject_id=str(job.id), at=now, state=str(job.state), key_id=str(who.key_id)
    )
    members.hand_over(session, job, members.of(session, job), now, count=False)
    session.flush()
    return views.view(session, job, who.owner, now)


def sweep(session: Session, now: datetime) -> list[uuid.UUID]:
    """Ring again for what waits: queued jobs, leases that ran out, verdicts without consequence. Ids of those jobs.

    A message may have been lost with the broker, or its worker killed. Receiving one twice does nothing twice.
    """
    every = load_settings().sweep_seconds
    rung = []
    for job in repository.waiting(session, now):
        concludes = job.state is JobState.EVALUATED
        if concludes or is_due(now, job.lease_until or job.not_before or job.created_at, every):
            enqueue(session, PUBLISH_JOB if concludes else RUN_JOB, job.id)
            rung.append(job.id)
    return rung


def is_due(now: datetime, since: datetime, every: float) -> bool:
    """Whether to ring in this sweep: in the first, then after 1, 2, 4, ... sweeps, then each `SETTLED_TICKS`th."""
    ticks = int((now - since).total_seconds() // every)
    return (ticks < SETTLED_TICKS and ticks & (ticks - 1) == 0) or ticks % SETTLED_TICKS == 0
