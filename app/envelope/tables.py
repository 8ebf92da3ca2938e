"""The key store's own two tables: in a database of its own, never beside the content that its keys open."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, LargeBinary, MetaData, String, Table, Uuid

from app.envelope.kms import MAX_WRAPPED_BYTES

metadata = MetaData()

data_key = Table(
    "data_key",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kek_version", Integer, nullable=False),
    Column("wrapped", LargeBinary),
    Column("created_ms", BigInteger, nullable=False),
    Column("destroyed_ms", BigInteger),
    CheckConstraint("(wrapped IS NULL) = (destroyed_ms IS NOT NULL)", name="ck_data_key_destroyed_without_a_key"),
    CheckConstraint(f"length(wrapped) BETWEEN 1 AND {MAX_WRAPPED_BYTES}", name="ck_data_key_wrapped_is_bounded"),
)
"""A row without its key is a tombstone: the same id can not get a key again, whoever comes first or second."""

by_version = Index(
    "ix_data_key_kek_version_id",
    data_key.c.kek_version,
    data_key.c.id,
    postgresql_where=data_key.c.wrapped.is_not(None),
    sqlite_where=data_key.c.wrapped.is_not(None),
)

replayed = Table(
    "replayed",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("records", BigInteger, nullable=False),
    Column("last", String(64), nullable=False),
    CheckConstraint("id = 1", name="ck_replayed_is_one_row"),
)
"""How many records of the list of destroyed keys this store has carried out, and the last of them."""
