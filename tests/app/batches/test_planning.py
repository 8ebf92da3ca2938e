"""From pending requests to a queued job, on a real database."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app import queue
from app.auth import Principal, Role
from app.batches import service
from app.batches.errors import JobAtWork, NoActiveAdapter, NoRetainData, NothingPending
from app.db import Database, transaction
from app.ids import new_id
from app.keys.service import create_key
from app.lifecycle import JobState, RequestState
from app.requests import service as requests
from app.requests.conflicts import content_digest
from app.requests.errors import NotWithdrawable, UnknownServedModel
from app.requests.schemas import RequestCreate
from app.tables import (
    Audit,
    Batch,
    BatchExample,
    BatchMember,
    BatchReason,
    Example,
    Job,
    Request,
    RequestDomain,
    ServedModel,
)
from grail.config import UnlearnConfig
from grail.types import Segment
from tests.fixtures.served import add_model, question

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=301)


class Service:
    """One served model, and every step in a transaction of its own."""

    def __init__(self, db: Database, directory: Path) -> None:
        self.db, self.directory = db, directory
        with transaction(db) as session:
            key, _ = create_key(session, "asker", Role.OFFICER)
            self.who = Principal(key.id, key.name, key.role)

    def model(self, name: str = "people", *, with_adapter: bool = True, **policy) -> uuid.UUID:
        with transaction(self.db) as session:
            return add_model(session, self.directory, name, policy=policy, with_adapter=with_adapter).id

    def ask(self, *numbers: int, served_model="people", domain="privacy", retain=(), now=NOW, **more) -> uuid.UUID:
        payload = RequestCreate.model_validate(
            {
                "served_model": served_model,
                "domain": domain,
                "forget": [question(number) for number in numbers],
                "retain": [question(number) for number in retain],
                **more,
            }
        )
        with transaction(self.db) as session:
            return requests.submit(session, payload, self.who, now, due_days=30).id

    def stand(self, model_id: uuid.UUID, subject: str, *numbers: int, domain=RequestDomain.PRIVACY) -> None:
        """Rows as the operator's retain set has them."""
        with transaction(self.db) as session:
            for number in numbers:
                item = question(number)
                digest = content_digest(item["prompt"], item["completion"])
                session.add(
                    Example(
                        id=new_id(), served_model_id=model_id, domain=domain, segment=Segment.RETAIN, position=number,
                        subject=subject, facts=[], content_digest=digest, standing=True, **item,
                    )
                )  # fmt: skip

    def plan(self, now=LATER) -> list[uuid.UUID]:
        with transaction(self.db) as session:
            return service.plan(session, now)

    def run_now(self, now=NOW, **more) -> uuid.UUID:
        with transaction(self.db) as session:
            return service.run_now(session, "people", self.who, now, **more).id

    def withdraw(self, request_id: uuid.UUID) -> None:
        with transaction(self.db) as session:
            requests.withdraw(session, request_id, self.who, NOW)

    def job(self, job_id: uuid.UUID) -> Job:
        with self.db.session_factory() as session:
            return session.get_one(Job, job_id)

    def state(self, request_id: uuid.UUID) -> RequestState:
        with self.db.session_factory() as session:
            return session.get_one(Request, request_id).state

    def members(self, job_id: uuid.UUID) -> set[uuid.UUID]:
        with self.db.session_factory() as session:
            statement = select(BatchMember.request_id).join(Job, Job.batch_id == BatchMember.batch_id)
            return set(session.scalars(statement.where(Job.id == job_id)))

    def reason(self, job_id: uuid.UUID) -> BatchReason:
        with self.db.session_factory() as session:
            return session.scalars(
                select(Batch.reason).join(Job, Job.batch_id == Batch.id).where(Job.id == job_id)
            ).one()

    def drawn(self, job_id: uuid.UUID) -> list[Example]:
        with self.db.session_factory() as session:
            statement = (
                select(Example)
                .join(BatchExample, BatchExample.example_id == Example.id)
                .join(Job, Job.batch_id == BatchExample.batch_id)
                .where(Job.id == job_id)
            )
            return list(session.scalars(statement))

    def change(self, request_id: uuid.UUID, **values) -> None:
        with transaction(self.db) as session:
            row = session.get_one(Request, request_id)
            for name, value in values.items():
                setattr(row, name, value)

    def count(self, table: type) -> int:
        with self.db.session_factory() as session:
            return session.scalars(select(func.count()).select_from(table)).one()


@pytest.fixture
def served(db: Database, tmp_path: Path) -> Service:
    return Service(db, tmp_path)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, ...]]]:
    """Messages that left after a commit."""
    messages: list[tuple[str, ...]] = []
    monkeypatch.setattr(queue, "send", lambda *message: messages.append(message))
    return messages


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


