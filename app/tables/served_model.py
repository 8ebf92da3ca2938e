"""A served model: a base, the alias that says which adapter version is active, and the policy of its batches."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created, Id, Revision


class ServedModel(Base):
    """`alias_revision` grows with every move of the alias: the compare-and-swap that publishes compares it.

    `breaker_failures` counts jobs in a row that failed for no fault of their requests; while `breaker_opened_at` is set
    no job of the model starts. `lease_losses` counts jobs that were taken from a worker that had gone silent. Since
    `content_keyed_at` digests of its contents are keyed (`app.requests.digests`).
    """

    __tablename__ = "served_model"

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(64), unique=True)
    base_model_path: Mapped[str] = mapped_column(String(1024))
    base_model_digest: Mapped[str] = mapped_column(String(64))
    reference_adapter_path: Mapped[str | None] = mapped_column(String(1024))
    prompt_template: Mapped[str] = mapped_column(String(4000))
    context_tokens: Mapped[int] = mapped_column(Integer)
    policy: Mapped[dict[str, Any]]
    active_adapter_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("adapter.id", use_alter=True, deferrable=True, initially="DEFERRED")
    )
    alias_revision: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[Created]
    updated_at: Mapped[Created]
    breaker_failures: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    breaker_opened_at: Mapped[datetime | None]
    breaker_error: Mapped[dict[str, Any] | None]
    lease_losses: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    content_keyed_at: Mapped[datetime | None]
    xmin: Mapped[Revision]

    @property
    def is_keyed(self) -> bool:
        """Whether digests of its contents are keyed."""
        return self.content_keyed_at is not None

    __table_args__ = (
        CheckConstraint("name ~ '^[a-z0-9][a-z0-9-]{0,62}$'", name="name_is_a_slug"),
        CheckConstraint("context_tokens > 0", name="context_is_positive"),
        CheckConstraint("alias_revision >= 0", name="revision_is_not_negative"),
    )


class Replica(Base):
    """What a serving replica last said it serves, and whose key it said so with."""

    __tablename__ = "replica"

    id: Mapped[Id]
    served_model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("served_model.id"))
    replica_id: Mapped[str] = mapped_column(String(128))
    adapter_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("adapter.id"))
    digest: Mapped[str] = mapped_column(String(64))
    acknowledged_at: Mapped[datetime]
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("key.id"))

    __table_args__ = (
        UniqueConstraint("served_model_id", "replica_id"),
        Index("ix_replica_key_id", "key_id", postgresql_where="key_id IS NOT NULL"),
    )
