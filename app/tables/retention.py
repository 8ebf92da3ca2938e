"""What was removed because its time was over, by kind."""

from __future__ import annotations

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class Retention(Base):
    """`removed` counts rows. (`floor_xid`, `floor_id`) is the last position of the stream of events up to which events
    may be missing."""

    __tablename__ = "retention"

    kind: Mapped[str] = mapped_column(String(32), primary_key=True)
    removed: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    floor_xid: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    floor_id: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
