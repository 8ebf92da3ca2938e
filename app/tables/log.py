"""The audit log: leaves in the order of their numbers, nodes of the tree over them, signed checkpoints, verifier keys.

Rows of `log_leaf`, `log_node` and `checkpoint`, as those of `audit`, are never changed or removed: the database
refuses it (migration 0017). `audit_pending` is the queue of leaves that have no number yet.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, LargeBinary, SmallInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Created


class AuditPending(Base):
    """A leaf that waits for its number. Filled by a trigger on `audit`, in the transaction of the change."""

    __tablename__ = "audit_pending"

    audit_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


class LogLeaf(Base):
    """The number of a leaf, counted from 0, and its hash (RFC 6962), which stays when the leaf itself has expired."""

    __tablename__ = "log_leaf"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    audit_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (
        CheckConstraint("octet_length(hash) = 32", name="hash_is_sha256"),
        Index("ix_log_leaf_hash", "hash", postgresql_using="hash"),
    )


class LogNode(Base):
    """A complete subtree: `index` * 2^`level` is its first leaf. Levels below app.audit_log.nodes.STORED_FROM are
    computed."""

    __tablename__ = "log_node"

    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("octet_length(hash) = 32", name="hash_is_sha256"),)


class Checkpoint(Base):
    """A signed note about the first `size` leaves. The same size is signed again after a day, and by new keys."""

    __tablename__ = "checkpoint"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    root: Mapped[bytes] = mapped_column(LargeBinary)
    note: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[Created]

    __table_args__ = (
        CheckConstraint("size > 0", name="size_is_positive"),
        CheckConstraint("octet_length(root) = 32", name="root_is_sha256"),
        Index("ix_checkpoint_size_id", "size", "id"),
    )


class LogKey(Base):
    """A verifier key. Its row stays when it is retired or revoked, so that what it signed can be judged."""

    __tablename__ = "log_key"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(8), primary_key=True)
    public: Mapped[bytes] = mapped_column(LargeBinary)
    added_at: Mapped[Created]
    retired_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("octet_length(public) = 32", name="public_is_ed25519"),)
