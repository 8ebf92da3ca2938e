"""A slow tree, written from the text of RFC 6962, section 2.1; and leaves as the service writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import text

from app.db import Database, reading
from app.trust.canonical import canonical

ROOT = Path(__file__).resolve().parents[3]


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH(D[n])."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def leaf(number: int) -> bytes:
    """A leaf like those of the trail."""
    return canonical({"id": f"{number:032x}", "event": "thing.changed", "subject_id": None, "fields": {"n": number}})


def numbered(db: Database) -> list[tuple[int, int, bytes]]:
    """(position, id in the trail, bytes) of every leaf with a number, in their order."""
    statement = text(
        "SELECT position, audit_id, leaf FROM log_leaf JOIN audit ON audit.id = log_leaf.audit_id ORDER BY position"
    )
    with reading(db) as connection:
        return [tuple(row) for row in connection.execute(statement)]


def ids(db: Database, table: str = "audit", column: str = "id") -> list[int]:
    with reading(db) as connection:
        return list(connection.scalars(text(f"SELECT {column} FROM {table} ORDER BY 1")))  # noqa: S608  constants
