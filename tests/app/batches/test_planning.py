"""From pending requests to a queued job, on a real database."""

from __future__ import annotations

import json
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.audit.service import record, record_all
from app.batches import service
from app.batches.errors import JobAtWork, NoActiveAdapter, NothingPending
from app.db import transaction
from app.ids import new_id
from app.lifecycle import JobState, RequestState
from app.requests.errors import UnknownServedModel
from app.requests.repository import lock_model
from app.tables import (
    Audit,
    Batch,
    BatchReason,
    Event,
    Job,
    JobKind,
    Request,
)
from grail.config import UnlearnConfig
from tests.app.batches.served import LATER, NOW


def test_a_request_that_waited_for_the_window_gets_a_batch_and_a_job(served, sent):
    model = served.model()
    request = served.ask(1, retain=[2])
    assert served.plan(NOW + timedelta(seconds=299)) == []
    assert served.state(request) is RequestState.QUEUED
    (job_id,) = served.plan()
    job = served.job(job_id)
    assert (job.state, job.served_model_id, served.reason(job_id)) == (JobState.QUEUED, model, BatchReason.AGE)
    assert served.members(job_id) == {request}
    assert served.state(request) is RequestState.BATCHED
    assert job.settings == {"unlearn": UnlearnConfig().as_dict(), "tries": 0}
    assert job.gate["min_cus"] == 85.0
    assert job.start_adapter_id is not None
    assert sent == [("grail.run_job", str(job_id))]


def test_one_change_of_many_requests_leaves_what_one_by_one_leaves(served):
    """Leaves and events but for their ids and moments, in the requests' order."""
    model = served.model()
    requests = sorted(served.ask(number, retain=[number + 50]) for number in range(1, 4))
    fields = {"state": "queued", "served_model_id": str(model)}
    for all_at_once in (True, False):
        with transaction(served.db) as session:
            if all_at_once:
                record_all(session, "request.queued", requests, model, **fields)
            for request in () if all_at_once else requests:
                record(session, "request.queued", subject_id=str(request), **fields)
    with served.db.session_factory() as session:
        leaves = [
            {**json.loads(row.leaf), "id": "", "at": "", "subject": row.subject_id}
            for row in session.scalars(select(Audit).where(Audit.event == "request.queued").order_by(Audit.id))
        ]
        events = [
            (row.request_id, row.served_model_id, row.data, row.job_id)
            for row in session.scalars(select(Event).where(Event.kind == "request.queued").order_by(Event.id))
        ]
    assert [leaf["subject"] for leaf in leaves] == [str(request) for request in requests] * 2
    assert leaves[:3] == leaves[3:]
    assert [event[0] for event in events] == requests * 2
    assert events[:3] == events[3:]


def test_a_full_batch_takes_the_most_urgent_and_leaves_the_rest(served):
    served.model(max_requests_per_batch=2)
    late = served.ask(1, retain=[2], now=NOW + timedelta(seconds=2))
    soon = [served.ask(number, now=NOW) for number in (3, 4)]
    (job_id,) = served.plan(NOW + timedelta(seconds=3))
    assert served.reason(job_id) is BatchReason.SIZE
    assert served.members(job_id) == set(soon)
    assert served.state(late) is RequestState.QUEUED


def test_a_due_request_closes_the_batch(served):
    served.model(window_seconds=31 * 86400)
    request = served.ask(1, retain=[2])
    assert served.plan(NOW + timedelta(days=22)) == []
    (job_id,) = served.plan(NOW + timedelta(days=23))
    assert (served.reason(job_id), served.members(job_id)) == (BatchReason.DUE, {request})


def test_both_domains_go_together_and_models_apart(served):
    served.model()
    served.model("books")
    people = {served.ask(1, retain=[2]), served.ask(3, domain="copyright")}
    books = {served.ask(4, served_model="books", retain=[5])}
    jobs = served.plan()
    assert sorted(map(sorted, map(served.members, jobs))) == sorted(map(sorted, [people, books]))


def test_no_second_batch_while_a_job_is_open(served):
    served.model()
    served.ask(1, retain=[2])
    (job_id,) = served.plan()
    second = served.ask(3, retain=[4])
    assert served.plan(LATER + timedelta(hours=1)) == []
    assert served.state(second) is RequestState.QUEUED
    with pytest.raises(JobAtWork) as caught:
        served.run_now()
    assert caught.value.extra == {"job_id": str(job_id), "state": "queued"}
    with transaction(served.db) as session:
        job = session.get_one(Job, job_id)
        job.state, job.finished_at = JobState.CANCELLED, LATER
    assert len(served.plan(LATER + timedelta(hours=1))) == 1


