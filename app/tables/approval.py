"""What officers said for a candidate."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created, Id


class Approval(Base):
    """One officer's, by the holder's first key: a key that follows another is the same officer's."""

    __tablename__ = "approval"

    id: Mapped[Id]
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id"))
    key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("key.id"))
    created_at: Mapped[Created]

    __table_args__ = (UniqueConstraint("job_id", "key_id"),)
