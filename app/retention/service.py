"""Nothing that grows with each call is kept for ever: each kind has its days, and a sweep removes what is older, some
thousands of rows a transaction, so that it holds nobody up.

What must not be lost is not removed, however old: events that a webhook has not looked at yet or whose delivery is
open, works that are being taught again, and weights that somebody serves or starts from. Requests, reports and the
audit trail stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.adapters import ending
from app.config import Settings
from app.db import Database, clock, transaction
from app.events.repository import EVENTS
from app.idempotency import service as idempotency
from app.requests import blanking, digests, sealing_old
from app.retention import repository

AT_ONCE = 2000
"""Rows of one transaction."""
WORKS_AT_ONCE = 20
"""Requests whose contents one transaction destroys: each has at most some thousand rows."""
SEALED_AT_ONCE = 500
VERSIONS_AT_ONCE = 20
"""Versions whose weights one transaction removes."""
ROUNDS = 25
"""Transactions of one sweep and kind; the next sweep goes on."""
Removal = Callable[[Session, datetime, Settings], tuple[bool, int]]


def remove(db: Database, settings: Settings, kind: str) -> int:
    """Remove what is old of one kind of `KINDS`; how much. Raises Unavailable."""
    removed = 0
    for _ in range(ROUNDS):
        with transaction(db) as session:
            more, some = KINDS[kind](session, clock(session), settings)
            if some:
                repository.count(session, kind, some)
        removed += some
        if not more:
            break
    return removed


def _deliveries(session: Session, now: datetime, settings: Settings) -> tuple[bool, int]:
    removed = repository.remove_deliveries(session, now - timedelta(days=settings.keep_deliveries_days), AT_ONCE)
    return removed == AT_ONCE, removed


def _events(session: Session, now: datetime, settings: Settings) -> tuple[bool, int]:
    looked, removed = repository.remove_events(session, now - timedelta(days=settings.keep_events_days), AT_ONCE)
    return looked == AT_ONCE, removed


def _answers(session: Session, now: datetime, settings: Settings) -> tuple[bool, int]:
    removed = idempotency.purge(session, now)
    return removed == idempotency.PURGED_AT_ONCE, removed


def _faults(session: Session, now: datetime, settings: Settings) -> tuple[bool, int]:
    before = now - timedelta(days=settings.keep_faults_days)
    removed = repository.forget_faults(session, before, now, AT_ONCE)
    return removed == AT_ONCE, removed


def _works(session: Session, now: datetime, settings: Settings) -> tuple[bool, int]:
    blanked = blanking.blank(session, now, WORKS_AT_ONCE)
    return blanked == WORKS_AT_ONCE, blanked


def _plain(session: Session, now: datetime, settings: Settings) -> tuple[bool, int]:
    sealed = sealing_old.seal_old(session, SEALED_AT_ONCE)
    return sealed > 0, sealed


def _digests(session: Session, now: datetime, settings: Settings) -> tuple[bool, int]:
    keyed = digests.key_old(session, now)
    return keyed > 0, keyed


def _weights(session: Session, now: datetime, settings: Settings) -> tuple[bool, int]:
    """What a transaction before has doomed goes; then what is over is doomed, for the next one."""
    destroyed = ending.destroy(session, now, VERSIONS_AT_ONCE)
    return ending.doom(session, now, VERSIONS_AT_ONCE) > 0 or destroyed == VERSIONS_AT_ONCE, destroyed


KINDS: Mapping[str, Removal] = {
    "weights": _weights, "answers": _answers, "faults": _faults, "deliveries": _deliveries, EVENTS: _events,
    "works": _works, "plain": _plain, "digests": _digests,
}  # fmt: skip
"""Deliveries before events: the latter go once no delivery needs them. What needs the key store comes last: while that
is away, the rest goes on."""
