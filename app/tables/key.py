"""API keys: a searchable prefix and a hash, never the key."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, func
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created, Id, enum_of


class KeyRole(StrEnum):
    """What a key's holder may do. `admin` passes everywhere."""

    REQUESTER = "requester"
    OPERATOR = "operator"
    OFFICER = "officer"
    ADMIN = "admin"


class Key(Base):
    """One API key; revoked keys stay, since requests refer to them.

    A key that follows another has its holder's first key as `holder_id`: what the holder owns is owned by that one.
    `last_used_at` is noted every half minute at most.
    """

    __tablename__ = "key"

    id: Mapped[Id]
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    hash: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[KeyRole] = mapped_column(enum_of(KeyRole, "key_role"))
    created_at: Mapped[Created]
    revoked_at: Mapped[datetime | None]
    holder_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("key.id"))
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("length(hash) = 64", name="hash_is_sha256"),
        Index("ix_key_holder_id", "holder_id", postgresql_where="holder_id IS NOT NULL"),
    )

    @property
    def owner_id(self) -> uuid.UUID:
        """Under which id its holder's requests are."""
        return self.holder_id or self.id

    def opens(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


OPEN_NOW = Key.revoked_at.is_(None) & (Key.expires_at.is_(None) | (Key.expires_at > func.now()))
"""The same as a condition of a statement, at the time of its transaction."""
OPEN_NOW_SQL = "(k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()))"
"""The same in statements that are written out, where the table is called `k`."""
