"""Which pending requests make a batch now, and with which settings. Pure: rows, policy and time in, a plan out.

Order is by due date, then by age, then by id: the request whose clock runs out first is never left behind. Two sorts
never share a batch: requests to erase and requests to reinstate, and halves of a batch that failed (one `group_id`) and
anybody else.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from app.tables import BatchReason, RequestKind


class BatchPolicy(Protocol):
    """The part of a served model's policy that closes batches."""

    @property
    def max_requests_per_batch(self) -> int: ...

    @property
    def window_seconds(self) -> float: ...

    @property
    def due_margin_days(self) -> float: ...


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """What grouping needs to know of a request."""

    id: uuid.UUID
    received_at: datetime
    due_at: datetime
    kind: RequestKind = RequestKind.ERASE
    group_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The requests of a batch in order, and what closed it."""

    request_ids: tuple[uuid.UUID, ...]
    reason: BatchReason


IMMEDIATE = timedelta(0)
Sort = tuple[RequestKind, uuid.UUID | None]


def urgency(request: PendingRequest) -> tuple[datetime, datetime, uuid.UUID]:
    """Sort key: due first, then oldest, then id."""
    return request.due_at, request.received_at, request.id


def sort_of(request: PendingRequest) -> Sort:
    """What all members of a batch have in common."""
    return request.kind, request.group_id


def closing_reason(
    alike: Sequence[PendingRequest], policy: BatchPolicy, now: datetime, expected: timedelta = IMMEDIATE
) -> BatchReason | None:
    """Why a batch of these requests, all of one sort, closes now: it is full, a member is due, or one waited for the
    whole window.

    A group is full whatever its size, since nobody else may join it. A member is due once what is left until its due
    date is no more than the policy's margin and the time that a job is `expected` to take.
    """
    if len(alike) >= policy.max_requests_per_batch or any(request.group_id is not None for request in alike):
        return BatchReason.SIZE
    margin = timedelta(days=policy.due_margin_days) + expected
    if any(request.due_at - now <= margin for request in alike):
        return BatchReason.DUE
    if any(now - request.received_at >= timedelta(seconds=policy.window_seconds) for request in alike):
        return BatchReason.AGE
    return None


def group(
    pending: Sequence[PendingRequest],
    policy: BatchPolicy,
    now: datetime,
    *,
    closed_by: BatchReason | None = None,
    expected: timedelta = IMMEDIATE,
) -> BatchPlan | None:
    """The batch to make now, or None: of the sorts that close, the one with the most urgent request.

    `closed_by` closes it whatever the policy says (a person asked for it).
    """
    sorts: dict[Sort, list[PendingRequest]] = {}
    for request in sorted(pending, key=urgency):
        sorts.setdefault(sort_of(request), []).append(request)
    for alike in sorts.values():  # in the order of their most urgent requests
        reason = closed_by or closing_reason(alike, policy, now, expected)
        if reason is not None:
            chosen = alike[: policy.max_requests_per_batch]
            return BatchPlan(tuple(request.id for request in chosen), reason)
    return None


def merge_settings(base: Mapping[str, Any], overrides: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The policy's settings with what earlier tries changed: of each number the one furthest from the policy's.

    Furthest by ratio, so that halving a rate and doubling a weight count alike; ties take the larger. The seed is the
    largest asked for. Names that are no settings are left out.
    """
    merged = dict(base)
    for name, value in base.items():
        asked = [changes[name] for changes in overrides if name in changes and changes[name] != value]
        if not asked:
            continue
        merged[name] = max(asked) if name == "seed" else _furthest(value, asked)
    return merged


def _furthest(value: Any, asked: Sequence[Any]) -> Any:
    """Of the values asked for, the number furthest from `value`; of words the last."""
    if isinstance(value, str | bool):
        return asked[-1]
    return max(asked, key=lambda other: (_distance(value, other), other))


def _distance(before: float, after: float) -> float:
    """How far a setting moved, as |log ratio|; from or to 0 counts as the furthest."""
    return abs(math.log(after / before)) if before > 0 and after > 0 else math.inf
