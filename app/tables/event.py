"""What happened to requests and jobs, for whoever follows: written in the transaction of the change."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created


class Event(Base):
    """One change. `data` holds ids, states and numbers; never text that a person wrote.

    Ids are given before the commit, so that a smaller one may appear after a larger one has been read. Readers
    therefore go by (`xid`, `id`) and stop below the oldest transaction that is open: nothing can appear behind them.
    """

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    xid: Mapped[int] = mapped_column(BigInteger, server_default=text("pg_current_xact_id()::text::bigint"))
    kind: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("request.id"))
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("job.id"))
    served_model_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("served_model.id"))
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[Created]

    __table_args__ = (
        Index("ix_event_xid_id", "xid", "id"),
        Index("ix_event_request_id", "request_id", "xid", "id", postgresql_where="request_id IS NOT NULL"),
        Index("ix_event_job_id", "job_id", "xid", "id", postgresql_where="job_id IS NOT NULL"),
    )
