"""Failures, breaker and turns as pure rules: innocents are served, whoever is at fault ends with a person, and both
within a bound."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.jobs import failures
from app.jobs.failures import (
    MOST_PUT_OFFS,
    Failure,
    FailureKind,
    Fate,
    Mark,
    Situation,
    decide,
    most_jobs,
    pause,
)
from app.jobs.turns import Candidate, days_left, in_turn, waiting_for
from app.served_models.breaker import MOST_DOUBLINGS, BreakerState, Limits, after_failure, cooled_at, state_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = Limits(3, 300.0)
KINDS = st.sampled_from(list(FailureKind))
IDS = st.lists(st.uuids(), unique=True, max_size=12).map(tuple)


def failure(kind: FailureKind, *at_fault: uuid.UUID, changes: dict[str, int] | None = None) -> Failure:
    return Failure(kind, {"type": "made-up"}, changes, frozenset(at_fault))


# Every rule


@given(kind=KINDS, members=IDS, put_off=st.integers(0, 30), before=st.booleans(), larger=st.booleans(), data=st.data())
def test_every_member_has_exactly_one_fate_and_groups_are_of_those_that_go_on(
    kind: FailureKind, members: tuple[uuid.UUID, ...], put_off: int, before: bool, larger: bool, data: st.DataObject
) -> None:
    at_fault = data.draw(st.sets(st.sampled_from(members))) if members else set()
    found = decide(failure(kind, *at_fault), Situation(members, put_off, before, larger))
    if found.put_off:
        assert kind in {FailureKind.TRANSIENT, FailureKind.MEMORY}
        assert put_off < MOST_PUT_OFFS
        assert (found.fates, found.groups, found.mark) == ({}, (), Mark.NONE)
        return
    assert set(found.fates) == set(members)
    grouped = [member for group in found.groups for member in group]
    assert len(grouped) == len(set(grouped))
    assert all(found.fates[member] is not Fate.PERSON for member in grouped)
    assert all(found.groups)


@given(put_off=st.integers(0, 100), members=IDS)
def test_what_is_away_is_waited_for_so_often_and_then_a_person_is_asked_without_a_try_lost(
    put_off: int, members: tuple[uuid.UUID, ...]
) -> None:
    found = decide(failure(FailureKind.TRANSIENT), Situation(members, put_off))
    assert found.put_off is (put_off < MOST_PUT_OFFS)
    if not found.put_off:
        assert set(found.fates.values()) <= {Fate.PERSON}
        assert (found.mark, found.counted) == (Mark.COUNT, False)


@given(put_off=st.integers(0, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_pauses_double_are_spread_and_stay_bounded(put_off: int, chance: float) -> None:
    seconds = pause(put_off, chance).total_seconds()
    whole = min(failures.FIRST_PAUSE_SECONDS * 2 ** min(put_off, 20), failures.LONGEST_PAUSE_SECONDS)
    assert whole / 2 <= seconds <= whole


def test_all_the_pauses_together_are_hours_not_days() -> None:
    total = sum((pause(number, 0.5) for number in range(MOST_PUT_OFFS)), timedelta())
    assert timedelta(hours=1) < total < timedelta(hours=3)


@given(members=IDS.filter(bool), data=st.data())
def test_a_named_request_is_set_aside_and_the_others_lose_nothing(
    members: tuple[uuid.UUID, ...], data: st.DataObject
) -> None:
    at_fault = data.draw(st.sets(st.sampled_from(members), min_size=1))
    found = decide(failure(FailureKind.DATA, *at_fault), Situation(members))
    assert {m for m, fate in found.fates.items() if fate is Fate.PERSON} == at_fault
    assert {fate for m, fate in found.fates.items() if m not in at_fault} <= {Fate.QUEUE}
    assert found.mark is Mark.NONE


def test_settings_that_can_change_by_themselves_do_and_others_are_for_a_person() -> None:
    one = (uuid.uuid4(),)
    assert decide(failure(FailureKind.SETTINGS, changes={"seed": 1}), Situation(one)).fates == {one[0]: Fate.TRY}
    found = decide(failure(FailureKind.SETTINGS), Situation(one))
    assert (found.fates, found.mark) == ({one[0]: Fate.PERSON}, Mark.COUNT)


def test_what_only_an_operator_can_mend_keeps_requests_queued_and_opens_the_breaker() -> None:
    two = (uuid.uuid4(), uuid.uuid4())
    found = decide(failure(FailureKind.OPERATOR), Situation(two))
    assert (set(found.fates.values()), found.mark) == ({Fate.QUEUE}, Mark.OPEN)


def test_what_does_not_fit_goes_to_a_larger_worker_else_in_halves_else_to_a_person() -> None:
    two = (uuid.uuid4(), uuid.uuid4())
    lack = failure(FailureKind.MEMORY)
    assert decide(lack, Situation(two, larger_worker=True)).put_off
    assert decide(lack, Situation(two)).groups == ((two[0],), (two[1],))
    assert decide(lack, Situation(two[:1])).fates == {two[0]: Fate.PERSON}


# Halving


def simulate(members: tuple[uuid.UUID, ...], poison: set[uuid.UUID], kind: FailureKind) -> tuple[Counter[str], int]:
    """Batch after batch by the rules alone: where each request ended, and how many jobs that took."""
    batches, ended, jobs = [(members, False)] if members else [], dict[uuid.UUID, str](), 0
    while batches:
        batch, before = batches.pop(0)
        jobs += 1
        assert jobs <= most_jobs(len(members), len(poison)), "no end in sight"
        if not poison.intersection(batch):
            ended |= dict.fromkeys(batch, "published")
            continue
        found = decide(failure(kind), Situation(batch, failed_before=before))
        for member, fate in found.fates.items():
            assert fate is not Fate.TRY or member in poison, "an innocent request loses no try"
            if fate is Fate.PERSON:
                ended[member] = "person"
        batches += [(group, True) for group in found.groups]
    assert set(ended) == set(members)
    assert {member for member, end in ended.items() if end == "person"} == poison
    return Counter(ended.values()), jobs


@given(
    size=st.integers(1, 64),
    picked=st.sets(st.integers(0, 63), max_size=8),
    kind=st.sampled_from([FailureKind.UNKNOWN, FailureKind.MEMORY]),
)
def test_halving_finds_every_request_at_fault_and_serves_every_other_in_a_bounded_number_of_jobs(
    size: int, picked: set[int], kind: FailureKind
) -> None:
    members = tuple(uuid.UUID(int=number) for number in range(size))
    poison = {members[number] for number in picked if number < size}
    found, jobs = simulate(members, poison, kind)
    assert found == Counter({"published": size - len(poison), "person": len(poison)})
    assert jobs <= most_jobs(size, len(poison))


def test_one_of_a_thousand_is_found_in_a_few_jobs() -> None:
    members = tuple(uuid.UUID(int=number) for number in range(1000))
    _, jobs = simulate(members, {members[617]}, FailureKind.UNKNOWN)
    assert jobs == 21  # ten depths, two halves each


def test_a_single_request_is_tried_once_more_before_a_person_is_asked() -> None:
    one = (uuid.uuid4(),)
    unknown = failure(FailureKind.UNKNOWN)
    first = decide(unknown, Situation(one))
    assert (first.fates, first.groups, first.mark) == ({one[0]: Fate.TRY}, (one,), Mark.NONE)
    second = decide(unknown, Situation(one, failed_before=True))
    assert (second.fates, second.mark) == ({one[0]: Fate.PERSON}, Mark.COUNT)


# The breaker


def test_it_opens_after_so_many_failures_in_a_row_and_not_before() -> None:
    failed, opened = 0, None
    for number in range(1, LIMITS.failures + 1):
        failed, opened = after_failure(failed, opened, NOW, LIMITS, at_once=False)
        assert (opened is not None) is (number == LIMITS.failures)
    assert state_of(failed, opened, NOW, LIMITS) is BreakerState.OPEN


@given(before=st.integers(0, 20), seconds=st.floats(0, 1e6))
def test_one_that_only_an_operator_can_mend_opens_it_at_once(before: int, seconds: float) -> None:
    failed, opened = after_failure(before, None, NOW, LIMITS, at_once=True)
    assert opened == NOW
    at = NOW + timedelta(seconds=seconds)
    expected = BreakerState.HALF_OPEN if at >= cooled_at(failed, NOW, LIMITS) else BreakerState.OPEN
    assert state_of(failed, opened, at, LIMITS) is expected


def test_each_trial_that_fails_doubles_the_cool_down_up_to_a_bound() -> None:
    failed, opened = after_failure(0, None, NOW, LIMITS, at_once=True)
    waits = []
    for _ in range(12):
        assert opened is not None
        ready = cooled_at(failed, opened, LIMITS)
        waits.append((ready - opened).total_seconds())
        assert state_of(failed, opened, ready, LIMITS) is BreakerState.HALF_OPEN
        failed, opened = after_failure(failed, opened, ready, LIMITS, at_once=False)
        assert opened == ready, "open again from the trial on"
    assert waits == [LIMITS.seconds * 2 ** min(number, MOST_DOUBLINGS) for number in range(12)]


# Turns


MOMENTS = st.datetimes(datetime(2026, 2, 1), datetime(2026, 5, 1), timezones=st.just(UTC))  # noqa: DTZ001  bounds are naive
CANDIDATES = st.lists(
    st.builds(Candidate, st.uuids(), st.none() | MOMENTS, st.none() | MOMENTS, st.none() | st.integers(1, 100)),
    max_size=12, unique_by=lambda job: job.job_id,
)  # fmt: skip


@given(candidates=CANDIDATES, memory=st.none() | st.integers(1, 100))
def test_a_worker_takes_what_fits_it_the_most_urgent_first(candidates: list[Candidate], memory: int | None) -> None:
    order = in_turn(candidates, NOW, memory)
    known = {job.job_id: job for job in candidates}
    fitting = {j.job_id for j in candidates if memory is None or j.needed_bytes is None or j.needed_bytes <= memory}
    assert set(order) == fitting and len(order) == len(fitting)
    days = [days_left(known[job_id].due_at, NOW) for job_id in order]
    assert days == sorted(days)
    assert order == in_turn(reversed(candidates), NOW, memory)


@given(models=st.integers(2, 9), workers=st.integers(1, 4), spread=st.integers(0, 22))
def test_with_more_models_than_workers_none_starves(models: int, workers: int, spread: int) -> None:
    """Every model always has a job that is due on the same day; whoever was served longest ago is next."""
    served: dict[int, datetime] = {}
    turns_of = Counter[int]()
    for tick in range(6 * models):
        now = NOW + timedelta(seconds=tick)
        due = NOW + timedelta(days=9, hours=1)
        waiting = [
            Candidate(uuid.UUID(int=model), due + timedelta(hours=(model * 7) % (spread + 1)), served.get(model))
            for model in range(models)
        ]
        for number, job_id in enumerate(in_turn(waiting, now, None)[:workers]):  # one worker after the other
            served[job_id.int] = now + timedelta(microseconds=number)
            turns_of[job_id.int] += 1
    assert set(turns_of) == set(range(models))
    assert max(turns_of.values()) - min(turns_of.values()) <= 1


@pytest.mark.parametrize(
    ("needed", "not_before", "workers", "open_", "said"),
    [
        (None, None, [16 * 10**9], False, None),
        (16 * 10**9, None, [16 * 10**9], False, None),
        (40 * 10**9, None, [16 * 10**9, 24 * 10**9], False, "a worker with 40 GB"),
        (16 * 10**9 + 1, None, [16 * 10**9], False, "a worker with 17 GB"),
        (None, None, [], False, "a gpu worker"),
        (None, NOW + timedelta(seconds=5), [1], False, "2026-03-01T12:00:05+00:00, when it is tried again"),
        (None, NOW, [1], False, None),
        (40 * 10**9, None, [], True, "the model's breaker to be closed"),
    ],
)
def test_what_a_queued_job_waits_for_is_said(
    needed: int | None, not_before: datetime | None, workers: list[int], open_: bool, said: str | None
) -> None:
    assert waiting_for(needed, not_before, workers, NOW, breaker_open=open_) == said


