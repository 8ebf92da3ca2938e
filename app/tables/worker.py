"""Workers that compute jobs, as they announce themselves."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created


class Worker(Base):
    """One process. `memory_bytes` is what its device has for jobs. One that was not seen for long is dead."""

    __tablename__ = "worker"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[Created]
    seen_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("memory_bytes > 0", name="memory_is_positive"),)
