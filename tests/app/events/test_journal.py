"""Each change of a request or job leaves its event, in the same transaction, without what others must not know."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import select

from app.audit.service import record
from app.db import Database, transaction
from app.jobs import leases
from app.tables import Event
from grail.types import Progress
from tests.app.service import BAD, NOW, Floor


def events(db: Database, **of: Any) -> list[Event]:
    """In the order in which they were numbered."""
    with db.session_factory() as session:
        return list(session.scalars(select(Event).filter_by(**of).order_by(Event.id)))


def kinds(db: Database, **of: Any) -> list[str]:
    return [event.kind for event in events(db, **of)]


def test_the_lives_of_a_request_and_its_jobs_are_told_whole(floor: Floor) -> None:
    asked = floor.ask(1)
    rejected, published = floor.work(BAD), floor.work()
    assert kinds(floor.db, request_id=uuid.UUID(asked)) == [
        "request.received", "request.batched", "request.running", "request.evaluated", "request.queued",
        "request.batched", "request.running", "request.evaluated", "request.published",
    ]  # fmt: skip
    assert kinds(floor.db, job_id=rejected) == ["job.queued", "job.claimed", "job.evaluated", "job.rejected"]
    assert kinds(floor.db, job_id=published) == ["job.queued", "job.claimed", "job.evaluated", "job.published"]
    model = floor.model().id
    assert {event.served_model_id for event in events(floor.db)} == {model}
    last = events(floor.db, request_id=uuid.UUID(asked))[-1]
    assert last.data == {"state": "published", "job_id": str(published), "tries": 1}
    assert last.created_at == NOW


def test_an_event_names_no_key_no_other_request_and_no_digest_of_words(floor: Floor) -> None:
    mine, other = floor.ask(1), floor.ask(2, role="other")
    job_id = floor.order()
    floor.caller.call("other", "DELETE", f"/v1/requests/{other}")
    (leaving,) = [event for event in events(floor.db, job_id=job_id) if event.kind == "job.cancelled"]
    assert other not in str(leaving.data)
    assert not [event for event in events(floor.db) if "key_id" in event.data or "digest" in str(event.data)]
    assert mine


def test_what_is_no_request_or_job_leaves_none(floor: Floor) -> None:
    assert events(floor.db) == []
    floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"window_seconds": 1}})
    assert events(floor.db) == []


def test_a_change_that_is_rolled_back_has_not_happened(floor: Floor) -> None:
    asked = floor.ask(1)
    before = len(events(floor.db))
    with pytest.raises(RuntimeError), transaction(floor.db) as session:
        record(session, "request.running", subject_id=asked, state="running")
        session.flush()
        raise RuntimeError
    assert len(events(floor.db)) == before


def test_progress_is_told_by_stage_and_by_steps_of_five_percent_and_not_more_often(floor: Floor) -> None:
    floor.ask(1)
    job_id = floor.order()
    token = floor.claim(job_id)
    assert token is not None
    steps = 400
    for step in range(steps + 1):
        with transaction(floor.db) as session:
            leases.heartbeat(session, job_id, token, 60, Progress("unlearn", step / steps, step, steps), now=NOW)
            leases.heartbeat(session, job_id, token, 60, now=NOW)
    told = [event.data for event in events(floor.db, job_id=job_id) if event.kind == "job.progress"]
    assert told[0] == {"state": "running", "stage": "unlearn", "progress": 0.32, "step": 0, "steps": steps}
    shares = [data["progress"] for data in told]
    assert shares == sorted(shares)
    assert [int(share * 20) for share in shares] == [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]


def test_an_event_whose_subject_the_session_does_not_know_finds_its_served_model(floor: Floor) -> None:
    asked = floor.ask(1)
    with transaction(floor.db) as session:
        record(session, "request.queued", subject_id=asked, state="queued")
    assert events(floor.db)[-1].served_model_id == floor.model().id
