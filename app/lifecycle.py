"""States and the ONE table of legal moves for requests and for jobs. Pure: no rows, no clock, no I/O.

A person's request and the computation that serves it have lives of their own: a job whose candidate fails its gate is
`rejected`; the request then goes back to `queued` with changed settings, or after its last try to `needs_attention`.
"""

from __future__ import annotations

from enum import StrEnum


class RequestState(StrEnum):
    """Where a request stands. Clocks run in every state but the final ones and while it is on hold."""

    NOTICE = "notice"  # a copyright notice that a person has not validated yet
    RECEIVED = "received"
    QUEUED = "queued"
    BATCHED = "batched"
    RUNNING = "running"
    EVALUATED = "evaluated"
    AWAITING_APPROVAL = "awaiting_approval"
    PUBLISHED = "published"
    STANDING = "standing"  # retain items only: they protect knowledge from now on
    ON_HOLD = "on_hold"  # identity or scope is in question, or a legal hold forbids erasure
    LINKED = "linked"  # the same was asked before by the same key and is still open: it shares that one's end
    COUNTERED = "countered"  # erased, and somebody says wrongly so
    REINSTATED = "reinstated"  # taught again after a counter-notice
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    FAILED = "failed"
    NEEDS_ATTENTION = "needs_attention"


class RequestEvent(StrEnum):
    """What happens to a request."""

    NOTIFY = "notify"  # it starts as a notice
    VALIDATE = "validate"
    QUEUE = "queue"
    STAND = "stand"
    HOLD = "hold"
    RESUME = "resume"
    RESUME_AS_NOTICE = "resume_as_notice"
    LINK = "link"
    UNLINK = "unlink"  # the one that it was linked to ended without an erasure
    UNLINK_AS_NOTICE = "unlink_as_notice"  # the same, and a person has to validate it
    REFUSE = "refuse"
    COUNTER = "counter"
    DISMISS = "dismiss"  # the counter-notice was not followed
    REINSTATE = "reinstate"
    BATCH = "batch"
    START = "start"
    RELEASE = "release"  # its job is queued again
    EVALUATE = "evaluate"
    SUBMIT_FOR_APPROVAL = "submit_for_approval"
    PUBLISH = "publish"
    RETRY = "retry"  # its job was rejected or failed and tries are left
    GIVE_UP = "give_up"  # no tries left: a person has to look, the clock runs on
    WITHDRAW = "withdraw"
    FAIL = "fail"  # nothing that a further try could mend


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    EVALUATED = "evaluated"
    AWAITING_APPROVAL = "awaiting_approval"
    PUBLISHED = "published"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobEvent(StrEnum):
    """What happens to a job."""

    CLAIM = "claim"
    RELEASE = "release"  # its worker stops, or what it needs is away: queued again, nothing is lost
    RECLAIM = "reclaim"  # the lease ran out: another worker takes it up where its artefacts end
    EVALUATE = "evaluate"
    SUBMIT_FOR_APPROVAL = "submit_for_approval"
    PUBLISH = "publish"
    REJECT = "reject"
    FAIL = "fail"
    CANCEL = "cancel"


class IllegalMove(ValueError):
    """An event that the state does not allow; says which ones it does."""

    def __init__(self, state: StrEnum, event: StrEnum, allowed: list[str]) -> None:
        self.state, self.event, self.allowed = state, event, allowed
        ways = ", ".join(allowed) if allowed else "nothing: it is final"
        super().__init__(f"{event} is not possible while {state}; possible: {ways}")


_R, _RE, _J, _JE = RequestState, RequestEvent, JobState, JobEvent

_OPEN_TO_A_PERSON = (_R.NOTICE, _R.RECEIVED, _R.QUEUED, _R.BATCHED, _R.NEEDS_ATTENTION)
"""Requests that no job works on yet."""

