"""Every statement on the log: its queue, leaves, nodes and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, literal, select, text
from sqlalchemy.orm import Session

from app.tables import Audit, AuditPending, Checkpoint, LogLeaf, LogNode

SEQUENCER, SIGNER = 7_311_032, 7_311_033
"""Advisory locks: of whoever numbers leaves, and of whoever signs."""
COUNTED_MOST = 100_000
Reading = Session | Connection

TAKE = text("""
DELETE FROM audit_pending WHERE audit_id = ANY(ARRAY(
    SELECT audit_id FROM audit_pending ORDER BY audit_id LIMIT :most
)) RETURNING audit_id
""")
TAKEN = text("""
SELECT id, leaf FROM audit
WHERE id = ANY(CAST(:ids AS bigint[])) AND NOT id = ANY(ARRAY(
    SELECT audit_id FROM log_leaf WHERE audit_id = ANY(CAST(:ids AS bigint[]))
))
ORDER BY id
""")
"""By lists of ids, not by joins: the planner then knows how few they are, however large the tables."""
ADD_LEAVES = text("""
INSERT INTO log_leaf (position, audit_id, hash)
SELECT :size + made.turn - 1, made.audit_id, made.hash
FROM unnest(CAST(:audit_ids AS bigint[]), CAST(:hashes AS bytea[])) WITH ORDINALITY AS made (audit_id, hash, turn)
""")
ADD_NODES = text("""
INSERT INTO log_node (level, index, hash)
SELECT * FROM unnest(CAST(:levels AS smallint[]), CAST(:indexes AS bigint[]), CAST(:hashes AS bytea[]))
""")
READ = text("""
SELECT CAST(0 AS smallint), leaf.position, leaf.hash
FROM log_leaf leaf WHERE leaf.position = ANY(CAST(:positions AS bigint[]))
UNION ALL
SELECT node.level, node.index, node.hash
FROM unnest(CAST(:levels AS smallint[]), CAST(:indexes AS bigint[])) AS asked (level, index)
JOIN log_node node ON node.level = asked.level AND node.index = asked.index
""")


def try_sequencer_lock(session: Session) -> bool:
    """Become the one who numbers, until the transaction ends; False while another is."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(SEQUENCER))))


def wait_for_signer_lock(session: Session) -> None:
    """Become the one who signs, until the transaction ends."""
    session.execute(select(func.pg_advisory_xact_lock(SIGNER)))


def take(session: Session, most: int) -> list[tuple[int, bytes]]:
    """Take up to `most` leaves out of the queue: (id in the trail, bytes) of those without a number, by id."""
    ids = list(session.scalars(TAKE, {"most": most}))
    return [(row.id, row.leaf) for row in session.execute(TAKEN, {"ids": ids})] if ids else []


def size(reading: Reading) -> int:
    """How many leaves have a number."""
    last: int | None = reading.execute(select(func.max(LogLeaf.position))).scalar_one()
    return 0 if last is None else last + 1


def waiting(reading: Reading) -> int:
    """How many leaves wait for one, COUNTED_MOST at most."""
    some = select(literal(1)).select_from(AuditPending).limit(COUNTED_MOST).subquery()
    return reading.execute(select(func.count()).select_from(some)).scalar_one()


def add_leaves(session: Session, size_before: int, audit_ids: Sequence[int], hashes: Sequence[bytes]) -> None:
    """Number leaves from `size_before` on."""
    given = {"size": size_before, "audit_ids": list(audit_ids), "hashes": list(hashes)}
    session.execute(ADD_LEAVES, given)


def add_nodes(session: Session, nodes: Sequence[tuple[int, int, bytes]]) -> None:
    """Keep (level, index, hash) of complete subtrees."""
    levels, indexes, hashes = zip(*nodes, strict=True)
    session.execute(ADD_NODES, {"levels": list(levels), "indexes": list(indexes), "hashes": list(hashes)})