def test_planners_at_the_same_time_make_one_batch(served):
    served.model()
    request = served.ask(1, retain=[2])
    barrier, made = threading.Barrier(3), []

    def plan() -> None:
        barrier.wait()
        made.extend(served.plan())

    threads = [threading.Thread(target=plan) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == served.count(Job) == served.count(Batch) == 1
    assert served.members(made[0]) == {request}


def test_without_an_active_adapter_nothing_is_batched(served):
    served.model(with_adapter=False)
    served.ask(1, retain=[2])
    assert served.plan() == []
    with pytest.raises(NoActiveAdapter):
        served.run_now()


def test_run_now_needs_a_known_model_and_something_pending(served):
    with pytest.raises(UnknownServedModel):
        served.run_now()
    served.model()
    with pytest.raises(NothingPending):
        served.run_now()


def test_run_now_does_not_wait_and_says_who_ordered(served, sent):
    served.model()
    served.ask(1, retain=[2])
    job_id = served.run_now()
    assert served.reason(job_id) is BatchReason.MANUAL
    assert sent == [("grail.run_job", str(job_id))]
    with served.db.session_factory() as session:
        leaf = session.scalars(select(Audit.leaf).where(Audit.event == "batch.ordered")).one()
    assert str(served.who.key_id).encode() in leaf


def test_changed_settings_of_earlier_tries_reach_the_job(served):
    served.model(unlearn=UnlearnConfig(steps=100).as_dict())
    first, second = served.ask(1, retain=[2]), served.ask(3)
    served.change(first, tries=1, settings={"steps": 150, "seed": 1})
    served.change(second, tries=2, settings={"steps": 225, "retain_weight": 2.0, "seed": 2})
    job = served.job(served.run_now())
    expected = UnlearnConfig(steps=225, retain_weight=2.0, seed=2).as_dict()
    assert job.settings == {"unlearn": expected, "tries": 2}


def test_a_rolled_back_plan_leaves_no_trace_and_sends_nothing(served, sent):
    model = served.model()
    request = served.ask(1, retain=[2])
    with pytest.raises(RuntimeError), transaction(served.db) as session:
        assert service.plan_model(session, model, LATER) is not None
        raise RuntimeError
    assert (served.count(Batch), served.count(Job), sent) == (0, 0, [])
    assert served.state(request) is RequestState.RECEIVED


def test_served_models_keep_their_row_lock_apart_from_those_who_refer_to_it(served):
    """While a batch is made, others can still insert rows that refer to the model, but not decide about it."""
    model = served.model()
    with served.db.session_factory() as one, served.db.session_factory() as other:
        assert lock_model(one, model) is not None
        other.connection().exec_driver_sql("SET lock_timeout = '200ms'")
        other.add(Batch(id=new_id(), served_model_id=model, reason=BatchReason.AGE))
        other.flush()
        with pytest.raises(OperationalError, match="lock timeout"):
            lock_model(other, model)
        one.rollback()
        other.rollback()


def test_halves_of_a_failed_batch_go_alone_whoever_else_waits(served):
    served.model()
    first, second, anybody = served.ask(1, retain=[2]), served.ask(3, retain=[4]), served.ask(5, retain=[6])
    groups = [new_id(), new_id()]
    for request, group_id in zip((first, second), groups, strict=True):
        served.change(request, group_id=group_id, state=RequestState.QUEUED)
    batches = []
    for _ in range(3):
        (job_id,) = served.plan(NOW + timedelta(seconds=301))
        batches.append((served.members(job_id), served.reason(job_id)))
        served.end(job_id)
    assert batches == [
        ({first}, BatchReason.SIZE), ({second}, BatchReason.SIZE), ({anybody}, BatchReason.AGE)
    ]  # fmt: skip


def test_a_job_is_due_when_the_first_of_its_members_is(served):
    served.model()
    served.ask(1, retain=[2])
    soon = served.ask(3, now=NOW - timedelta(days=2))
    with served.db.session_factory() as session:
        due = session.get_one(Request, soon).due_at
    job = served.job(served.run_now())
    assert (job.kind, job.due_at) == (JobKind.UNLEARN, due)


def test_a_batch_closes_earlier_where_jobs_take_long(served):
    """The margin is what the policy has, and on top of it what one of the last jobs took."""
    served.model(window_seconds=31 * 86400)
    served.ask(1, retain=[2])
    (job_id,) = served.plan(NOW + timedelta(days=23))
    served.end(job_id, JobState.PUBLISHED, after=timedelta(days=3))
    request = served.ask(3, retain=[4])
    assert served.plan(NOW + timedelta(days=20) - timedelta(seconds=1)) == []
    (job_id,) = served.plan(NOW + timedelta(days=20))
    assert (served.members(job_id), served.reason(job_id)) == ({request}, BatchReason.DUE)


def test_only_requests_that_may_not_mix_are_looked_for_apart(served):
    """What is read for a batch comes by index, however many requests there are: no whole table, no sort of it."""
    model = served.model()
    with transaction(served.db) as session:
        connection = session.connection()
        for statement in ("SET LOCAL enable_seqscan = off", "SET LOCAL enable_bitmapscan = off"):
            connection.exec_driver_sql(statement)
        apart = "(kind = 'reinstate' OR group_id IS NOT NULL)"
        found = {}
        indexes = {"ix_request_pending_in_order": f"NOT {apart}", "ix_request_apart_in_order": apart}
        for name, condition in indexes.items():
            query = (
                f"EXPLAIN SELECT * FROM request WHERE served_model_id = '{model}' AND state IN ('received', 'queued') "  # noqa: S608
                f"AND {condition} ORDER BY due_at, received_at, id LIMIT 32"
            )
            found[name] = "\n".join(row[0] for row in connection.exec_driver_sql(query))
    assert "using ix_request_pending_in_order on" in found["ix_request_pending_in_order"]
    assert "using ix_request_apart_in_order on" in found["ix_request_apart_in_order"]
