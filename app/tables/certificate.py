"""Certificates of erasure: one a request, kept as canonical bytes in the blob store under their digest."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Id


class Certificate(Base):
    """`digest` is SHA-256 of the canonical JSON. `audit_id` and `report_audit_id` are the leaves of the trail that say
    that this and the job's report were issued: their numbers in the log outlive the leaves."""

    __tablename__ = "certificate"

    id: Mapped[Id]
    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("request.id"), unique=True)
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"))
    digest: Mapped[str] = mapped_column(String(64), index=True)
    schema_version: Mapped[str] = mapped_column(String(32))
    audit_id: Mapped[int] = mapped_column(BigInteger)
    report_audit_id: Mapped[int | None] = mapped_column(BigInteger)
    issued_at: Mapped[datetime]

    __table_args__ = (Index("ix_certificate_job_id", "job_id", "request_id"),)