def read_nodes(
    reading: Reading, positions: Iterable[int], places: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], bytes]:
    """Hashes by (level, index), in one statement: of the leaves with these numbers, as level 0, and of nodes."""
    levels, indexes = zip(*places, strict=True) if (places := list(places)) else ((), ())
    given = {"positions": list(positions), "levels": list(levels), "indexes": list(indexes)}
    return {(level, index): digest for level, index, digest in reading.execute(READ, given)}


def position_of(reading: Reading, leaf_hash: bytes) -> int | None:
    """The number of the leaf with that hash, the first if there were several. (The database is not asked for the
    smallest: it might walk through all numbers until one has that hash.)"""
    found = reading.execute(select(LogLeaf.position).where(LogLeaf.hash == leaf_hash)).scalars()
    return min(found, default=None)


def position_in_log(reading: Reading, audit_id: int) -> int | None:
    """The number of a leaf of the trail; None while it has none."""
    return reading.execute(select(LogLeaf.position).where(LogLeaf.audit_id == audit_id)).scalar_one_or_none()


def last_about(reading: Reading, event: str, subject_id: str) -> int | None:
    """The id of the last leaf of an event about something."""
    statement = select(func.max(Audit.id)).where(Audit.subject_id == subject_id, Audit.event == event)
    return reading.execute(statement).scalar_one()


def leaves(reading: Reading, start: int, end: int) -> Sequence[Any]:
    """Rows (position, hash, leaf) from `start` to before `end`; `leaf` is None where it has expired."""
    return reading.execute(
        select(LogLeaf.position, LogLeaf.hash, Audit.leaf)
        .outerjoin(Audit, Audit.id == LogLeaf.audit_id)
        .where(LogLeaf.position >= start, LogLeaf.position < end)
        .order_by(LogLeaf.position)
    ).all()


def unlogged(reading: Reading) -> int:
    """How many leaves of the trail neither have a number nor wait for one. Reads the whole trail."""
    statement = (
        select(func.count())
        .select_from(Audit)
        .where(
            ~select(literal(1)).where(LogLeaf.audit_id == Audit.id).exists(),
            ~select(literal(1)).where(AuditPending.audit_id == Audit.id).exists(),
        )
    )
    return reading.execute(statement).scalar_one()


def count_nodes(reading: Reading, level: int) -> int:
    """How many nodes of a level are kept."""
    return reading.execute(select(func.count()).select_from(LogNode).where(LogNode.level == level)).scalar_one()


def add_checkpoint(session: Session, size_of_it: int, root: bytes, note: bytes, now: datetime) -> None:
    """Keep a signed checkpoint."""
    session.execute(insert(Checkpoint).values(size=size_of_it, root=root, note=note, created_at=now))


def last_checkpoint(reading: Reading) -> Any:
    """(size, root, note, created_at) of the newest; None before the first."""
    columns = (Checkpoint.size, Checkpoint.root, Checkpoint.note, Checkpoint.created_at)
    return reading.execute(select(*columns).order_by(Checkpoint.id.desc()).limit(1)).one_or_none()


def first_checkpoint_over(reading: Reading, position: int) -> Any:
    """(size, root) of the first that was signed over the leaf with this number; None while there is none."""
    statement = select(Checkpoint.size, Checkpoint.root).where(Checkpoint.size > position)
    return reading.execute(statement.order_by(Checkpoint.size, Checkpoint.id).limit(1)).one_or_none()


def checkpoints(reading: Reading, after_id: int, most: int) -> Sequence[Any]:
    """(id, size, root, note, created_at) behind an id, in their order."""
    columns = (Checkpoint.id, Checkpoint.size, Checkpoint.root, Checkpoint.note, Checkpoint.created_at)
    return reading.execute(
        select(*columns).where(Checkpoint.id > after_id).order_by(Checkpoint.id).limit(most)
    ).all()


def last_checkpoint_age(reading: Reading, now: datetime) -> float | None:
    """Seconds since the newest checkpoint; None before the first."""
    found = last_checkpoint(reading)
    return None if found is None else max((now - found.created_at).total_seconds(), 0.0)
