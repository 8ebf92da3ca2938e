"""What is asked of the log: its state, keys, proofs, leaves."""

from __future__ import annotations

from datetime import datetime

from app.audit_log import checkpoints, keys, repository
from app.audit_log.checkpoints import Issued
from app.audit_log.errors import NoCheckpointYet, NotInLog, OutsideLog
from app.audit_log.nodes import Nodes
from app.audit_log.repository import Reading
from app.audit_log.schemas import ConsistencyProof, InclusionProof, LeafPage, LogState, hexes, leaf_view
from app.audit_log.signing import is_set
from app.config import Settings
from app.trust import merkle
from app.trust.verify import UNSAFE, parse_note

__all__ = ["consistency", "inclusion", "is_unsafe", "leaves", "ring_text", "signed", "state", "unsigned"]

LATE_SECONDS = 2 * 86_400.0
"""A log is signed once a day at least."""


def state(reading: Reading) -> LogState:
    """How the log stands."""
    found = repository.last_checkpoint(reading)
    size, at = (None, None) if found is None else (found.size, found.created_at)
    return LogState(
        size=repository.size(reading), waiting=repository.waiting(reading), checkpoint_size=size, checkpoint_at=at
    )


def signed(reading: Reading) -> Issued:
    """The newest checkpoint. Raises NoCheckpointYet."""
    return checkpoints.last(reading)


def unsigned(reading: Reading, settings: Settings, now: datetime) -> str | None:
    """Why the log is not signed as it should be, in words for an operator; None when all is well."""
    age = repository.last_checkpoint_age(reading, now)
    if age is not None and age > LATE_SECONDS:
        days = f"{age / 86_400:.0f} days"
        return f"the audit log was last signed {days} ago: has the control worker its key, is there one beat?"
    if age is None and not is_set(settings) and (repository.size(reading) or repository.waiting(reading)):
        return "the audit log is not signed: set GRAIL_SIGNING_KEY_FILE and GRAIL_LOG_ORIGIN (`grail log key new`)"
    return None


def is_unsafe(reading: Reading) -> bool:
    """Whether the newest checkpoint is signed with a development key. Raises NoCheckpointYet."""
    return any(who.startswith(UNSAFE) for who, _ in parse_note(signed(reading).note)[1])


def ring_text(reading: Reading) -> str:
    """Every key that ever signed, a line each, as `grail verify --key` reads it. Raises NoCheckpointYet without one."""
    found = keys.ring(reading).text()
    if not found:
        raise NoCheckpointYet("the log was never signed, so there is no key")
    return found


def inclusion(reading: Reading, *, leaf_hash: bytes | None, position: int | None, size: int | None) -> InclusionProof:
    """A proof for a leaf by its hash or position, in the first `size` leaves, without one in those of the newest
    checkpoint. Raises NotInLog, OutsideLog, NoCheckpointYet."""
    whole = repository.size(reading)
    if leaf_hash is not None:
        found = repository.position_of(reading, leaf_hash)
        if found is None or position not in (None, found):
            raise NotInLog("no leaf with this hash has that number" if found is not None else None)
        position = found
    if position is None:
        raise OutsideLog("name a leaf by `leaf_hash` or `position`", size=whole)
    if position >= whole:
        raise NotInLog(f"position {position} has no leaf yet", size=whole)
    size = signed(reading).size if size is None else size
    if not position < size <= whole:
        raise OutsideLog(f"the leaf is number {position}; `size` has to be above that, and at most {whole}", size=whole)
    nodes = Nodes(reading)
    return InclusionProof(
        position=position, size=size, leaf_hash=nodes.read([(0, position)])[0].hex(),
        root=merkle.root(nodes, size).hex(), hashes=hexes(merkle.inclusion_proof(nodes, position, size)),
    )  # fmt: skip


def consistency(reading: Reading, from_size: int, to_size: int | None) -> ConsistencyProof:
    """A proof that the log of `to_size` leaves, without one that of the newest checkpoint, begins with that of
    `from_size`. Raises OutsideLog, NoCheckpointYet."""
    whole = repository.size(reading)
    to_size = signed(reading).size if to_size is None else to_size
    if not from_size <= to_size <= whole:
        raise OutsideLog(f"`from` is at most `to`, and that at most {whole}", size=whole)
    nodes = Nodes(reading)
    return ConsistencyProof(
        from_size=from_size, to_size=to_size, from_root=merkle.root(nodes, from_size).hex(),
        to_root=merkle.root(nodes, to_size).hex(),
        hashes=hexes(merkle.consistency_proof(nodes, from_size, to_size)),
    )  # fmt: skip


def leaves(reading: Reading, start: int, limit: int) -> LeafPage:
    """Leaves from number `start` on. Expired ones say that they are."""
    size = repository.size(reading)
    end = min(start + limit, size)
    rows = repository.leaves(reading, start, end) if start < end else []
    return LeafPage(items=[leaf_view(row) for row in rows], size=size, next_start=end if start < end < size else None)
