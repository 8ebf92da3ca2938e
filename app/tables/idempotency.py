"""Answers kept under the caller's Idempotency-Key, so that a repeated call gets the first one's."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created


class Idempotency(Base):
    """`fingerprint` is a keyed digest of method, address and body; `answer` is what was told: ids, states, numbers."""

    __tablename__ = "idempotency"

    key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("key.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int] = mapped_column(Integer)
    answer: Mapped[dict[str, Any]]
    headers: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[Created]

    __table_args__ = (Index("ix_idempotency_created_at", "created_at"),)
