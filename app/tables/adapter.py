"""Adapter versions: immutable directories, their rows, and who downloaded them."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created, Id, enum_of


class AdapterState(StrEnum):
    """`superseded`: older than a completed erasure, so it still holds what was erased."""

    CANDIDATE = "candidate"
    PUBLISHED = "published"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"


class Adapter(Base):
    """`name` is `<model>-v000042-<first 8 of the digest>`: never reused, since engines key caches by name.

    From `weights_doomed_at` on nobody is given the weights any more; at `weights_destroyed_at` their file was gone.
    """

    __tablename__ = "adapter"

    id: Mapped[Id]
    served_model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("served_model.id"))
    version: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    directory: Mapped[str] = mapped_column(String(1024))
    manifest: Mapped[dict[str, Any]]
    state: Mapped[AdapterState] = mapped_column(enum_of(AdapterState, "adapter_state"))
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("adapter.id"))
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("job.id", use_alter=True), unique=True)
    created_at: Mapped[Created]
    published_at: Mapped[datetime | None]
    superseded_at: Mapped[datetime | None]
    weights_doomed_at: Mapped[datetime | None]
    weights_destroyed_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("served_model_id", "version"),
        CheckConstraint("version >= 1", name="versions_start_at_one"),
        CheckConstraint("length(digest) = 64", name="digest_is_sha256"),
        CheckConstraint(
            "state NOT IN ('published', 'superseded') OR published_at IS NOT NULL", name="published_at_is_set"
        ),
        CheckConstraint(
            "weights_doomed_at IS NULL OR state IN ('superseded', 'rejected')", name="what_is_served_keeps_its_weights"
        ),
        CheckConstraint("weights_destroyed_at IS NULL OR weights_doomed_at IS NOT NULL", name="doomed_then_destroyed"),
        Index(
            "ix_adapter_weights_kept",
            "served_model_id",
            "version",
            postgresql_where="state IN ('superseded', 'rejected') AND weights_doomed_at IS NULL",
        ),
        Index(
            "ix_adapter_weights_doomed",
            "weights_doomed_at",
            postgresql_where="weights_doomed_at IS NOT NULL AND weights_destroyed_at IS NULL",
        ),
    )


class AdapterDownload(Base):
    """A receipt: who pulled which version and when (those who must be told when it is superseded)."""

    __tablename__ = "adapter_download"

    id: Mapped[Id]
    adapter_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("adapter.id"))
    key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("key.id"))
    digest: Mapped[str] = mapped_column(String(64))
    downloaded_at: Mapped[Created]

    __table_args__ = (Index("ix_adapter_download_adapter_id", "adapter_id", "id"),)


class AdapterRecipient(Base):
    """One who has a version, a key or a replica of it: that a replica said so once, and that an officer has told the
    one or the other that the version is superseded, by which channel. Keys that were not told have receipts alone."""

    __tablename__ = "adapter_recipient"

    id: Mapped[Id]
    adapter_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("adapter.id"))
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("key.id"))
    replica_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("replica.id"))
    created_at: Mapped[Created]
    notified_at: Mapped[datetime | None]
    notified_by: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("key.id"))
    channel: Mapped[str | None] = mapped_column(String(32))

    __table_args__ = (
        UniqueConstraint("adapter_id", "key_id"),
        UniqueConstraint("adapter_id", "replica_id"),
        CheckConstraint("num_nonnulls(key_id, replica_id) = 1", name="key_or_replica"),
        CheckConstraint("num_nonnulls(notified_at, notified_by, channel) IN (0, 3)", name="notice_is_whole"),
    )