def test_retain_only_requests_are_never_batched_but_serve_batches(served):
    served.model()
    protection = served.ask(retain=[1, 2])
    request = served.ask(3)
    (job_id,) = served.plan()
    assert served.members(job_id) == {request}
    assert {row.request_id for row in served.drawn(job_id)} == {protection}
    assert len(served.drawn(job_id)) == 2


def test_standing_rows_are_drawn_per_forget_item_same_subjects_first_then_spread(served):
    model = served.model(retain_per_forget=2.0)
    served.stand(model, "ann", 10, 11)
    served.stand(model, "bob", *range(20, 40))
    served.stand(model, "cid", *range(40, 60))
    served.stand(model, "dora", 60, domain=RequestDomain.COPYRIGHT)
    served.ask(1, 2, 3, subject_reference="ann")
    (job_id,) = served.plan()
    subjects = [row.subject for row in served.drawn(job_id)]
    assert sorted(subjects) == ["ann", "ann", "bob", "bob", "cid", "cid"]


def test_drawing_is_the_same_each_time(served):
    model = served.model(retain_per_forget=3.0)
    served.stand(model, "bob", *range(20, 40))
    first = served.ask(1, subject_reference="x")
    job = served.run_now()
    before = {row.id for row in served.drawn(job)}
    served.withdraw(first)
    served.ask(1, subject_reference="x")
    assert {row.id for row in served.drawn(served.run_now())} == before
    assert len(before) == 3


def test_a_domain_without_items_of_its_own_gets_at_least_one_standing_row(served):
    model = served.model(retain_per_forget=0.0)
    served.stand(model, "ann", 10, 11)
    served.ask(1)
    assert len(served.drawn(served.run_now())) == 1


def test_own_retain_items_and_erased_rows_are_not_drawn(served):
    model = served.model()
    served.stand(model, "ann", 1, 2)
    request = served.ask(1, retain=[3])
    (row,) = served.drawn(served.run_now())
    assert (row.request_id, row.prompt) == (None, question(2)["prompt"])
    assert request


def test_a_batch_without_any_retain_data_is_not_made(served, sent):
    served.model()
    request = served.ask(1)
    assert served.plan() == []
    assert served.state(request) is RequestState.QUEUED
    with pytest.raises(NoRetainData) as caught:
        served.run_now()
    assert caught.value.extra == {"domains": ["privacy"]}
    assert "retain-set" in caught.value.how_to_mend
    assert (served.count(Batch), sent) == (0, [])


def test_retain_data_of_another_domain_do_not_help(served):
    served.model()
    served.ask(domain="copyright", retain=[2])
    served.ask(1)
    assert served.plan() == []


def test_an_erased_retain_item_of_a_member_is_no_retain_data(served):
    served.model()
    served.ask(1)
    served.ask(2, retain=[1])
    assert served.plan() == []


def test_waiting_for_retain_data_ends_when_they_appear(served):
    model = served.model()
    request = served.ask(1)
    served.plan()
    served.stand(model, "ann", 2)
    (job_id,) = served.plan()
    assert served.members(job_id) == {request}


def test_past_its_due_date_a_request_without_retain_data_is_shown_to_a_person_who_queues_it_again(served):
    model = served.model()
    request = served.ask(1)
    served.plan(NOW + timedelta(days=30) - timedelta(seconds=1))
    assert served.state(request) is RequestState.QUEUED
    served.plan(NOW + timedelta(days=30))
    assert served.state(request) is RequestState.NEEDS_ATTENTION
    served.stand(model, "ann", 2)
    with pytest.raises(NothingPending):
        served.run_now()
    served.change(request, tries=3)
    job_id = served.run_now(include_attention=True)
    assert served.members(job_id) == {request}
    assert served.job(job_id).settings["tries"] == 0


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


def test_a_withdrawn_member_takes_its_data_along_and_the_others_get_a_new_job(served, sent):
    served.model()
    first, second = served.ask(1, retain=[2]), served.ask(3, retain=[4])
    (old,) = served.plan()
    sent.clear()
    served.withdraw(first)
    assert served.state(first) is RequestState.WITHDRAWN
    assert served.state(second) is RequestState.BATCHED
    assert served.job(old).state is JobState.CANCELLED
    ((task, new),) = sent
    assert task == "grail.run_job"
    assert served.members(uuid.UUID(new)) == {second}
    assert served.reason(uuid.UUID(new)) is BatchReason.AGE
    assert served.drawn(uuid.UUID(new)) == []
    with served.db.session_factory() as session:
        assert requests.read(session, second, served.who, NOW, with_items=False).job_id == uuid.UUID(new)


def test_the_last_member_takes_the_job_along(served, sent):
    served.model()
    request = served.ask(1, retain=[2])
    job_id = served.run_now()
    sent.clear()
    served.withdraw(request)
    assert served.job(job_id).state is JobState.CANCELLED
    assert (served.count(Job), sent) == (1, [])


