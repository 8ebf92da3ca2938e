"""Grouping and the merging of settings, as properties."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.batches.grouping import PendingRequest, closing_reason, group, merge_settings, urgency
from app.tables import BatchReason, RequestKind
from grail.config import UnlearnConfig

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Bounds:
    max_requests_per_batch: int = 4
    window_seconds: float = 300.0
    due_margin_days: float = 7.0


def pending(
    age_seconds: float = 0.0,
    due_in_days: float = 30.0,
    number: int = 1,
    kind: RequestKind = RequestKind.ERASE,
    group: int | None = None,
) -> PendingRequest:
    return PendingRequest(
        uuid.UUID(int=number),
        NOW - timedelta(seconds=age_seconds),
        NOW + timedelta(days=due_in_days),
        kind,
        None if group is None else uuid.UUID(int=group),
    )


requests = st.lists(
    st.builds(
        pending,
        age_seconds=st.floats(0, 1000),
        due_in_days=st.floats(-5, 40),
        number=st.integers(1, 10**6),
        kind=st.sampled_from([*[RequestKind.ERASE] * 3, RequestKind.REINSTATE]),
        group=st.sampled_from([None, None, None, 1, 2]),
    ),
    max_size=12,
    unique_by=lambda request: request.id,
)
expectations = st.sampled_from([timedelta(0), timedelta(days=5), timedelta(days=60)])
policies = st.builds(Bounds, st.integers(1, 6), st.sampled_from([0.0, 300.0, 900.0]), st.sampled_from([0.0, 7.0, 31.0]))


def sorts_of(rows: Sequence[PendingRequest]) -> list[list[PendingRequest]]:
    """`rows` in those that may share a batch."""
    keys = {(row.kind, row.group_id) for row in rows}
    return [[row for row in rows if (row.kind, row.group_id) == key] for key in keys]


def closes(alike: Sequence[PendingRequest], policy: Bounds, expected: timedelta) -> set[BatchReason]:
    """Every reason to close a batch of these, said the slow way."""
    full = len(alike) >= policy.max_requests_per_batch or any(row.group_id for row in alike)
    due = any(NOW + timedelta(days=policy.due_margin_days) + expected >= row.due_at for row in alike)
    old = any((NOW - row.received_at).total_seconds() >= policy.window_seconds for row in alike)
    found = {BatchReason.SIZE: full, BatchReason.DUE: due, BatchReason.AGE: old}
    return {reason for reason, holds in found.items() if holds}


@given(requests, policies, expectations)
def test_a_batch_is_of_one_sort_no_larger_than_allowed_and_invents_or_repeats_no_request(rows, policy, expected):
    plan = group(rows, policy, NOW, expected=expected)
    if plan is not None:
        (alike,) = [alike for alike in sorts_of(rows) if plan.request_ids[0] in {row.id for row in alike}]
        assert 1 <= len(plan.request_ids) == min(len(alike), policy.max_requests_per_batch)
        assert len(set(plan.request_ids)) == len(plan.request_ids)
        assert set(plan.request_ids) <= {row.id for row in alike}


@given(requests, policies, expectations)
def test_nobody_of_its_sort_left_out_is_more_urgent_than_somebody_taken(rows, policy, expected):
    plan = group(rows, policy, NOW, expected=expected)
    if plan is not None:
        (alike,) = [alike for alike in sorts_of(rows) if plan.request_ids[0] in {row.id for row in alike}]
        taken = [row for row in alike if row.id in plan.request_ids]
        left = [row for row in alike if row.id not in plan.request_ids]
        assert not left or max(map(urgency, taken)) < min(map(urgency, left))


@given(requests, policies, expectations)
def test_a_batch_closes_exactly_when_one_sort_is_full_or_due_or_old_and_the_most_urgent_such_goes(
    rows, policy, expected
):
    plan = group(rows, policy, NOW, expected=expected)
    closing = [alike for alike in sorts_of(rows) if closes(alike, policy, expected)]
    assert (plan is not None) == bool(closing)
    if plan is not None:
        first = min(closing, key=lambda alike: min(map(urgency, alike)))
        assert plan.request_ids[0] == min(first, key=urgency).id
        assert plan.reason in closes(first, policy, expected)


@given(requests, policies, expectations)
def test_whose_clock_needs_it_is_taken_now(rows, policy, expected):
    """The most urgent of all is never left behind once it is due: no other sort goes before it."""
    plan = group(rows, policy, NOW, expected=expected)
    if rows and min(rows, key=urgency).due_at - NOW <= timedelta(days=policy.due_margin_days) + expected:
        assert plan is not None
        assert plan.request_ids[0] == min(rows, key=urgency).id


@given(requests, policies, expectations)
def test_what_is_left_is_batched_in_turn_until_nothing_closes(rows, policy, expected):
    """Every request that is in a sort that closes comes into exactly one batch."""
    left, batches = list(rows), []
    while plan := group(left, policy, NOW, expected=expected, closed_by=BatchReason.MANUAL):
        batches.append(plan.request_ids)
        left = [row for row in left if row.id not in plan.request_ids]
    assert sorted(request for batch in batches for request in batch) == sorted(row.id for row in rows)


@given(requests, policies, st.integers(0, 2**31))
def test_the_plan_does_not_depend_on_the_order_of_rows(rows, policy, seed):
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    assert group(shuffled, policy, NOW) == group(rows, policy, NOW)


@given(requests, requests, policies)
def test_more_requests_never_keep_a_batch_open(rows, more, policy):
    known = {row.id for row in rows}
    both = [*rows, *(row for row in more if row.id not in known)]
    assert group(rows, policy, NOW) is None or group(both, policy, NOW) is not None


@given(requests, policies, st.floats(0, 40 * 86400))
def test_what_closes_now_also_closes_later(rows, policy, seconds):
    later = NOW + timedelta(seconds=seconds)
    assert group(rows, policy, NOW) is None or group(rows, policy, later) is not None


@given(requests, policies)
def test_a_person_closes_any_batch_that_has_members(rows, policy):
    plan = group(rows, policy, NOW, closed_by=BatchReason.MANUAL)
    assert (plan is None) == (not rows)
    assert plan is None or plan.reason is BatchReason.MANUAL


def test_the_edges_of_each_bound_close():
    policy = Bounds()
    assert closing_reason([pending()], policy, NOW) is None
    assert closing_reason([pending(age_seconds=299.9)], policy, NOW) is None
    assert closing_reason([pending(age_seconds=300)], policy, NOW) is BatchReason.AGE
    assert closing_reason([pending(due_in_days=7.01)], policy, NOW) is None
    assert closing_reason([pending(due_in_days=7)], policy, NOW) is BatchReason.DUE
    assert closing_reason([pending(number=n) for n in range(1, 5)], policy, NOW) is BatchReason.SIZE
    assert closing_reason([pending(group=1)], policy, NOW) is BatchReason.SIZE
    assert closing_reason([pending(due_in_days=9.1)], policy, NOW, timedelta(days=2)) is None
    assert closing_reason([pending(due_in_days=9)], policy, NOW, timedelta(days=2)) is BatchReason.DUE


changes = st.dictionaries(
    st.sampled_from(["steps", "learning_rate", "retain_weight", "seed", "unknown"]), st.integers(1, 500), max_size=4
)


@given(st.lists(changes, max_size=4), st.integers(0, 100))
def test_merged_settings_do_not_depend_on_the_order_of_members(overrides, seed):
    base = UnlearnConfig().as_dict()
    shuffled = list(overrides)
    random.Random(seed).shuffle(shuffled)
    merged = merge_settings(base, overrides)
    assert merged == merge_settings(base, shuffled)
    assert merged.keys() == base.keys()


def test_each_setting_takes_the_strongest_change():
    base = UnlearnConfig(steps=100, learning_rate=2e-3, retain_weight=1.0, seed=7).as_dict()
    merged = merge_settings(
        base, [{"steps": 150, "seed": 8}, {"steps": 225, "learning_rate": 1e-3, "seed": 9}, {"retain_weight": 2.0}, {}]
    )
    assert (merged["steps"], merged["learning_rate"], merged["retain_weight"], merged["seed"]) == (225, 1e-3, 2.0, 9)
    assert merge_settings(base, [{"retain_weight": 0.0}, {"retain_weight": 4.0}])["retain_weight"] == 0.0
    assert merge_settings(base, [{"objective": "ascent"}])["objective"] == "ascent"
    assert merge_settings(base, [base]) == base
