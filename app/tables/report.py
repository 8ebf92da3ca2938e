"""Evaluation reports: one a job, kept as canonical bytes in the blob store under their digest."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created, Id


class Report(Base):
    """`digest` is SHA-256 of the canonical JSON; `bundled_at` is empty while its bundle is owed, `certified_at` while
    certificates of its job's requests are (last tried at `certify_tried_at`)."""

    __tablename__ = "report"

    id: Mapped[Id]
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"), unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    schema_version: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[Created]
    bundled_at: Mapped[datetime | None]
    certified_at: Mapped[datetime | None]
    certify_tried_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_report_not_bundled", "id", postgresql_where=text("bundled_at IS NULL")),
        Index("ix_report_not_certified", "id", postgresql_where=text("certified_at IS NULL")),
    )