def test_others_wait_in_the_queue_when_the_one_that_leaves_had_the_retain_data(served):
    served.model()
    first, second = served.ask(1, retain=[2]), served.ask(3)
    served.run_now()
    served.withdraw(first)
    assert served.state(second) is RequestState.QUEUED


def test_a_running_request_is_not_withdrawn_and_its_job_goes_on(served):
    served.model()
    request = served.ask(1, retain=[2])
    job_id = served.run_now()
    with transaction(served.db) as session:
        job = session.get_one(Job, job_id)
        job.state, job.lease_owner, job.lease_until = JobState.RUNNING, "w", LATER
        session.get_one(Request, request).state = RequestState.RUNNING
    with pytest.raises(NotWithdrawable):
        served.withdraw(request)
    assert served.job(job_id).state is JobState.RUNNING


def test_a_preview_writes_nothing_and_foretells_the_batch(served, sent):
    model = served.model()
    served.stand(model, "ann", 10, 11, 12)
    probe = {"kind": "paraphrase", "prompt": "Thing 1 is where?", "completion": "In place 1."}
    first = served.ask(forget=[question(1, probes=[probe])], retain=[2])
    second = served.ask(3, now=NOW + timedelta(seconds=1))
    events = served.count(Audit)
    with served.db.session_factory() as session:
        preview = service.preview(session, "people", NOW, flop_per_second=1e6)
        assert not session.dirty
        session.rollback()
    assert preview.would_batch == [first, second]
    # 2 of 3 standing rows (3 wanted: 1.5 per forget item, less the 1 of the requests' own), and that one.
    assert (preview.forget_items, preview.retain_items) == (2, 3)
    # Template and question "Q : Where is thing 1 ? A :" 9, answer "Thing 1 is in place 1 ." 7, end 1; probe 9 + 4 + 1.
    assert preview.tokens == 5 * 17 + 14
    assert preview.estimate is not None
    assert preview.estimate.seconds == pytest.approx(sum(preview.estimate.stages.values()))
    assert (preview.reason, preview.due_to_close, preview.obstacle) == (BatchReason.MANUAL, None, None)
    assert (served.count(Batch), served.count(Audit), sent) == (0, events, [])
    assert served.state(first) is RequestState.RECEIVED
    job_id = served.run_now()
    assert served.members(job_id) == {first, second}
    assert len(served.drawn(job_id)) == 2


def test_a_preview_says_what_stands_in_the_way(served):
    served.model()

    def preview(now=NOW):
        with served.db.session_factory() as session:
            return service.preview(session, "people", now)

    nothing = preview()
    assert (nothing.would_batch, nothing.reason, nothing.estimate, nothing.tokens) == ([], None, None, 0)
    assert "received or queued" in nothing.obstacle
    served.ask(1)
    assert "retain item" in preview().obstacle
    assert preview(LATER).due_to_close is BatchReason.AGE
    served.ask(2, retain=[3])
    served.run_now()
    served.ask(4)
    assert "is queued" in preview().obstacle
    with served.db.session_factory() as session, pytest.raises(UnknownServedModel):
        service.preview(session, "nobody", NOW)


def test_without_readable_sizes_a_preview_gives_no_estimate(served, tmp_path):
    served.model()
    served.ask(1, retain=[2])
    (tmp_path / "base" / "config.json").write_text("[]")
    with served.db.session_factory() as session:
        preview = service.preview(session, "people", NOW)
    assert preview.estimate is None
    assert preview.tokens == 34


def test_items_that_the_base_model_knows_are_no_work_any_more(served):
    served.model()
    served.ask(1, 2, retain=[3])
    with transaction(served.db) as session:
        row = session.scalars(select(Example).where(Example.position == 0)).one()
        row.outcome = "in_base"
    with served.db.session_factory() as session:
        preview = service.preview(session, "people", NOW)
    assert (preview.forget_items, preview.retain_items, preview.tokens) == (1, 1, 34)


def test_a_rolled_back_plan_leaves_no_trace_and_sends_nothing(served, sent):
    served.model()
    request = served.ask(1, retain=[2])
    with pytest.raises(RuntimeError), transaction(served.db) as session:
        assert len(service.plan(session, LATER)) == 1
        raise RuntimeError
    assert (served.count(Batch), served.count(Job), sent) == (0, 0, [])
    assert served.state(request) is RequestState.RECEIVED


def test_served_models_keep_their_row_lock_apart_from_those_who_refer_to_it(served):
    """While a batch is made, others can still insert rows that refer to the model, but not decide about it."""
    model = served.model()
    with served.db.session_factory() as one, served.db.session_factory() as other:
        one.scalars(select(ServedModel).where(ServedModel.id == model).with_for_update(key_share=True)).one()
        other.connection().exec_driver_sql("SET lock_timeout = '2s'")
        other.add(Batch(id=new_id(), served_model_id=model, reason=BatchReason.AGE))
        other.flush()
        one.rollback()
        other.rollback()
