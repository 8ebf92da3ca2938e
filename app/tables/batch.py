"""A batch: the requests that one job serves together, and why it was closed when it was."""

from __future__ import annotations

import uuid
from enum import StrEnum

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created, Id, enum_of


class BatchReason(StrEnum):
    """Why a batch was closed."""

    SIZE = "size"
    AGE = "age"
    DUE = "due"
    MANUAL = "manual"


class Batch(Base):
    """Both domains of one served model together."""

    __tablename__ = "batch"

    id: Mapped[Id]
    served_model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("served_model.id"), index=True)
    reason: Mapped[BatchReason] = mapped_column(enum_of(BatchReason, "batch_reason"))
    created_at: Mapped[Created]


class BatchMember(Base):
    """A request in a batch; a retried request is a member of several batches, one a try."""

    __tablename__ = "batch_member"

    batch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("batch.id"), primary_key=True)
    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("request.id"), primary_key=True)

    __table_args__ = (Index("ix_batch_member_request_id", "request_id"),)


class BatchExample(Base):
    """The standing retain rows that were drawn into a batch: chosen once, so that a resumed job sees the same data."""

    __tablename__ = "batch_example"

    batch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("batch.id"), primary_key=True)
    example_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("example.id"), primary_key=True)

    __table_args__ = (Index("ix_batch_example_example_id", "example_id"),)
