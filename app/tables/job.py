"""A job: the computation of one batch. The row is the truth; a message is a doorbell that carries its id."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.lifecycle import JobState
from app.tables.base import Base, Created, Id, enum_of


class JobKind(StrEnum):
    """What a job computes."""

    UNLEARN = "unlearn"
    REINSTATE = "reinstate"


class Job(Base):
    """`due_at` is the earliest of its requests' dates, `not_before` when a job that was put off may be taken up again,
    `needed_bytes` what it takes on a device by the plan.

    `fencing_token` grows with every claim: a worker that lost its lease holds a stale one and can write nothing.

    `artefacts` maps a stage to the digest of what it made: a job started again resumes after the last one.
    """

    __tablename__ = "job"

    id: Mapped[Id]
    served_model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("served_model.id"))
    batch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("batch.id"), unique=True)
    state: Mapped[JobState] = mapped_column(enum_of(JobState, "job_state"), default=JobState.QUEUED)
    stage: Mapped[str] = mapped_column(String(32), default="queued")
    progress: Mapped[float] = mapped_column(Double, default=0.0)
    step: Mapped[int] = mapped_column(Integer, default=0)
    steps: Mapped[int] = mapped_column(Integer, default=0)
    losses: Mapped[list[Any]] = mapped_column(default=list)
    timings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    artefacts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[dict[str, Any] | None]
    settings: Mapped[dict[str, Any]]
    gate: Mapped[dict[str, Any]]
    verdict: Mapped[dict[str, Any] | None]
    start_adapter_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("adapter.id"))
    candidate_adapter_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("adapter.id"))
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_until: Mapped[datetime | None]
    fencing_token: Mapped[int] = mapped_column(BigInteger, default=0)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[Created]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    kind: Mapped[JobKind] = mapped_column(
        enum_of(JobKind, "job_kind"), default=JobKind.UNLEARN, server_default="unlearn"
    )
    due_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    put_off: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    needed_bytes: Mapped[int | None] = mapped_column(BigInteger)
    traceparent: Mapped[str | None] = mapped_column(String(55))

    __table_args__ = (
        CheckConstraint("progress BETWEEN 0 AND 1", name="progress_is_a_share"),
        CheckConstraint("(state = 'running') = (lease_owner IS NOT NULL)", name="running_means_leased"),
        CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name="lease_is_whole"),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('published', 'rejected', 'failed', 'cancelled'))",
            name="finished_when_final",
        ),
        # Two jobs at work on one served model are impossible, not unlikely: the second would undo the first.
        Index(
            "uq_job_one_at_work_per_model",
            "served_model_id",
            unique=True,
            postgresql_where="state IN ('running', 'evaluated', 'awaiting_approval')",
        ),
        Index("ix_job_served_model_id_id", "served_model_id", "id"),
        Index("ix_job_state_id", "state", "id"),
        Index("ix_job_queued_due_at_id", "due_at", "id", postgresql_where="state = 'queued'"),
        Index("ix_job_finished_at_id", "finished_at", "id", postgresql_where="finished_at IS NOT NULL"),
        Index("ix_job_lease_until", "lease_until", postgresql_where="state = 'running'"),
    )
