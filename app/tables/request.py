"""A forget/retain request as a person or team made it, and its life."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.lifecycle import RequestState
from app.tables.base import Base, Created, Id, enum_of


class RequestDomain(StrEnum):
    """The kinds of request that the service takes."""

    PRIVACY = "privacy"
    COPYRIGHT = "copyright"


class Request(Base):
    """`settings` holds what changed after a failed try; `outcome` numbers and states only, never text."""

    __tablename__ = "request"

    id: Mapped[Id]
    served_model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("served_model.id"))
    domain: Mapped[RequestDomain] = mapped_column(enum_of(RequestDomain, "request_domain"))
    state: Mapped[RequestState] = mapped_column(enum_of(RequestState, "request_state"), default=RequestState.RECEIVED)
    subject_reference: Mapped[str | None] = mapped_column(String(200))
    legal_basis: Mapped[str | None] = mapped_column(String(200))
    client_reference: Mapped[str | None] = mapped_column(String(200))
    note: Mapped[str | None] = mapped_column(String(2000))
    tries: Mapped[int] = mapped_column(Integer, default=0)
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    outcome: Mapped[dict[str, Any] | None]
    created_by: Mapped[uuid.UUID] = mapped_column(ForeignKey("key.id"))
    received_at: Mapped[Created]
    due_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("tries >= 0", name="tries_are_not_negative"),
        CheckConstraint("due_at > received_at", name="due_after_receipt"),
        CheckConstraint(
            "(completed_at IS NOT NULL) = (state IN ('published', 'standing', 'withdrawn', 'failed'))",
            name="completed_when_final",
        ),
        # Newest first, whole and per owner, model or state: every list and filter reads one of these.
        Index("ix_request_created_by_id", "created_by", "id"),
        Index("ix_request_served_model_id_state_id", "served_model_id", "state", "id"),
        Index("ix_request_state_id", "state", "id"),
        Index("ix_request_domain_id", "domain", "id"),
        Index("ix_request_client_reference", "client_reference"),
        Index("ix_request_pending", "served_model_id", "due_at", postgresql_where="state IN ('received', 'queued')"),
    )
