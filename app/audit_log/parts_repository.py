"""Every statement on the parts of `audit`: what there are, making one, dropping one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.audit_log.repository import Reading

LISTED = text("""
SELECT part.relname, pg_get_expr(part.relpartbound, part.oid)
FROM pg_inherits JOIN pg_class part ON part.oid = inhrelid WHERE inhparent = 'audit'::regclass
""")
RANGE = re.compile(r"FOR VALUES FROM \((MINVALUE|'?-?\d+'?)\) TO \('?(\d+)'?\)")
NAME = re.compile(r"audit_from_\d{1,18}")
LIKE_AUDIT = "(LIKE audit INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)"
REFUSES = (
    "BEFORE UPDATE OR DELETE OR TRUNCATE ON {name} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_1()"
)
ABOUT = """
SELECT count(*) AS leaves, min(p.created_at) AS oldest, max(p.created_at) AS newest,
    count(*) FILTER (WHERE leaf.position IS NULL OR leaf.position >= :signed) AS unsigned
FROM {name} p LEFT JOIN log_leaf leaf ON leaf.audit_id = p.id
"""
LOCK_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Part:
    """Leaves with ids from the first to before `end`, in the table of that name."""

    name: str
    end: int


@dataclass(frozen=True, slots=True)
class About:
    """What a part holds: how many leaves, of which times, and how many of them are not covered by a checkpoint."""

    leaves: int
    oldest: datetime | None
    newest: datetime | None
    unsigned: int


def listed(reading: Reading) -> list[Part]:
    """Parts with bounds, in their order; the one for what overtakes them is left out."""
    found = []
    for name, bounds in reading.execute(LISTED):
        limits = RANGE.fullmatch(bounds)
        if limits is not None:
            found.append(Part(name, int(limits[2])))
    return sorted(found, key=lambda part: part.end)


def last_id(reading: Reading) -> int:
    """The newest id that was given to a leaf, 0 before the first; it need not be committed yet."""
    row = reading.execute(text("SELECT last_value, is_called FROM audit_id_seq")).one()
    return int(row.last_value) if row.is_called else 0


def any_beyond(reading: Reading) -> int:
    """The largest id among leaves that overtook the parts; 0 when there are none."""
    return int(reading.execute(text("SELECT coalesce(max(id), 0) FROM audit_beyond")).scalar_one())


def limit_wait(session: Session) -> None:
    """Whoever waits for a table's lock holds up all that come after: not for longer than this."""
    session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))


def make(session: Session, first: int, end: int) -> Part:
    """A part for ids from `first` to before `end`. Inserts go on meanwhile."""
    part = Part(_checked(f"audit_from_{first}"), end)
    session.execute(text(f"CREATE TABLE {part.name} {LIKE_AUDIT}"))
    session.execute(text(f"CREATE TRIGGER audit_is_append_only {REFUSES.format(name=part.name)}"))
    session.execute(
        text(f"ALTER TABLE audit ATTACH PARTITION {part.name} FOR VALUES FROM ({int(first)}) TO ({int(end)})")
    )
    return part


def about(reading: Reading, part: Part, signed: int) -> About:
    """What a part holds, where `signed` leaves of the log are covered by a checkpoint. Reads all of it."""
    row = reading.execute(text(ABOUT.format(name=_checked(part.name))), {"signed": signed}).one()
    return About(row.leaves, row.oldest, row.newest, row.unsigned)


def hold(session: Session, part: Part) -> bool:
    """Lock the trail, and look whether a leaf of this part waits for a number. Nobody reads or writes the trail from
    here on, until the transaction ends."""
    session.execute(text("LOCK TABLE audit IN ACCESS EXCLUSIVE MODE"))
    waits = text("SELECT EXISTS (SELECT FROM audit_pending WHERE audit_id < :end)")
    return bool(session.execute(waits, {"end": part.end}).scalar_one())


def drop(session: Session, part: Part) -> None:
    """Drop a part and its leaves."""
    session.execute(text(f"DROP TABLE {_checked(part.name)}"))


def _checked(name: str) -> str:
    """A name of ours: names can not be parameters."""
    if not NAME.fullmatch(name):
        raise ValueError("not the name of a part")
    return name
