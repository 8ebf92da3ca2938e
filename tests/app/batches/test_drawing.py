"""What stands to be retained joins a batch: how much, whose, and never what was erased."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.batches import service
from app.batches.errors import NoRetainData, NothingPending
from app.db import transaction
from app.lifecycle import RequestState
from app.tables import (
    Batch,
    Example,
    ExampleDomain,
)
from tests.app.batches.served import NOW
from tests.fixtures.contents import content_of
from tests.fixtures.served import question


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
    served.stand(model, "dora", 60, domain=ExampleDomain.COPYRIGHT)
    served.ask(1, 2, 3, subject_reference="ann")
    (job_id,) = served.plan()
    subjects = [content_of(served.db, row).subject for row in served.drawn(job_id)]
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
    assert (row.request_id, content_of(served.db, row).prompt) == (None, question(2)["prompt"])
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


def test_items_that_the_base_model_knows_are_no_work_any_more(served):
    served.model()
    served.ask(1, 2, retain=[3])
    with transaction(served.db) as session:
        row = session.scalars(select(Example).where(Example.position == 0)).one()
        row.outcome = "in_base"
    with served.db.session_factory() as session:
        preview = service.preview(session, "people", NOW)
    assert (preview.forget_items, preview.retain_items, preview.tokens) == (1, 1, 34)


GENERAL_METHOD = {"unlearn": {"method": "grad_diff_general"}}


def test_a_method_that_retains_general_data_draws_only_that_for_each_forget_item(served):
    model = served.model(retain_per_forget=1.5, **GENERAL_METHOD)
    served.stand(model, "ann", 10, 11, 12)
    served.stand(model, "tasks", *range(20, 40), domain=ExampleDomain.GENERAL)
    served.ask(1, 2, retain=[3])
    served.ask(4, domain="copyright")
    job_id = served.run_now()
    assert [row.domain for row in served.drawn(job_id)] == [ExampleDomain.GENERAL] * 5
    assert served.job(job_id).settings["unlearn"]["retain_source"] == "general"


def test_of_general_data_at_least_one_row_is_drawn(served):
    model = served.model(retain_per_forget=0.0, **GENERAL_METHOD)
    served.stand(model, "tasks", 20, 21, domain=ExampleDomain.GENERAL)
    served.ask(1)
    assert len(served.drawn(served.run_now())) == 1


def test_other_methods_never_draw_general_data(served):
    model = served.model(retain_per_forget=10.0)
    served.stand(model, "ann", 10)
    served.stand(model, "tasks", *range(20, 40), domain=ExampleDomain.GENERAL)
    served.ask(1)
    served.ask(2, domain="copyright", retain=[3])
    drawn = served.drawn(served.run_now())
    assert {row.domain for row in drawn} == {ExampleDomain.PRIVACY}
    assert len(drawn) == 1


def test_without_general_data_such_a_method_has_nothing_to_retain_whatever_else_stands(served):
    model = served.model(**GENERAL_METHOD)
    served.stand(model, "ann", 10)
    request = served.ask(1, retain=[3])
    with pytest.raises(NoRetainData, match="grad_diff_general retains general data") as caught:
        served.run_now()
    assert caught.value.extra == {"domains": ["general"]}
    assert "domain general" in caught.value.how_to_mend
    assert served.plan() == []
    served.stand(model, "tasks", 20, domain=ExampleDomain.GENERAL)
    (job_id,) = served.plan()
    assert served.members(job_id) == {request}


def test_general_data_alone_are_no_retain_data_of_other_methods(served):
    model = served.model()
    served.stand(model, "tasks", 20, domain=ExampleDomain.GENERAL)
    served.ask(1)
    assert served.plan() == []


def test_general_data_are_counted_in_the_preview(served):
    model = served.model(retain_per_forget=2.0, **GENERAL_METHOD)
    served.stand(model, "tasks", *range(20, 40), domain=ExampleDomain.GENERAL)
    served.ask(1, retain=[3])
    with served.db.session_factory() as session:
        preview = service.preview(session, "people", NOW)
    assert (preview.forget_items, preview.retain_items, preview.obstacle) == (1, 3, None)
    assert preview.estimate.stages["localise"] == 0.0
    assert preview.estimate.stages["train"] > 0.0
