"""A member that is withdrawn leaves its batch, and the others lose nothing."""

from __future__ import annotations

import uuid

import pytest

from app.db import transaction
from app.lifecycle import JobState, RequestState
from app.requests import service as requests
from app.requests.errors import NotWithdrawable
from app.tables import (
    BatchReason,
    Job,
    Request,
)
from tests.app.batches.served import LATER, NOW


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
