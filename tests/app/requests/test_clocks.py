"""Due dates as calendar rules, and clocks that stand, run on and are put forward: examples, and properties."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.requests import clocks
from app.requests.clocks import Clock, NoExtension, Terms
from app.tables import Regulation, RequestDomain

R = Regulation
TERMS = Terms(copyright_due_days=10, due_days=30)
DAY = timedelta(days=1)

START = datetime(1990, 1, 1, tzinfo=UTC)
moments = st.timedeltas(timedelta(0), timedelta(days=36_500)).map(lambda since: START + since)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
spans = st.timedeltas(timedelta(0), timedelta(days=200))
regulations = st.sampled_from(list(R))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("regulation", "received", "due", "extended"),
    [
        (R.GDPR, "2026-01-15T09:30:00Z", "2026-02-15T09:30:00Z", "2026-04-15T09:30:00Z"),
        (R.GDPR, "2026-01-31T23:59:59Z", "2026-02-28T23:59:59Z", "2026-04-30T23:59:59Z"),
        (R.GDPR, "2024-01-31T00:00:00Z", "2024-02-29T00:00:00Z", "2024-04-30T00:00:00Z"),
        (R.GDPR, "2026-11-30T12:00:00Z", "2026-12-30T12:00:00Z", "2027-02-28T12:00:00Z"),
        (R.GDPR, "2026-12-31T12:00:00Z", "2027-01-31T12:00:00Z", "2027-03-31T12:00:00Z"),
        # Still the 31st in Auckland, but already counted from the 30th in UTC.
        (R.GDPR, "2026-01-31T08:00:00+13:00", "2026-02-28T19:00:00Z", "2026-04-30T19:00:00Z"),
        (R.GDPR, "2026-04-01T01:00:00+02:00", "2026-04-30T23:00:00Z", "2026-06-30T23:00:00Z"),
        (R.CCPA, "2026-01-15T09:30:00Z", "2026-03-01T09:30:00Z", "2026-04-15T09:30:00Z"),
        (R.COPYRIGHT, "2026-01-15T09:30:00Z", "2026-01-25T09:30:00Z", None),
        (R.NONE, "2026-01-15T09:30:00Z", "2026-02-14T09:30:00Z", None),
    ],
)
def test_each_regulation_counts_as_it_says(
    regulation: R, received: str, due: str, extended: str | None
) -> None:
    clock = clocks.started(regulation, at(received), TERMS)
    assert clock == Clock(at(received), at(due))
    if extended is None:
        assert clocks.no_extension(clock, regulation, at(received)) is NoExtension.NOT_FORESEEN
    else:
        assert clocks.extend(clock, regulation, at(received)) == Clock(at(received), at(extended), at(due))


@given(moments, st.integers(0, 40), zones)
def test_a_month_later_is_the_same_day_or_the_last_one_wherever_the_clock_hangs(moment, months, zone) -> None:
    later = clocks.add_months(moment.astimezone(zone), months)
    assert later == clocks.add_months(moment, months)
    assert (later.year * 12 + later.month) - (moment.year * 12 + moment.month) == months
    assert later.timetz() == moment.timetz()
    assert later.day == min(moment.day, monthrange(later.year, later.month)[1])


@given(moments, moments, regulations)
def test_who_comes_later_is_never_due_earlier(one, other, regulation) -> None:
    first, second = sorted((one, other))
    assert clocks.started(regulation, first, TERMS).due_at <= clocks.started(regulation, second, TERMS).due_at
    assert clocks.started(regulation, first, TERMS).due_at > first


@given(moments, regulations, spans, spans, spans)
def test_a_clock_loses_nothing_by_standing(received, regulation, before, stood, after) -> None:
    clock = clocks.started(regulation, received, TERMS)
    held = clocks.pause(clock, received + before)
    again = clocks.resume(held, received + before + stood)
    end = received + before + stood + after
    assert again.due_at - clock.due_at == stood
    assert clocks.days_left(held, end) == clocks.days_left(clock, received + before)
    assert clocks.days_left(again, end) == clocks.days_left(clock, end - stood)
    assert not clocks.overdue(held, end)
    assert clocks.pause(held, end) == held
    assert clocks.resume(clock, end) == clock


def test_a_clock_that_was_put_back_meanwhile_takes_nothing_away() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    held = Clock(now, now + DAY, held_since=now)
    assert clocks.resume(held, now - DAY) == Clock(now, now + DAY)


@given(moments, st.sampled_from([R.GDPR, R.CCPA]), st.lists(st.tuples(spans, spans), max_size=3), spans, spans)
def test_an_extension_and_holds_may_come_in_any_order(received, regulation, holds, first, second) -> None:
    """What a clock stood is added whether it stood before or after it was put forward."""
    clock = clocks.started(regulation, received, TERMS)
    ahead = clocks.extend(clock, regulation, received)
    now = received
    for runs, stands in holds:
        now += runs
        clock, ahead = clocks.pause(clock, now), clocks.pause(ahead, now)
        now += stands
        clock, ahead = clocks.resume(clock, now), clocks.resume(ahead, now)
    assume(clocks.no_extension(clock, regulation, now) is None)
    assert clocks.extend(clock, regulation, now) == ahead
    assert ahead.first_due_at == clock.due_at


@given(moments, regulations, spans, st.one_of(st.none(), spans), st.booleans(), st.booleans())
def test_a_clock_is_put_forward_once_in_its_first_period_and_where_foreseen(
    received, regulation, elapsed, held_after, extended, done
) -> None:
    clock = clocks.started(regulation, received, TERMS)
    now = received + elapsed
    if extended and regulation in (R.GDPR, R.CCPA):
        clock = clocks.extend(clock, regulation, received)
    if held_after is not None and held_after <= elapsed:
        clock = clocks.pause(clock, received + held_after)
    if done:
        clock = Clock(clock.received_at, clock.due_at, clock.first_due_at, clock.held_since, completed_at=now)
    reading = clock.held_since or now
    allowed = (
        not done and regulation in (R.GDPR, R.CCPA) and clock.first_due_at is None and reading <= clock.due_at
    )
    assert (clocks.no_extension(clock, regulation, now) is None) == allowed
    if allowed:
        later = clocks.extend(clock, regulation, now)
        assert later.first_due_at == clock.due_at < later.due_at
        assert later.held_since == clock.held_since
    else:
        with pytest.raises(ValueError, match=r"done|twice|foreseen|late"):
            clocks.extend(clock, regulation, now)


@given(moments, regulations, st.timedeltas(-400 * DAY, 400 * DAY), st.integers(0, 366))
def test_days_left_and_what_is_due_tell_the_same(received, regulation, elapsed, days) -> None:
    clock, now = clocks.started(regulation, received, TERMS), received + elapsed
    left = clocks.days_left(clock, now)
    assert left is not None
    assert left * DAY <= clock.due_at - now < (left + 1) * DAY
    assert clocks.overdue(clock, now) == (left < 0)
    assert clocks.due_before(clock, now + days * DAY) == (left < days)
    finished = Clock(clock.received_at, clock.due_at, completed_at=now)
    assert clocks.days_left(finished, now) is None
    assert not clocks.due_before(finished, now + days * DAY)


def test_every_domain_has_a_regulation_that_sets_its_clock() -> None:
    assert set(clocks.REGULATIONS) == set(RequestDomain)
    assert clocks.default_regulation(RequestDomain.PRIVACY) is R.GDPR
    assert clocks.default_regulation(RequestDomain.COPYRIGHT) is R.COPYRIGHT
    assert {regulation for known in clocks.REGULATIONS.values() for regulation in known} == set(R)
