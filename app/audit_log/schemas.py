"""What the log answers. Hashes are 64 hex digits; sizes and positions count leaves, positions from 0."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, StringConstraints

Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MOST_LEAVES = 2**53
"""Numbers that every reader of JSON keeps whole."""


class InclusionProof(BaseModel):
    """That a leaf stands at `position` of the log's first `size` leaves: RFC 9162, section 2.1.3. `root` is what the
    proof leads to; compare it with that of a checkpoint whose signature you verified."""

    position: int
    size: int
    leaf_hash: Hash
    root: Hash
    hashes: list[Hash]


class ConsistencyProof(BaseModel):
    """That the first `to_size` leaves begin with the first `from_size`: RFC 9162, section 2.1.4."""

    from_size: int
    to_size: int
    from_root: Hash
    to_root: Hash
    hashes: list[Hash]


class LeafView(BaseModel):
    """One leaf. `leaf` is canonical JSON (RFC 8785), as a text, since its bytes are what is hashed; null, with
    `expired` true, where it was older than leaves are kept: its hash stays, and so do all proofs."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={"examples": [{"position": 0, "hash": "ab" * 32, "leaf": '{"at":"..."}', "expired": False}]}
    )

    position: int
    hash: Hash
    leaf: str | None
    expired: bool


class LeafPage(BaseModel):
    """Leaves in the order of their numbers. `next_start` begins the next page; null at the end."""

    items: list[LeafView]
    size: int
    next_start: int | None


class LogState(BaseModel):
    """How the log stands."""

    size: int
    waiting: int
    checkpoint_size: int | None
    checkpoint_at: datetime | None


def hexes(hashes: list[bytes]) -> list[str]:
    """In hex."""
    return [found.hex() for found in hashes]


def leaf_view(row: Any) -> LeafView:
    """A row (position, hash, leaf)."""
    leaf = None if row.leaf is None else bytes(row.leaf).decode()
    return LeafView(position=row.position, hash=bytes(row.hash).hex(), leaf=leaf, expired=row.leaf is None)
