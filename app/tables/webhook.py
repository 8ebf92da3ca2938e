"""Webhooks: where to tell what happened, and what became of each telling."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created, Id, enum_of


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"  # given up after its last try; may be replayed


class Webhook(Base):
    """An address that is told of events about its owner's requests (all requests for operators and officers).

    The signing secret is not stored: it is derived from the service's own secret, this id and `secret_generation`,
    which grew at `rotated_at`. (`after_xid`, `after_id`) is the last event that was looked at for it. With `request_id`
    it is told of that request alone, and retired once the request has ended.
    """

    __tablename__ = "webhook"

    id: Mapped[Id]
    created_by: Mapped[uuid.UUID] = mapped_column(ForeignKey("key.id"), index=True)
    url: Mapped[str] = mapped_column(String(2000))
    kinds: Mapped[list[str]] = mapped_column(default=list)
    secret_generation: Mapped[int] = mapped_column(Integer, default=1)
    form: Mapped[str] = mapped_column(String(16), default="standard")
    after_xid: Mapped[int] = mapped_column(BigInteger, default=0)
    after_id: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[Created]
    disabled_at: Mapped[datetime | None]
    rotated_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    request_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("request.id"))

    __table_args__ = (
        CheckConstraint("secret_generation > 0", name="generation_is_positive"),
        Index("ix_webhook_request_id", "request_id", postgresql_where="request_id IS NOT NULL"),
        Index("ix_webhook_active", "id", postgresql_where="disabled_at IS NULL"),
    )


class Delivery(Base):
    """One event for one webhook. `last_error` is a kind of our own, never what the other side answered."""

    __tablename__ = "delivery"

    id: Mapped[Id]
    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhook.id"))
    event_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("event.id"))
    state: Mapped[DeliveryState] = mapped_column(
        enum_of(DeliveryState, "delivery_state"), default=DeliveryState.PENDING
    )
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_at: Mapped[Created]
    last_status: Mapped[int | None] = mapped_column(Integer)
    last_error: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[Created]
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("webhook_id", "event_id"),
        CheckConstraint("(delivered_at IS NOT NULL) = (state = 'delivered')", name="delivered_when_told"),
        Index("ix_delivery_next_at", "next_at", postgresql_where="state = 'pending'"),
        Index("ix_delivery_webhook_id_next_at", "webhook_id", "next_at", postgresql_where="state = 'pending'"),
        Index("ix_delivery_webhook_id_id", "webhook_id", "id"),
        Index("ix_delivery_event_id", "event_id"),
        Index("ix_delivery_dead", "webhook_id", "id", postgresql_where="state = 'dead'"),
    )
