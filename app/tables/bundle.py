"""What is signed about reports and adapter versions. It is small enough for rows; a bundle's files lie in the blob
store."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, LargeBinary, String
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created


class Bundle(Base):
    """How far the bundle of a report is: `sealed_at` once its files are signed and their seal is a leaf of the audit
    trail, `assembled_at` once proofs are there; `obstacle` is the kind of error that the last try ended with.

    `contents_digest` names the blob that holds the signed files; `audit_ids` are their events' in the trail, in the
    order of events.jsonl, and then the seal's; `salt` blinds ids in the scores, and may be destroyed."""

    __tablename__ = "bundle"

    report_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("report.id"), primary_key=True)
    created_at: Mapped[Created]
    tried_at: Mapped[datetime | None]
    obstacle: Mapped[str | None] = mapped_column(String(64))
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    contents_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    statement: Mapped[bytes | None] = mapped_column(LargeBinary)
    seal: Mapped[bytes | None] = mapped_column(LargeBinary)
    audit_ids: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))
    sealed_at: Mapped[datetime | None]
    log_size: Mapped[int | None] = mapped_column(BigInteger)
    checkpoint: Mapped[bytes | None] = mapped_column(LargeBinary)
    proofs: Mapped[bytes | None] = mapped_column(LargeBinary)
    digest: Mapped[str | None] = mapped_column(String(64))
    assembled_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "sealed_at IS NULL OR num_nulls(contents_digest, statement, seal, audit_ids) = 0", name="sealed_is_whole"
        ),
        CheckConstraint(
            "assembled_at IS NULL OR (sealed_at IS NOT NULL AND num_nulls(log_size, checkpoint, proofs, digest) = 0)",
            name="assembled_is_whole",
        ),
    )


class Attestation(Base):
    """A signed statement about an adapter version: `name` is that of a file, as in `app.bundles.attesting`."""

    __tablename__ = "attestation"

    adapter_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[Created]
