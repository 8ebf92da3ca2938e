"""Requests and jobs through the service's own functions on a real Postgres, in any order that chance allows.

Callers, officers, planner, workers and the clock take turns; a plain model of what each request may be now stands
beside the rows. At the end everything is brought to rest, and what must be true after faults must be true here too.

`GRAIL_LIVES=500` runs so many lives instead of a few.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.rows import dict_row

from app.batches import service as batches
from app.db import transaction
from app.jobs import service as jobs
from app.jobs.errors import LeaseLost
from app.jobs.failures import FailureKind
from app.jobs.members import OPEN
from app.lifecycle import COMPLETED, RequestState
from tests.app.service import BAD, GOOD, LEASE, NOW, Floor
from tests.faults import invariants

LIVES = int(os.environ.get("GRAIL_LIVES", "12"))
STEPS = 25
R = RequestState
WAITING = {R.RECEIVED, R.QUEUED}
KINDS = st.sampled_from([FailureKind.TRANSIENT, FailureKind.DATA, FailureKind.SETTINGS, FailureKind.UNKNOWN])
REASON = "A person's reason of more than ten characters."


class Rows:
    """The rows of a floor, as `invariants` reads them."""

    def __init__(self, floor: Floor) -> None:
        self.floor = floor

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with self.floor.db.engine.connect() as connection:
            cursor = connection.connection.driver_connection.cursor(row_factory=dict_row)  # type: ignore[union-attr]
            return list(cursor.execute(statement, values).fetchall())


class Lives(RuleBasedStateMachine):
    """One served model, and everybody who has to do with it."""

    floor: Floor
    number = 0

    @initialize(approval=st.booleans())
    def register(self, approval: bool) -> None:
        type(self).number += 1
        self.model, self.now, self.asked = f"life-{self.number}", NOW, 0
        self.floor.register(self.model, window_seconds=0, require_approval=approval)
        self.may: dict[str, set[RequestState]] = {}
        self.tokens: list[tuple[uuid.UUID, int]] = []

    # callers and officers

    @rule(domain=st.sampled_from(["privacy", "copyright"]))
    def somebody_asks(self, domain: str) -> None:
        self.asked += 1
        reference = f"{self.model}-{self.asked}"
        name = self.floor.ask(self.asked, model=self.model, domain=domain, client_reference=reference)
        self.may[name] = {R.RECEIVED}

    @rule(pick=st.integers(0, 50), deed=st.sampled_from(["withdraw", "hold", "resume", "counter", "reinstate"]))
    def a_person_decides(self, pick: int, deed: str) -> None:
        """What is allowed follows from the state; what is refused changes nothing."""
        if not self.may:
            return
        name = sorted(self.may)[pick % len(self.may)]
        path, body = f"/v1/requests/{name}", {"kind": "identity"} if deed == "hold" else {}
        body |= {"reason": REASON} if deed in {"hold", "counter"} else {}
        how = ("DELETE", path) if deed == "withdraw" else ("POST", f"{path}/{deed}")
        answer = self.floor.caller.send("officer" if deed != "withdraw" else "requester", *how, json=body or None)
        assert answer.status_code in {200, 202, 403, 404, 409, 422}, answer.text
        if answer.is_success:
            after = {"withdraw": R.WITHDRAWN, "hold": R.ON_HOLD, "resume": R.QUEUED, "counter": R.COUNTERED}
            if deed == "reinstate":
                self.may[str(answer.json()["id"])] = {R.QUEUED}
            else:
                self.may[name] = {after[deed]}
            self._others_may_be_batched_anew()

    def _others_may_be_batched_anew(self) -> None:
        """Who leaves a batch lets the others be batched again, or wait where nothing is left to learn from."""
        for may in self.may.values():
            if may & (WAITING | {R.BATCHED}):
                may |= {R.QUEUED, R.BATCHED}

    # planner, workers, and time

    @rule()
    def the_planner_comes(self) -> None:
        batches.plan(self.floor.db, time_of=lambda _: self.now)
        for may in self.may.values():
            if may & WAITING:
                may |= {R.QUEUED, R.BATCHED}

    @rule(seconds=st.sampled_from([1, int(LEASE) + 1, 7200]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def a_worker_claims(self) -> None:
        with transaction(self.floor.db) as session:
            turns = jobs.claimable(session, self.now)
        for job_id in turns:
            token = self.floor.claim(job_id, self.now)
            if token is not None:
                assert (job_id, token) not in self.tokens
                self.tokens.append((job_id, token))
                self._members(job_id, {R.RUNNING})

    @precondition(lambda self: self.tokens)
    @rule(pick=st.integers(0, 50))
    def a_worker_says_that_it_lives(self, pick: int) -> None:
        job_id, token = self.tokens[pick % len(self.tokens)]
        with self._if_it_is_still_its(job_id, token), transaction(self.floor.db) as session:
            jobs.heartbeat(session, job_id, token, self.now, LEASE)

    @precondition(lambda self: self.tokens)
    @rule(pick=st.integers(0, 50), kind=KINDS, blames=st.booleans())
    def a_worker_fails(self, pick: int, kind: FailureKind, blames: bool) -> None:
        job_id, token = self.tokens[pick % len(self.tokens)]
        mine = self._names(job_id)
        with self._if_it_is_still_its(job_id, token):
            blamed = mine[:1] if blames or kind is FailureKind.DATA else []
            self.floor.fail(job_id, token, kind, self.now, changes={}, at_fault=blamed)
            self._members(job_id, {R.QUEUED, R.BATCHED, R.NEEDS_ATTENTION}, mine)

    @precondition(lambda self: self.tokens)
    @rule(pick=st.integers(0, 50))
    def a_worker_gives_back(self, pick: int) -> None:
        job_id, token = self.tokens[pick % len(self.tokens)]
        with self._if_it_is_still_its(job_id, token):
            with transaction(self.floor.db) as session:
                jobs.give_back(session, job_id, token, self.now)
            self._members(job_id, {R.BATCHED})

    @precondition(lambda self: self.tokens)
    @rule(pick=st.integers(0, 50), good=st.booleans())
    def a_worker_hands_in(self, pick: int, good: bool) -> None:
        job_id, token = self.tokens[pick % len(self.tokens)]
        with self._if_it_is_still_its(job_id, token):
            self.floor.evaluate(job_id, token, GOOD if good else BAD)
            self._members(job_id, {R.EVALUATED})

    @rule(pick=st.integers(0, 50))
    def a_doorbell_rings_for_the_publisher(self, pick: int) -> None:
        """Also for jobs that are not there yet, or over."""
        if not self.tokens:
            return
        job_id = self.tokens[pick % len(self.tokens)][0]
        before, mine = self.floor.job(job_id), self._names(job_id)
        self.floor.conclude(job_id, self.now)
        if before.state == "evaluated":
            passed = bool((before.verdict or {})["ok"])
            self._members(
                job_id, {R.PUBLISHED, R.AWAITING_APPROVAL} if passed else {R.QUEUED, R.NEEDS_ATTENTION}, mine
            )
            self._reinstated()

    @precondition(lambda self: self.tokens)
    @rule(pick=st.integers(0, 50), deed=st.sampled_from(["approve", "refuse", "cancel"]))
    def a_job_is_decided_on(self, pick: int, deed: str) -> None:
        job_id = self.tokens[pick % len(self.tokens)][0]
        mine, body = self._names(job_id), {"reason": REASON} if deed == "refuse" else None
        answer = self.floor.caller.send("admin", "POST", f"/v1/jobs/{job_id}/{deed}", json=body)
        assert answer.status_code in {200, 409}, answer.text
        if answer.is_success:
            self._members(job_id, {R.PUBLISHED} if deed == "approve" else {R.NEEDS_ATTENTION}, mine)
            self._reinstated()

    # what must be true

    @invariant()
    def every_request_is_where_it_may_be(self) -> None:
        for name, state in self._states().items():
            assert state in self.may[name], f"{name} is {state}, may be {sorted(self.may[name])}"
            self.may[name] = {state}

    @invariant()
    def what_a_job_has_in_hand_is_in_one_jobs_hands(self) -> None:
        found = self._rows(
            "SELECT r.id::text, r.state::text, count(j.id) FILTER (WHERE j.finished_at IS NULL) AS jobs FROM request r "
            "JOIN served_model m ON m.id = r.served_model_id LEFT JOIN batch_member b ON b.request_id = r.id "
            "LEFT JOIN job j ON j.batch_id = b.batch_id WHERE m.name = %s GROUP BY r.id",
        )
        for row in found:
            if R(row["state"]) in OPEN:
                assert row["jobs"] == 1, row
            elif R(row["state"]) in WAITING | {R.ON_HOLD, R.NEEDS_ATTENTION}:
                assert row["jobs"] == 0, row

    def teardown(self) -> None:
        """Everything that is open comes to its end, by good workers; then the trail and the versions are whole."""
        if not hasattr(self, "model"):
            return
        for _ in range(100):
            self.now += timedelta(hours=2)
            states = self._states()
            for name, state in states.items():
                if state is R.ON_HOLD:
                    self.floor.caller.call("officer", "POST", f"/v1/requests/{name}/resume")
            self.floor.caller.call("operator", "POST", f"/v1/models/{self.model}/breaker/close")
            self._end_jobs()
            if set(states.values()) <= COMPLETED:
                break
            self.floor.caller.send(
                "operator", "POST", "/v1/jobs", json={"served_model": self.model, "include_attention": True}
            )
        assert set(self._states().values()) <= COMPLETED, self._states()
        rows: Any = Rows(self.floor)
        assert invariants.versions(rows, self.model) == []
        assert invariants.trail(rows, self.model) == []

    def _end_jobs(self) -> None:
        with transaction(self.floor.db) as session:
            turns = jobs.claimable(session, self.now)
        for job_id in turns:
            token = self.floor.claim(job_id, self.now)
            if token is not None:
                self.floor.evaluate(job_id, token)
        found = self._rows("SELECT j.id FROM job j JOIN served_model m ON m.id = j.served_model_id WHERE m.name = %s")
        for row in found:
            self.floor.conclude(row["id"], self.now)
            if self.floor.job(row["id"]).state == "awaiting_approval":
                self.floor.caller.call("officer", "POST", f"/v1/jobs/{row['id']}/approve")

    @contextmanager
    def _if_it_is_still_its(self, job_id: uuid.UUID, token: int) -> Iterator[None]:
        """A worker's word counts if, and only if, its token is the newest of a running job."""
        row = self.floor.job(job_id)
        holds = row.state == "running" and row.fencing_token == token
        try:
            yield
        except LeaseLost:
            assert not holds, "a worker that holds the job was turned away"
        else:
            assert holds, "a worker that does not hold the job was heard"

    def _rows(self, statement: str) -> list[dict[str, Any]]:
        return Rows(self.floor).rows(statement, self.model)

    def _states(self) -> dict[str, RequestState]:
        found = self._rows(
            "SELECT r.id::text, r.state::text FROM request r JOIN served_model m ON m.id = r.served_model_id "
            "WHERE m.name = %s"
        )
        return {row["id"]: R(row["state"]) for row in found}

    def _names(self, job_id: uuid.UUID) -> list[str]:
        """The requests that are in a job's hands."""
        found = Rows(self.floor).rows(
            "SELECT r.id::text, r.state::text FROM request r JOIN batch_member b ON b.request_id = r.id "
            "JOIN job j ON j.batch_id = b.batch_id WHERE j.id = %s ORDER BY r.id", job_id,
        )  # fmt: skip
        return [row["id"] for row in found if R(row["state"]) in OPEN]

    def _members(self, job_id: uuid.UUID, states: set[RequestState], names: list[str] | None = None) -> None:
        for name in self._names(job_id) if names is None else names:
            self.may[name] = set(states)

    def _reinstated(self) -> None:
        """A request to reinstate that is published has changed the one that it is about."""
        for may in self.may.values():
            if R.COUNTERED in may:
                may.add(R.REINSTATED)


def test_whoever_does_what_when_no_request_is_lost_and_no_trail_broken(floor: Floor) -> None:
    Lives.floor = floor
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=LIVES, stateful_step_count=STEPS, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
