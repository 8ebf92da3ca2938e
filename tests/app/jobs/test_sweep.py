"""The sweep rings again for what waits, on the real broker; messages hold ids and nothing else."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import redis
from sqlalchemy import select

from app.db import transaction
from app.embedded.services import EmbeddedServices
from app.jobs import service as jobs
from app.jobs.failures import FailureKind
from app.jobs.service import SETTLED_TICKS, is_due
from app.tables import Job
from tests.app.service import BAD, GOOD, LEASE, NOW, Floor, later

QUEUES = ("gpu", "control")


class Broker:
    """The queues as a worker would find them."""

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection

    def empty(self) -> None:
        self.connection.delete(*QUEUES)

    def raw(self) -> list[bytes]:
        return [message for name in QUEUES for message in self.connection.lrange(name, 0, -1)]

    def messages(self) -> list[tuple[str, str, list[Any]]]:
        """(queue, task, arguments), in the order they were sent."""
        found = []
        for name in QUEUES:
            for message in reversed(self.connection.lrange(name, 0, -1)):
                envelope = json.loads(message)
                arguments, named, _ = json.loads(base64.b64decode(envelope["body"]))
                assert named == {}
                found.append((name, envelope["headers"]["task"], arguments))
        return found


@pytest.fixture
def broker(services: EmbeddedServices) -> Iterator[Broker]:
    with redis.Redis.from_url(services.valkey.redis_url()) as connection:
        made = Broker(connection)
        made.empty()
        yield made
        made.empty()


def sweep(floor: Floor, now: Any) -> list[uuid.UUID]:
    with transaction(floor.db) as session:
        return jobs.sweep(session, now)


def born(floor: Floor, job_id: uuid.UUID) -> Any:
    return floor.job(job_id).created_at


def test_an_order_rings_once_and_carries_the_id_alone(floor: Floor, broker: Broker) -> None:
    floor.ask(1)
    job_id = floor.order()
    assert broker.messages() == [("gpu", "grail.run_job", [str(job_id)])]
    assert not any(b"Thing" in message or b"in place" in message for message in broker.raw())


def test_a_dry_run_and_a_refused_order_ring_nothing(floor: Floor, broker: Broker) -> None:
    floor.ask(1)
    floor.caller.call("operator", "POST", "/v1/jobs", 200, json={"served_model": "people", "dry_run": True})
    floor.order()
    broker.empty()
    floor.caller.call("operator", "POST", "/v1/jobs", 409, json={"served_model": "people"})
    assert broker.messages() == []


def test_a_queued_job_whose_message_was_lost_is_rung_again(floor: Floor, broker: Broker) -> None:
    floor.ask(1)
    job_id = floor.order()
    broker.empty()
    assert sweep(floor, born(floor, job_id) + timedelta(seconds=1)) == [job_id]
    assert broker.messages() == [("gpu", "grail.run_job", [str(job_id)])]


def test_a_job_that_was_put_off_is_rung_when_its_time_has_come(floor: Floor, broker: Broker) -> None:
    floor.ask(1)
    job_id = floor.order()
    floor.fail(job_id, floor.claim(job_id) or 0, FailureKind.TRANSIENT)
    broker.empty()
    due = floor.job(job_id).not_before
    assert due is not None
    assert sweep(floor, due - timedelta(seconds=0.1)) == []
    assert sweep(floor, due) == [job_id]
    assert broker.messages() == [("gpu", "grail.run_job", [str(job_id)])]


def test_a_job_that_was_given_back_is_rung_at_once(floor: Floor, broker: Broker) -> None:
    floor.ask(1)
    job_id = floor.order()
    token = floor.claim(job_id) or 0
    broker.empty()
    with transaction(floor.db) as session:
        jobs.give_back(session, job_id, token, later(1e6))
    assert broker.messages() == [("gpu", "grail.run_job", [str(job_id)])]
    broker.empty()
    assert sweep(floor, later(1e6 + 1)) == [job_id], "and in the next sweep, should that bell be lost"


def test_a_running_job_is_left_alone_until_its_lease_runs_out(floor: Floor, broker: Broker) -> None:
    floor.ask(1)
    job_id = floor.order()
    floor.claim(job_id)
    broker.empty()
    assert sweep(floor, later(LEASE - 1)) == []
    assert sweep(floor, later(LEASE)) == []
    assert broker.messages() == []
    assert sweep(floor, later(LEASE + 1)) == [job_id]
    assert broker.messages() == [("gpu", "grail.run_job", [str(job_id)])]
    assert floor.job(job_id).fencing_token == 1, "the sweep itself takes nothing"


def test_a_verdict_without_consequence_is_rung_to_the_publishers(floor: Floor, broker: Broker) -> None:
    floor.ask(1)
    job_id = floor.order()
    floor.claim(job_id)
    broker.empty()
    floor.evaluate(job_id, 1)
    assert broker.messages() == [("control", "grail.publish_job", [str(job_id)])]
    broker.empty()
    assert sweep(floor, later(1)) == [job_id]
    assert broker.messages() == [("control", "grail.publish_job", [str(job_id)])]


@pytest.mark.parametrize("end", ["published", "rejected", "failed", "cancelled", "awaiting"])
def test_what_is_over_or_waits_for_a_person_is_not_rung(floor: Floor, broker: Broker, end: str) -> None:
    if end == "awaiting":
        floor.caller.call("operator", "PATCH", "/v1/models/people", json={"policy": {"require_approval": True}})
    floor.ask(1)
    if end == "failed":
        job_id = floor.order()
        floor.fail(job_id, floor.claim(job_id) or 0, FailureKind.SETTINGS)
    elif end == "cancelled":
        floor.caller.call("operator", "POST", f"/v1/jobs/{floor.order()}/cancel")
    else:
        floor.work(BAD if end == "rejected" else GOOD)
    broker.empty()
    assert sweep(floor, NOW + timedelta(days=9)) == []
    assert broker.messages() == []


def test_a_stale_message_does_nothing(floor: Floor) -> None:
    """A doorbell that rings twice, or too late, is answered by nobody."""
    floor.ask(1)
    job_id = floor.work()
    assert floor.claim(job_id, later(1e6)) is None
    with floor.db.session_factory() as session:
        assert session.scalars(select(Job.attempts)).all() == [1]


def test_a_bell_rings_in_the_first_sweeps_and_then_ever_more_rarely() -> None:
    every = 15.0
    rung = [tick for tick in range(100) if is_due(NOW + timedelta(seconds=every * tick + 1), NOW, every)]
    assert rung == [0, 1, 2, 4, *range(SETTLED_TICKS, 100, SETTLED_TICKS)]


@pytest.mark.parametrize("jitter", [0.0, 0.4, 7.0, 14.9])
def test_whatever_the_sweeps_clock_a_waiting_job_is_rung_for_ever(jitter: float) -> None:
    every = 15.0
    moments = [NOW + timedelta(seconds=jitter + every * tick) for tick in range(200)]
    due = [number for number, moment in enumerate(moments) if is_due(moment, NOW, every)]
    gaps = [after - before for before, after in pairwise(due)]
    assert max(gaps) <= SETTLED_TICKS
    assert due[-1] >= 200 - SETTLED_TICKS