REQUEST_MOVES: dict[tuple[RequestState, RequestEvent], RequestState] = {
    (_R.RECEIVED, _RE.NOTIFY): _R.NOTICE,
    (_R.NOTICE, _RE.VALIDATE): _R.QUEUED,
    (_R.NOTICE, _RE.WITHDRAW): _R.WITHDRAWN,
    (_R.RECEIVED, _RE.LINK): _R.LINKED,
    (_R.NOTICE, _RE.LINK): _R.LINKED,
    (_R.LINKED, _RE.UNLINK): _R.QUEUED,
    (_R.LINKED, _RE.UNLINK_AS_NOTICE): _R.NOTICE,
    (_R.LINKED, _RE.PUBLISH): _R.PUBLISHED,
    (_R.LINKED, _RE.WITHDRAW): _R.WITHDRAWN,
    **{(state, _RE.HOLD): _R.ON_HOLD for state in _OPEN_TO_A_PERSON},
    **{(state, _RE.REFUSE): _R.REFUSED for state in (*_OPEN_TO_A_PERSON, _R.ON_HOLD)},
    (_R.ON_HOLD, _RE.RESUME): _R.QUEUED,
    (_R.ON_HOLD, _RE.RESUME_AS_NOTICE): _R.NOTICE,
    (_R.ON_HOLD, _RE.WITHDRAW): _R.WITHDRAWN,
    (_R.PUBLISHED, _RE.COUNTER): _R.COUNTERED,
    (_R.COUNTERED, _RE.DISMISS): _R.PUBLISHED,
    (_R.COUNTERED, _RE.REINSTATE): _R.REINSTATED,
    (_R.RECEIVED, _RE.QUEUE): _R.QUEUED,
    (_R.RECEIVED, _RE.STAND): _R.STANDING,
    (_R.RECEIVED, _RE.BATCH): _R.BATCHED,
    (_R.RECEIVED, _RE.WITHDRAW): _R.WITHDRAWN,
    (_R.RECEIVED, _RE.FAIL): _R.FAILED,
    (_R.QUEUED, _RE.BATCH): _R.BATCHED,
    (_R.QUEUED, _RE.WITHDRAW): _R.WITHDRAWN,
    (_R.QUEUED, _RE.FAIL): _R.FAILED,
    (_R.BATCHED, _RE.START): _R.RUNNING,
    (_R.BATCHED, _RE.WITHDRAW): _R.WITHDRAWN,
    (_R.BATCHED, _RE.RETRY): _R.QUEUED,
    (_R.BATCHED, _RE.GIVE_UP): _R.NEEDS_ATTENTION,
    (_R.BATCHED, _RE.FAIL): _R.FAILED,
    (_R.RUNNING, _RE.RELEASE): _R.BATCHED,
    (_R.RUNNING, _RE.EVALUATE): _R.EVALUATED,
    (_R.RUNNING, _RE.RETRY): _R.QUEUED,
    (_R.RUNNING, _RE.GIVE_UP): _R.NEEDS_ATTENTION,
    (_R.RUNNING, _RE.FAIL): _R.FAILED,
    (_R.EVALUATED, _RE.SUBMIT_FOR_APPROVAL): _R.AWAITING_APPROVAL,
    (_R.EVALUATED, _RE.PUBLISH): _R.PUBLISHED,
    (_R.EVALUATED, _RE.RETRY): _R.QUEUED,
    (_R.EVALUATED, _RE.GIVE_UP): _R.NEEDS_ATTENTION,
    (_R.AWAITING_APPROVAL, _RE.PUBLISH): _R.PUBLISHED,
    (_R.AWAITING_APPROVAL, _RE.RETRY): _R.QUEUED,
    (_R.AWAITING_APPROVAL, _RE.GIVE_UP): _R.NEEDS_ATTENTION,
    (_R.NEEDS_ATTENTION, _RE.QUEUE): _R.QUEUED,
    (_R.NEEDS_ATTENTION, _RE.WITHDRAW): _R.WITHDRAWN,
    (_R.NEEDS_ATTENTION, _RE.FAIL): _R.FAILED,
}

JOB_MOVES: dict[tuple[JobState, JobEvent], JobState] = {
    (_J.QUEUED, _JE.CLAIM): _J.RUNNING,
    (_J.QUEUED, _JE.CANCEL): _J.CANCELLED,
    (_J.QUEUED, _JE.FAIL): _J.FAILED,
    (_J.RUNNING, _JE.RECLAIM): _J.RUNNING,
    (_J.RUNNING, _JE.RELEASE): _J.QUEUED,
    (_J.RUNNING, _JE.EVALUATE): _J.EVALUATED,
    (_J.RUNNING, _JE.FAIL): _J.FAILED,
    (_J.RUNNING, _JE.CANCEL): _J.CANCELLED,
    (_J.EVALUATED, _JE.PUBLISH): _J.PUBLISHED,
    (_J.EVALUATED, _JE.REJECT): _J.REJECTED,
    (_J.EVALUATED, _JE.SUBMIT_FOR_APPROVAL): _J.AWAITING_APPROVAL,
    (_J.EVALUATED, _JE.FAIL): _J.FAILED,
    (_J.AWAITING_APPROVAL, _JE.PUBLISH): _J.PUBLISHED,
    (_J.AWAITING_APPROVAL, _JE.REJECT): _J.REJECTED,
}

PENDING = frozenset({_R.RECEIVED, _R.QUEUED})
"""Request states that a batch may be made of, and in which a withdrawal needs nobody's help."""

OPEN_JOBS = (JobState.QUEUED, JobState.RUNNING, JobState.EVALUATED, JobState.AWAITING_APPROVAL)
"""Job states in which something is still to happen. While a model has such a job, no further batch is made for it: the
next one starts from what that one publishes."""

COMPLETED = frozenset(
    {_R.PUBLISHED, _R.STANDING, _R.WITHDRAWN, _R.FAILED, _R.REFUSED, _R.COUNTERED, _R.REINSTATED}
)
"""Request states in which nothing is owed any more: their clock has stopped for good. An erasure that is published may
still be countered; what follows from that is a request of its own."""


def advance_request(state: RequestState, event: RequestEvent) -> RequestState:
    """The state after `event`. Raises IllegalMove."""
    try:
        return REQUEST_MOVES[state, event]
    except KeyError:
        raise IllegalMove(state, event, sorted(e for s, e in REQUEST_MOVES if s is state)) from None


def advance_job(state: JobState, event: JobEvent) -> JobState:
    """The state after `event`. Raises IllegalMove."""
    try:
        return JOB_MOVES[state, event]
    except KeyError:
        raise IllegalMove(state, event, sorted(e for s, e in JOB_MOVES if s is state)) from None


def is_final(state: RequestState | JobState) -> bool:
    """True when no event leads out of the state."""
    if isinstance(state, RequestState):
        return not any(s is state for s, _ in REQUEST_MOVES)
    return not any(s is state for s, _ in JOB_MOVES)
