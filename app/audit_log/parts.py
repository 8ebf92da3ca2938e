"""Parts of the audit trail: made ahead, and dropped once all of their leaves are older than leaves are kept.

Dropping a part takes away what leaves say. Their numbers, hashes and the tree stay, so every proof still holds, and a
leaf of the log says that it was done. Needs the rights of the tables' owner, as migrations do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import psycopg
import structlog
from sqlalchemy.exc import OperationalError, ProgrammingError

from app.audit.service import record
from app.audit_log import parts_repository, repository
from app.audit_log.parts_repository import About, Part
from app.db import Database, clock, reading, transaction
from app.errors import Unavailable

log = structlog.get_logger(__name__)

SPAN = 1_000_000
"""Ids of a part: some months of a busy service, half a gigabyte."""
AHEAD = 1_000_000
"""So many ids have to have their part before they are given."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a part: `kept` says why it was not dropped, None that it was (or, on a dry run, would be)."""

    name: str
    about: About
    kept: str | None


def make_ahead(db: Database) -> int:
    """Make parts until AHEAD ids have theirs; how many. Where this role may not make tables, a line of the log says so:
    `grail log extend` as the migrations' role does it. Raises Unavailable."""
    made = 0
    try:
        while True:
            with transaction(db) as session:
                parts_repository.limit_wait(session)
                known, last = parts_repository.listed(session), parts_repository.last_id(session)
                end = known[-1].end if known else 0
                if end >= last + AHEAD:
                    return made
                beyond = parts_repository.any_beyond(session)
                first = max(end, (beyond // SPAN + 1) * SPAN if beyond >= end else 0)
                parts_repository.make(session, first, (first // SPAN + 1) * SPAN)
            made += 1
    except (ProgrammingError, OperationalError) as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege | psycopg.errors.LockNotAvailable):
            raise
        log.warning("parts_not_made", kind=type(error.orig).__name__, mend="`grail log extend` as the tables' owner")
        return made


def expire(db: Database, before: datetime, *, dry_run: bool) -> Iterator[Outcome]:
    """Drop the parts, oldest first, all of whose leaves were written before that time, have a number and are covered by
    a checkpoint; stops at the first that is kept. Each in a transaction of its own. Raises Unavailable."""
    with reading(db) as connection:
        found, last = parts_repository.listed(connection), parts_repository.last_id(connection)
        checkpoint = repository.last_checkpoint(connection)
    signed = 0 if checkpoint is None else checkpoint.size
    for part in found:
        with reading(db) as connection:
            about = parts_repository.about(connection, part, signed)
        kept = _kept(part, about, before, last)
        if kept is None and not dry_run:
            kept = _drop(db, part, about, before)
        yield Outcome(part.name, about, kept)
        if kept is not None:
            return


def _kept(part: Part, about: About, before: datetime, last: int) -> str | None:
    """Why a part is not to be dropped."""
    if last < part.end:
        return "leaves are still written into it"
    if about.newest is not None and about.newest >= before:
        return f"its newest leaf is of {about.newest:%Y-%m-%d}"
    if about.unsigned:
        return f"{about.unsigned} of its leaves are not covered by a checkpoint yet"
    return None


def _drop(db: Database, part: Part, about: About, before: datetime) -> str | None:
    """Drop one, with a leaf that says so; why not, if not."""
    try:
        with transaction(db) as session:
            parts_repository.limit_wait(session)
            if parts_repository.hold(session, part):
                return "a leaf of it waits for a number"
            parts_repository.drop(session, part)
            record(
                session, "audit.expired", at=clock(session), part=part.name, leaves=about.leaves,
                before=before.isoformat(),
            )  # fmt: skip
    except OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        raise Unavailable("the trail was in use: nothing was dropped", mend="Try again.") from None
    return None
