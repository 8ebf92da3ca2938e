"""The audit trail: RFC 8785 bytes, which the audit log (`app.audit_log`) numbers and keeps the hashes of.

In parts by id, which `app.audit_log.parts` makes ahead and drops when all of their leaves have expired.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Identity, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created


class Audit(Base):
    """One change. The leaf holds ids, states, digests and numbers; never text that a person wrote."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    event: Mapped[str] = mapped_column(String(64), index=True)
    subject_id: Mapped[str | None] = mapped_column(String(64), index=True)
    leaf: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[Created]

    __table_args__ = (
        CheckConstraint("octet_length(leaf) BETWEEN 2 AND 8192", name="leaf_is_bounded"),
        {"postgresql_partition_by": "RANGE (id)"},
    )
