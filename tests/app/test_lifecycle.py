"""The tables of legal moves: nothing is unreachable, nothing final has a way out, nothing is ever lost."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.jobs.members import OPEN
from app.jobs.repository import AT_WORK
from app.lifecycle import (
    COMPLETED,
    JOB_MOVES,
    PENDING,
    REQUEST_MOVES,
    IllegalMove,
    JobEvent,
    JobState,
    RequestEvent,
    RequestState,
    advance_job,
    advance_request,
    is_final,
)

R, J = RequestState, JobState
FINAL_REQUESTS = {R.STANDING, R.WITHDRAWN, R.FAILED, R.REFUSED, R.REINSTATED}
FINAL_JOBS = {J.PUBLISHED, J.REJECTED, J.FAILED, J.CANCELLED}
TABLES: list[tuple[type[StrEnum], type[StrEnum], Mapping[Any, Any], StrEnum, set[Any], Any]] = [
    (R, RequestEvent, REQUEST_MOVES, R.RECEIVED, FINAL_REQUESTS, advance_request),
    (J, JobEvent, JOB_MOVES, J.QUEUED, FINAL_JOBS, advance_job),
]
BOTH = pytest.mark.parametrize(
    ("states", "events", "moves", "start", "final", "advance"), TABLES, ids=["request", "job"]
)


def reachable(moves: Mapping[Any, Any], start: StrEnum) -> set[StrEnum]:
    found, todo = {start}, [start]
    while todo:
        here = todo.pop()
        for (state, _), after in moves.items():
            if state is here and after not in found:
                found.add(after)
                todo.append(after)
    return found


@BOTH
def test_every_state_can_be_reached_and_every_event_happens(states, events, moves, start, final, advance) -> None:
    assert reachable(moves, start) == set(states)
    assert {event for _, event in moves} == set(events)


@BOTH
def test_exactly_the_final_states_have_no_way_out(states, events, moves, start, final, advance) -> None:
    assert {state for state in states if is_final(state)} == final


@BOTH
def test_from_every_state_some_final_one_can_be_reached(states, events, moves, start, final, advance) -> None:
    for state in states:
        assert reachable(moves, state) & final, state


@BOTH
def test_what_the_table_does_not_name_is_illegal_and_says_what_is_legal(
    states, events, moves, start, final, advance
) -> None:
    for state in states:
        allowed = sorted(event for known, event in moves if known is state)
        for event in events:
            if (state, event) in moves:
                assert advance(state, event) is moves[state, event]
                continue
            with pytest.raises(IllegalMove) as caught:
                advance(state, event)
            assert caught.value.allowed == allowed
            assert (", ".join(allowed) or "final") in str(caught.value)


def test_a_request_in_a_jobs_hands_can_always_go_back_to_the_queue_or_to_a_person() -> None:
    """Whatever happens to its job, no request is stuck with it."""
    for state in OPEN:
        assert advance_request(state, RequestEvent.RETRY) is R.QUEUED
        assert advance_request(state, RequestEvent.GIVE_UP) is R.NEEDS_ATTENTION


def test_a_person_can_withdraw_whatever_no_job_works_on() -> None:
    can = {state for state in R if (state, RequestEvent.WITHDRAW) in REQUEST_MOVES}
    assert can == {R.NOTICE, R.RECEIVED, R.QUEUED, R.BATCHED, R.NEEDS_ATTENTION, R.ON_HOLD, R.LINKED}


def test_an_erasure_ends_unless_it_is_countered() -> None:
    ways = {event: after for (state, event), after in REQUEST_MOVES.items() if state is R.PUBLISHED}
    assert ways == {RequestEvent.COUNTER: R.COUNTERED}
    assert FINAL_REQUESTS < COMPLETED == FINAL_REQUESTS | {R.PUBLISHED, R.COUNTERED}
    assert not COMPLETED & (set(OPEN) | PENDING | {R.ON_HOLD, R.LINKED, R.NOTICE, R.NEEDS_ATTENTION})


def test_what_is_on_hold_is_in_no_jobs_hands_and_comes_back_by_a_persons_word_only() -> None:
    into = {state for (state, event), after in REQUEST_MOVES.items() if after is R.ON_HOLD}
    assert into == {R.NOTICE, R.RECEIVED, R.QUEUED, R.BATCHED, R.NEEDS_ATTENTION}
    out = {event for state, event in REQUEST_MOVES if state is R.ON_HOLD}
    assert out == {
        RequestEvent.RESUME, RequestEvent.RESUME_AS_NOTICE, RequestEvent.WITHDRAW, RequestEvent.REFUSE
    }  # fmt: skip


def test_what_needs_attention_is_not_final_so_its_clock_runs() -> None:
    assert not is_final(R.NEEDS_ATTENTION)
    assert advance_request(R.NEEDS_ATTENTION, RequestEvent.QUEUE) in PENDING


def test_a_job_can_not_be_published_unevaluated_or_after_it_ended() -> None:
    before = {state for (state, event), after in JOB_MOVES.items() if after is J.PUBLISHED}
    assert before == {J.EVALUATED, J.AWAITING_APPROVAL}
    assert set(AT_WORK) == {J.RUNNING, J.EVALUATED, J.AWAITING_APPROVAL}


FOLLOWS: dict[JobEvent, tuple[RequestEvent, ...]] = {
    JobEvent.CLAIM: (RequestEvent.START,),
    JobEvent.RECLAIM: (),
    JobEvent.RELEASE: (RequestEvent.RELEASE,),
    JobEvent.EVALUATE: (RequestEvent.EVALUATE,),
    JobEvent.SUBMIT_FOR_APPROVAL: (RequestEvent.SUBMIT_FOR_APPROVAL,),
    JobEvent.PUBLISH: (RequestEvent.PUBLISH,),
    JobEvent.REJECT: (RequestEvent.RETRY, RequestEvent.GIVE_UP, RequestEvent.PUBLISH),  # the last: known to the base
    JobEvent.FAIL: (RequestEvent.RETRY, RequestEvent.GIVE_UP),
    JobEvent.CANCEL: (RequestEvent.GIVE_UP, RequestEvent.RETRY),
}
"""What may happen to a member when something happens to its job."""


OF_JOBS = {event for events in FOLLOWS.values() for event in events} - {RequestEvent.PUBLISH}
ALONE = sorted(set(RequestEvent) - OF_JOBS | {RequestEvent.FAIL})
"""What happens to a request outside of a job."""
WITH_A_PERSON = {R.NEEDS_ATTENTION, R.NOTICE, R.ON_HOLD}


class TwoLives(RuleBasedStateMachine):
    """A request and the job that serves it, moved as the service moves them, in any order that the tables allow."""

    @initialize()
    def begin(self) -> None:
        self.request: RequestState = R.RECEIVED
        self.job: JobState | None = None

    @rule(event=st.sampled_from(ALONE))
    def alone(self, event: RequestEvent) -> None:
        """What happens to a request outside of a job."""
        if self.job is not None or (self.request, event) not in REQUEST_MOVES:
            return
        self.request = advance_request(self.request, event)
        if self.request is R.BATCHED:
            self.job = J.QUEUED

    @rule(event=st.sampled_from(list(JobEvent)), pick=st.integers(0, 2))
    def together(self, event: JobEvent, pick: int) -> None:
        """What happens to a job happens to its member too: that must be legal, always."""
        if self.job is None or (self.job, event) not in JOB_MOVES:
            return
        self.job = advance_job(self.job, event)
        choices = FOLLOWS[event]
        if event is JobEvent.REJECT and self.request is R.BATCHED:
            choices = choices[:2]
        if choices:
            self.request = advance_request(self.request, choices[pick % len(choices)])
        if is_final(self.job):
            self.job = None

    @invariant()
    def is_in_one_pair_of_hands(self) -> None:
        """Either a job has the request, or it waits where somebody looks, or it is done."""
        if self.job is not None:
            assert self.request in OPEN
        else:
            assert self.request in PENDING | WITH_A_PERSON | {R.LINKED} | COMPLETED

    @invariant()
    def moves_together(self) -> None:
        pairs = {
            J.QUEUED: R.BATCHED, J.RUNNING: R.RUNNING, J.EVALUATED: R.EVALUATED,
            J.AWAITING_APPROVAL: R.AWAITING_APPROVAL,
        }  # fmt: skip
        if self.job is not None:
            assert self.request is pairs[self.job]


TwoLives.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTwoLives = TwoLives.TestCase
