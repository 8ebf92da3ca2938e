"""When a request is due, and how its clock stands still and is put forward. Pure: moments in, moments out.

A due date is a calendar rule counted in UTC from the moment of receipt, and keeps its time of day: never later than the
law's own end, which is that of the whole day, and nothing is added for weekends and holidays.

| regulation | first period | extended to | source |
|---|---|---|---|
| gdpr | one calendar month | three | GDPR Art. 12(3): by two further months, the subject told within the first |
| ccpa | 45 days | 90 days | Cal. Civ. Code 1798.130(a)(2)(A): once by 45 further days, told within the first 45 |
| copyright | days of the served model's policy | never | |
| none | GRAIL_REQUEST_DUE_DAYS | never | |

A month ends on the same day of the next one, or on its last where it is shorter (31 January: 28 or 29 February), and
three months are counted from the receipt, not from that shortened end. While a request is on hold its clock stands; the
time that it stood is added to its due dates.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from app.tables import Regulation, Request, RequestDomain

REGULATIONS: dict[RequestDomain, tuple[Regulation, ...]] = {
    RequestDomain.PRIVACY: (Regulation.GDPR, Regulation.CCPA, Regulation.NONE),
    RequestDomain.COPYRIGHT: (Regulation.COPYRIGHT, Regulation.NONE),
}
"""Which regulations set the clock of a domain's requests; the first where none is named."""
GDPR_MONTHS, GDPR_MONTHS_EXTENDED = 1, 3
CCPA_DAYS, CCPA_DAYS_EXTENDED = 45, 90
OLDEST_RECEIPT = timedelta(days=3653)
"""How long ago a request may have been received: ten years."""
DAY = timedelta(days=1)


class NoExtension(StrEnum):
    """Why a clock can not be put forward."""

    DONE = "done"
    TWICE = "twice"
    NOT_FORESEEN = "not_foreseen"  # by its regulation
    TOO_LATE = "too_late"  # the first period is over


@dataclass(frozen=True, slots=True)
class Terms:
    """Periods that no law sets, in days."""

    copyright_due_days: int
    due_days: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A request's clock: it stands since `held_since`, and for good since `completed_at`.

    `first_due_at` is the due date before it was extended, None unless it was.
    """

    received_at: datetime
    due_at: datetime
    first_due_at: datetime | None = None
    held_since: datetime | None = None
    completed_at: datetime | None = None


def clock_of(request: Request | Row[Any]) -> Clock:
    """The clock in a request's row."""
    return Clock(
        request.received_at, request.due_at, request.first_due_at, request.held_since, request.completed_at
    )


def default_regulation(domain: RequestDomain) -> Regulation:
    """What sets the due date of a domain's requests where the caller names nothing."""
    return REGULATIONS[domain][0]


def started(regulation: Regulation, received_at: datetime, terms: Terms) -> Clock:
    """The clock of a request received then."""
    match regulation:
        case Regulation.GDPR:
            due = add_months(received_at, GDPR_MONTHS)
        case Regulation.CCPA:
            due = received_at + CCPA_DAYS * DAY
        case Regulation.COPYRIGHT:
            due = received_at + terms.copyright_due_days * DAY
        case Regulation.NONE:
            due = received_at + terms.due_days * DAY
    return Clock(received_at, due)


def add_months(moment: datetime, months: int) -> datetime:
    """The same day and time in UTC, `months` later; the last day of that month where it has no such day."""
    moment = moment.astimezone(UTC)
    years, month = divmod(moment.month - 1 + months, 12)
    year, month = moment.year + years, month + 1
    return moment.replace(year=year, month=month, day=min(moment.day, monthrange(year, month)[1]))


def pause(clock: Clock, now: datetime) -> Clock:
    """The clock stands from now on; one that stands already goes on standing."""
    return clock if clock.held_since is not None else replace(clock, held_since=now)


def resume(clock: Clock, now: datetime) -> Clock:
    """The clock runs on; both due dates move by the time that it stood (none, where a clock was put back meanwhile)."""
    if clock.held_since is None:
        return clock
    stood = max(now - clock.held_since, timedelta(0))
    first = None if clock.first_due_at is None else clock.first_due_at + stood
    return replace(clock, due_at=clock.due_at + stood, first_due_at=first, held_since=None)


def no_extension(clock: Clock, regulation: Regulation, now: datetime) -> NoExtension | None:
    """Why the clock can not be put forward now, or None where it can. On hold it is as late as it was at the hold."""
    if clock.completed_at is not None:
        return NoExtension.DONE
    if regulation not in (Regulation.GDPR, Regulation.CCPA):
        return NoExtension.NOT_FORESEEN
    if clock.first_due_at is not None:
        return NoExtension.TWICE
    return NoExtension.TOO_LATE if _reading(clock, now) > clock.due_at else None


def extend(clock: Clock, regulation: Regulation, now: datetime) -> Clock:
    """The clock put forward; what it has stood so far still counts. Raises ValueError where `no_extension` says why."""
    if why := no_extension(clock, regulation, now):
        raise ValueError(why)
    if regulation is Regulation.GDPR:
        first, last = (add_months(clock.received_at, months) for months in (GDPR_MONTHS, GDPR_MONTHS_EXTENDED))
    else:
        first, last = (clock.received_at + days * DAY for days in (CCPA_DAYS, CCPA_DAYS_EXTENDED))
    return replace(clock, due_at=clock.due_at + (last - first), first_due_at=clock.due_at)


def days_left(clock: Clock, now: datetime) -> int | None:
    """Whole days until the due date, negative once it has passed; as it stood at the hold, None when done."""
    return None if clock.completed_at is not None else (clock.due_at - _reading(clock, now)) // DAY


def overdue(clock: Clock, now: datetime) -> bool:
    """Whether the clock runs and its due date has passed."""
    return due_before(clock, now)


def due_before(clock: Clock, moment: datetime) -> bool:
    """Whether the clock runs and would be past its due date at `moment`: overdue now, or due soon."""
    return clock.completed_at is None and clock.held_since is None and clock.due_at < moment


def _reading(clock: Clock, now: datetime) -> datetime:
    """The moment that the clock shows."""
    return now if clock.held_since is None else clock.held_since
