"""Bulk imports: a file of requests, taken whole or (where asked for) as far as its rows are right."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created, Id, enum_of


class ImportState(StrEnum):
    """Where an import stands."""

    QUEUED = "queued"
    RUNNING = "running"
    IMPORTED = "imported"
    REFUSED = "refused"  # nothing was imported: `errors_digest` says why, row by row
    FAILED = "failed"


class ImportForm(StrEnum):
    """The form of the file."""

    JSONL = "jsonl"
    CSV = "csv"


class Import(Base):
    """`upload` names the spooled file, which is removed at the end; `errors_digest` the file of faults, row by
    row, until `errors_removed_at`. `stored` counts rows that lie in a transaction that is still open."""

    __tablename__ = "import"

    id: Mapped[Id]
    created_by: Mapped[uuid.UUID] = mapped_column(ForeignKey("key.id"))
    state: Mapped[ImportState] = mapped_column(enum_of(ImportState, "import_state"), default=ImportState.QUEUED)
    form: Mapped[ImportForm] = mapped_column(enum_of(ImportForm, "import_form"))
    partial: Mapped[bool] = mapped_column(default=False)
    upload: Mapped[str | None] = mapped_column(String(200))
    rows: Mapped[int] = mapped_column(Integer, default=0)
    stored: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    imported: Mapped[int] = mapped_column(Integer, default=0)
    refused: Mapped[int] = mapped_column(Integer, default=0)
    errors_digest: Mapped[str | None] = mapped_column(String(64))
    errors_removed_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(String(64))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[datetime | None]
    created_at: Mapped[Created]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('imported', 'refused', 'failed'))", name="finished_when_final"
        ),
        Index("ix_import_created_by_id", "created_by", "id"),
        Index("ix_import_faults", "finished_at", postgresql_where="errors_digest IS NOT NULL"),
        Index("ix_import_open_of_key", "created_by", postgresql_where="state IN ('queued', 'running')"),
        Index("ix_import_open", "id", postgresql_where="state IN ('queued', 'running')"),
    )
