"""Leaves get their numbers: the one place that does it, one batch a transaction.

A change inserts its leaf without a number, and a trigger queues it, so that changes do not wait for each other. Whoever
holds the lock takes what is queued and committed, by id, and appends it to the tree; queue, numbers and nodes change
together or not at all. Numbers are therefore not in the order of commits, and nothing depends on that they were: a
leaf of a long transaction comes when that has ended.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.audit_log import repository
from app.audit_log.nodes import Growth
from app.db import Database, transaction
from app.trust.merkle import append
from app.trust.verify import leaf_hash

AT_ONCE = 1000
"""Leaves of one transaction."""
ROUNDS = 200
"""Transactions of one ring; the next one goes on."""


def number_some(session: Session, most: int = AT_ONCE) -> int:
    """Number up to `most` leaves; how many were taken out of the queue. 0 also while somebody else does it."""
    if not repository.try_sequencer_lock(session):
        return 0
    taken = repository.take(session, most)
    if not taken:
        return 0
    size, hashes = repository.size(session), [leaf_hash(leaf) for _, leaf in taken]
    growth = Growth(session, size)
    repository.add_leaves(session, size, [audit_id for audit_id, _ in taken], hashes)
    append(growth, size, hashes)
    growth.flush()
    return len(taken)


def number_all(db: Database, most: int = AT_ONCE, rounds: int = ROUNDS) -> int:
    """Number what waits, batch by batch, until the queue is empty or after `rounds`; how many leaves. Raises
    Unavailable."""
    numbered = 0
    for _ in range(rounds):
        with transaction(db) as session:
            some = number_some(session, most)
        numbered += some
        if some < most:
            break
    return numbered
