"""The window against what it promises, and against a list of the moments of all calls that were let in."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from app.embedded.services import EmbeddedServices
from app.rates.quotas import Quota
from app.rates.window import SCRIPT, SLOTS, Taken, arguments, taken

SECONDS = 12
WINDOW, SLOT = SECONDS * 1000, SECONDS * 1000 // SLOTS
START = 1_800_000_000_000


class Window:
    """One caller, at moments of the test's choice; `let_in` is the oracle's memory."""

    def __init__(self, connection: redis.Redis, limit: int) -> None:
        self.quota = Quota("test", limit, SECONDS)
        self.connection, self.script = connection, connection.register_script(SCRIPT)
        self.key = f"test:{uuid.uuid4().hex}"
        self.let_in: list[int] = []

    def take(self, now: int, *, counts: bool = True) -> Taken:
        found = taken(self.script([self.key], arguments(self.quota, counts=counts, now_ms=now))[0])
        if found.allowed and counts:
            self.let_in.append(now)
        return found

    def within(self, milliseconds: int, now: int) -> int:
        """How many were let in less than so long ago."""
        return sum(now - moment < milliseconds for moment in self.let_in)


@pytest.fixture(scope="module")
def connection(services: EmbeddedServices) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(services.valkey.redis_url()) as opened:
        yield opened


GAPS = st.lists(
    st.one_of(st.just(0), st.integers(1, SLOT), st.integers(SLOT, WINDOW // 2), st.sampled_from([WINDOW, 3 * WINDOW])),
    min_size=1, max_size=40,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(limit=st.integers(1, 6), offset=st.integers(0, SLOT), gaps=GAPS)
def test_any_arrivals_are_let_in_as_promised(connection: redis.Redis, limit: int, offset: int, gaps: list[int]) -> None:
    """Never more than the limit in any window; none refused that a window longer by one slot has room for."""
    window, now = Window(connection, limit), START + offset
    for gap in gaps:
        now += gap
        strict, lenient = window.within(WINDOW, now), window.within(WINDOW + SLOT, now)
        found = window.take(now)
        if found.allowed:
            assert strict < limit
            assert limit - lenient - 1 <= found.remaining <= limit - strict - 1
        else:
            assert lenient >= limit and found.remaining == 0
    connection.delete(window.key)


@settings(max_examples=60, deadline=None)
@given(limit=st.integers(1, 4), offset=st.integers(0, SLOT), gaps=GAPS)
def test_after_the_seconds_it_names_there_is_room_and_not_before(
    connection: redis.Redis, limit: int, offset: int, gaps: list[int]
) -> None:
    window, now = Window(connection, limit), START + offset
    for gap in gaps:
        now += gap
        found = window.take(now)
        if not found.allowed:
            wait = round(found.seconds * 1000)
            assert 0 < wait <= WINDOW + SLOT
            assert not window.take(now + wait - 1, counts=False).allowed
            now += wait
            assert window.take(now).allowed
    connection.delete(window.key)


def test_a_burst_at_the_end_of_a_slot_does_not_double_the_limit(connection: redis.Redis) -> None:
    """What a counter of two buckets lets through: all at the end of one, and as many while its weight fades."""
    window = Window(connection, 10)
    moments = [START + WINDOW - 1] * 20 + list(range(START + WINDOW, START + 2 * WINDOW - 1, 100))
    assert sum(window.take(moment).allowed for moment in moments) == 10


def test_looking_counts_nothing_and_refusals_neither(connection: redis.Redis) -> None:
    window = Window(connection, 2)
    assert [window.take(START, counts=False).remaining for _ in range(3)] == [2, 2, 2]
    assert [window.take(START).allowed for _ in range(50)] == [True, True] + [False] * 48
    assert window.take(START + WINDOW + SLOT).allowed


def test_a_caller_costs_the_same_however_often_it_calls_and_is_forgotten(connection: redis.Redis) -> None:
    window = Window(connection, 10**6)
    for number in range(2000):
        window.take(START + number * 97)
    assert connection.hlen(window.key) <= SLOTS + 2
    left = connection.pttl(window.key)
    assert isinstance(left, int) and 0 < left <= WINDOW + 2 * SLOT


def test_a_clock_that_went_back_locks_nobody_out(connection: redis.Redis) -> None:
    window = Window(connection, 2)
    hour = 3600 * 1000
    assert [window.take(START + hour).allowed for _ in range(3)] == [True, True, False]
    assert window.take(START).allowed


def test_without_a_given_time_it_is_the_servers(connection: redis.Redis) -> None:
    quota, script, key = Quota("test", 1, 3600), connection.register_script(SCRIPT), f"test:{uuid.uuid4().hex}"
    assert [taken(script([key], arguments(quota, counts=True))[0]).allowed for _ in range(2)] == [True, False]
    seconds, _ = connection.time()
    (slot,) = connection.hkeys(key)
    assert abs(int(slot) - seconds // (3600 // SLOTS)) <= 1
    connection.delete(key)


@settings(max_examples=50, deadline=None)
@given(calls=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=20))
def test_calls_that_are_counted_together_are_counted_as_one_after_the_other(
    connection: redis.Redis, calls: list[tuple[int, bool]]
) -> None:
    """Of several callers, each with its own limit, the same caller several times among them."""
    alone = [Window(connection, limit) for limit in (1, 2, 3)]
    apart = [window.take(START, counts=counts) for window, counts in ((alone[who], counts) for who, counts in calls)]
    others = [Window(connection, limit) for limit in (1, 2, 3)]
    keys = [others[who].key for who, _ in calls]
    given_ = [arguments(others[who].quota, counts=counts, now_ms=START) for who, counts in calls]
    found = others[0].script(keys, [one for five in given_ for one in five])
    assert [taken(one) for one in found] == apart
