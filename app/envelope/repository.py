"""Every statement of the key store, for Postgres and SQLite alike. Ids come in lists of at most a thousand."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from app.envelope.kms import Wrapped
from app.envelope.tables import by_version, data_key, metadata, replayed

SCHEMA_LOCK = 7_311_028
"""Advisory lock of Postgres: of two processes that make the tables one waits."""


def create_tables(connection: Connection) -> None:
    """Make the tables unless they are there."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": SCHEMA_LOCK})
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
    connection.execute(CreateIndex(by_version, if_not_exists=True))


def add(connection: Connection, wrapped: Mapping[uuid.UUID, Wrapped], now_ms: int) -> set[uuid.UUID]:
    """Keep keys under ids that have none and had none. Which those were."""
    rows = [
        {"id": key_id, "kek_version": one.version, "wrapped": one.data, "created_ms": now_ms}
        for key_id, one in sorted(wrapped.items())  # in one order, so that two of these do not wait for each other
    ]
    statement = _inserts(connection)(data_key).on_conflict_do_nothing(index_elements=["id"])
    return set(connection.scalars(statement.returning(data_key.c.id), rows))


def find(connection: Connection, ids: Collection[uuid.UUID]) -> list[Any]:
    """Rows (id, kek_version, wrapped, destroyed_ms) of those ids that there are."""
    columns = (data_key.c.id, data_key.c.kek_version, data_key.c.wrapped, data_key.c.destroyed_ms)
    return list(connection.execute(select(*columns).where(data_key.c.id.in_(ids))))


def destroy(connection: Connection, at_ms: Mapping[uuid.UUID, int]) -> None:
    """Put a tombstone in the place of each key, or where none was. The first one's time stays."""
    insert = _inserts(connection)(data_key)
    statement = insert.on_conflict_do_update(
        index_elements=["id"],
        set_={"wrapped": None, "destroyed_ms": func.coalesce(data_key.c.destroyed_ms, insert.excluded.destroyed_ms)},
    )
    rows = [
        {"id": key_id, "kek_version": 0, "wrapped": None, "created_ms": at, "destroyed_ms": at}
        for key_id, at in sorted(at_ms.items())  # as there
    ]
    connection.execute(statement, rows)


def destroyed(connection: Connection, after: uuid.UUID | None, limit: int) -> list[Any]:
    """Tombstones (id, destroyed_ms) behind an id, in the order of ids."""
    statement = select(data_key.c.id, data_key.c.destroyed_ms).where(data_key.c.wrapped.is_(None))
    if after is not None:
        statement = statement.where(data_key.c.id > after)
    return list(connection.execute(statement.order_by(data_key.c.id).limit(limit)))


def wrapped_otherwise(
    connection: Connection, version: int, after: tuple[int, uuid.UUID] | None, limit: int
) -> list[Any]:
    """Keys (id, kek_version, wrapped) of any version but this one, behind a (version, id), in that order."""
    statement = select(data_key.c.id, data_key.c.kek_version, data_key.c.wrapped).where(
        data_key.c.wrapped.is_not(None), data_key.c.kek_version != version
    )
    if after is not None:
        of, key_id = after
        statement = statement.where(
            (data_key.c.kek_version > of) | ((data_key.c.kek_version == of) & (data_key.c.id > key_id))
        )
    return list(connection.execute(statement.order_by(data_key.c.kek_version, data_key.c.id).limit(limit)))


def replace(connection: Connection, pairs: Sequence[tuple[Any, Wrapped]]) -> int:
    """Give each key its new wrapping, unless it was destroyed or wrapped anew since its row was read. How many were."""
    statement = (
        update(data_key)
        .where(data_key.c.id == bindparam("of"), data_key.c.wrapped == bindparam("old"))
        .values(kek_version=bindparam("version"), wrapped=bindparam("new"))
    )
    rows = [{"of": row.id, "old": row.wrapped, "version": new.version, "new": new.data} for row, new in pairs]
    return connection.execute(statement, rows).rowcount


def versions(connection: Connection) -> dict[int, int]:
    """How many keys each version of the key-encryption key wraps."""
    statement = (
        select(data_key.c.kek_version, func.count())
        .where(data_key.c.wrapped.is_not(None))
        .group_by(data_key.c.kek_version)
        .order_by(data_key.c.kek_version)
    )
    return {row[0]: row[1] for row in connection.execute(statement)}


def mark(connection: Connection) -> tuple[int, str]:
    """How many records of the list were carried out, and the last of them."""
    row = connection.execute(select(replayed.c.records, replayed.c.last)).one_or_none()
    return (0, "") if row is None else (row.records, row.last)


def set_mark(connection: Connection, records: int, last: str, *, back: bool = False) -> None:
    """Note that so many records were carried out; never fewer than before, unless `back`."""
    insert = _inserts(connection)(replayed)
    further = insert.excluded.records > replayed.c.records
    values = {
        name: insert.excluded[name] if back else case((further, insert.excluded[name]), else_=replayed.c[name])
        for name in ("records", "last")
    }
    statement = insert.on_conflict_do_update(index_elements=["id"], set_=values)
    connection.execute(statement, {"id": 1, "records": records, "last": last})


def _inserts(connection: Connection) -> Any:
    """The `insert` of this database: both know ON CONFLICT, in the same words."""
    return {"postgresql": postgresql, "sqlite": sqlite}[connection.dialect.name].insert
