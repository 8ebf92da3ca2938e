"""What went wrong with a job, and what follows for its requests: one kind of failure, one rule. Pure.

A request never loses a try for what is not its fault. A batch in which somebody unknown is at fault is halved until
that one stands alone: with k such requests among n at most `most_jobs(n, k)` jobs are needed to serve all others.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any


class FailureKind(StrEnum):
    """Whose fault it is, and so what helps."""

    TRANSIENT = "transient"  # a server is away: waiting helps
    MEMORY = "memory"  # one example at a time does not fit: a larger device helps
    DATA = "data"  # requests that are named: the others go on without them
    SETTINGS = "settings"  # the policy's: other settings help
    OPERATOR = "operator"  # disk, files, environment: nothing goes on until somebody acts
    UNKNOWN = "unknown"  # anybody's: the batch is halved until the one at fault stands alone


class Fate(StrEnum):
    """What becomes of a request of a job that failed."""

    QUEUE = "queue"  # to the queue, no try used
    TRY = "try"  # a try is used: to the queue with changed settings, after the last one to a person
    PERSON = "person"  # to a person, at once


class Mark(StrEnum):
    """What the failure means for the served model's breaker."""

    NONE = "none"
    COUNT = "count"  # one more in a row
    OPEN = "open"


MOST_PUT_OFFS = 15
"""Times that a job waits for what is away before a person is asked: about two hours."""
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Failure:
    """`error` is stored and shown; `requests` are those at fault (kind `data`).

    `changes` are settings of the next try (kind `settings`); None: only a person can change what has to be changed.
    """

    kind: FailureKind
    error: dict[str, Any]
    changes: dict[str, Any] | None = None
    requests: frozenset[uuid.UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at besides the failure: the job's `members` in order, how often it was `put_off`, whether
    they `failed_before` (as part of a larger batch, or by killing worker after worker), and whether a worker with more
    memory than the one that failed was seen (`larger_worker`)."""

    members: tuple[uuid.UUID, ...]
    put_off: int = 0
    failed_before: bool = False
    larger_worker: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """With `put_off` the job is queued again as it is, and nothing else happens. Else it has failed: `fates` has one
    for each member; each of `groups` is batched apart from all others from now on; `counted` says whether requests
    that go to a person have used a try."""

    put_off: bool = False
    fates: Mapping[uuid.UUID, Fate] = field(default_factory=dict)
    groups: tuple[tuple[uuid.UUID, ...], ...] = ()
    mark: Mark = Mark.NONE
    counted: bool = True


def decide(failure: Failure, situation: Situation) -> Decision:
    """What follows from a failure."""
    return RULES[failure.kind](failure, situation)


def pause(put_off: int, chance: float) -> timedelta:
    """How long a job waits that was put off so many times before: doubling, bounded, and spread by `chance` in [0, 1)
    over the upper half, so that jobs that failed together do not come back together."""
    longest = min(FIRST_PAUSE_SECONDS * 2.0 ** min(put_off, 32), LONGEST_PAUSE_SECONDS)
    return timedelta(seconds=longest * (0.5 + chance / 2))


def most_jobs(members: int, at_fault: int) -> int:
    """A bound on the jobs that serve a batch of so many requests of which so many make any job fail: each of these
    spoils one job at each depth of the halving, and each spoilt one leaves two; a single request is tried once more."""
    if members <= 1:
        return 1 + at_fault
    return 1 + 2 * at_fault * math.ceil(math.log2(members))


def _transient(_: Failure, now: Situation) -> Decision:
    if now.put_off < MOST_PUT_OFFS:
        return Decision(put_off=True)
    return Decision(fates=dict.fromkeys(now.members, Fate.PERSON), mark=Mark.COUNT, counted=False)


def _memory(_: Failure, now: Situation) -> Decision:
    """A larger worker takes it up; without one a smaller batch may fit, and the request that never does is found."""
    if now.larger_worker and now.put_off < MOST_PUT_OFFS:
        return Decision(put_off=True)
    return _isolate(now.members) if len(now.members) > 1 else _to_a_person(now)


def _data(failure: Failure, now: Situation) -> Decision:
    """Those at fault go to a person. Where none of them is a member any more nobody is known to be at fault."""
    if not failure.requests.intersection(now.members):
        return _unknown(failure, now)
    return Decision(fates={m: Fate.PERSON if m in failure.requests else Fate.QUEUE for m in now.members})


def _settings(failure: Failure, now: Situation) -> Decision:
    if failure.changes is None:
        return _to_a_person(now)
    return Decision(fates=dict.fromkeys(now.members, Fate.TRY))


def _operator(_: Failure, now: Situation) -> Decision:
    return Decision(fates=dict.fromkeys(now.members, Fate.QUEUE), mark=Mark.OPEN)


def _unknown(_: Failure, now: Situation) -> Decision:
    if len(now.members) > 1:
        return _isolate(now.members)
    if now.failed_before:
        return _to_a_person(now)
    return Decision(fates=dict.fromkeys(now.members, Fate.TRY), groups=(now.members,) if now.members else ())


def _to_a_person(now: Situation) -> Decision:
    return Decision(fates=dict.fromkeys(now.members, Fate.PERSON), mark=Mark.COUNT if now.members else Mark.NONE)


def _isolate(members: Sequence[uuid.UUID]) -> Decision:
    """Two halves, each for itself."""
    half = (len(members) + 1) // 2
    return Decision(fates=dict.fromkeys(members, Fate.QUEUE), groups=(tuple(members[:half]), tuple(members[half:])))


RULES: Mapping[FailureKind, Callable[[Failure, Situation], Decision]] = {
    FailureKind.TRANSIENT: _transient,
    FailureKind.MEMORY: _memory,
    FailureKind.DATA: _data,
    FailureKind.SETTINGS: _settings,
    FailureKind.OPERATOR: _operator,
    FailureKind.UNKNOWN: _unknown,
}
