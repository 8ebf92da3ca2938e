"""What is old is removed, a bounded number at a time; what somebody still waits for is not, and nobody who follows
misses anything without being told."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from app.config import Settings
from app.db import transaction
from app.events import service as events
from app.events.positions import START, Position
from app.ids import new_id
from app.imports import run
from app.orphans import service as orphans
from app.retention import repository, service
from app.tables import Delivery, DeliveryState, Event, Import, Retention, Webhook
from app.webhooks import fan
from tests.app.service import Floor, slug, until_settled
from tests.fixtures.served import question

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=400)
BEFORE = NOW - timedelta(days=90)


def write(floor: Floor, count: int, at: datetime = OLD, **more: Any) -> list[int]:
    """Events as they are written; their numbers."""
    with transaction(floor.db) as session:
        rows = [Event(kind="job.progress", data={}, created_at=at, **more) for _ in range(count)]
        session.add_all(rows)
        session.flush()
        return [row.id for row in rows]


def numbers(floor: Floor) -> Sequence[int]:
    with floor.db.session_factory() as session:
        return session.scalars(select(Event.id).order_by(Event.id)).all()


def remove_events(floor: Floor, limit: int = 100) -> tuple[int, int]:
    until_settled(floor.db)
    with transaction(floor.db) as session:
        return repository.remove_events(session, BEFORE, limit)


def webhook(floor: Floor, **more: Any) -> uuid.UUID:
    with transaction(floor.db) as session:
        row = Webhook(
            id=new_id(), created_by=floor.caller.who["operator"].key_id, url="https://example.com", kinds=[],
            created_at=OLD, after_xid=0, after_id=0, **more,
        )  # fmt: skip
        session.add(row)
        return row.id


def deliver(floor: Floor, webhook_id: uuid.UUID, event_id: int, state: DeliveryState, at: datetime = OLD) -> uuid.UUID:
    with transaction(floor.db) as session:
        row = Delivery(
            id=new_id(at), webhook_id=webhook_id, event_id=event_id, state=state, attempts=1, next_at=at, created_at=at,
            delivered_at=at if state is DeliveryState.DELIVERED else None,
        )  # fmt: skip
        session.add(row)
        return row.id


@pytest.fixture
def quiet(floor: Floor) -> Floor:
    """A floor without events."""
    with transaction(floor.db) as session:
        session.execute(text("DELETE FROM event"))
    return floor


def test_events_are_removed_from_the_front_so_many_at_a_time(quiet: Floor) -> None:
    old, young = write(quiet, 5), write(quiet, 2, NOW)
    assert remove_events(quiet, limit=3) == (3, 3)
    assert numbers(quiet) == [*old[3:], *young]
    assert remove_events(quiet, limit=3) == (2, 2)
    assert remove_events(quiet, limit=3) == (0, 0)
    assert numbers(quiet) == young


def test_an_old_event_behind_a_young_one_waits_for_it(quiet: Floor) -> None:
    young, old = write(quiet, 1, NOW), write(quiet, 1)
    assert remove_events(quiet) == (0, 0)
    assert numbers(quiet) == young + old


def test_who_stands_in_front_of_what_was_removed_is_told_so(quiet: Floor) -> None:
    call = quiet.caller.call
    write(quiet, 3)
    until_settled(quiet.db)
    ids = [one["id"] for one in call("operator", "GET", "/v1/events")["items"]]
    remove_events(quiet, limit=2)
    for header, query in (({}, {"after": ids[0]}), ({"Last-Event-ID": ids[0]}, {}), ({}, {"after": "0-0"})):
        answer = quiet.caller.send("operator", "GET", "/v1/events", headers=header, params=query)
        assert (answer.status_code, slug(answer)) == (410, "events-removed")
        assert "after=latest" in answer.json()["mend"]
    # Who had all that was removed, or names no position, goes on; so does who found nothing at all.
    assert [one["id"] for one in call("operator", "GET", "/v1/events", params={"after": ids[1]})["items"]] == ids[2:]
    assert [one["id"] for one in call("operator", "GET", "/v1/events")["items"]] == ids[2:]
    remove_events(quiet)
    empty = call("operator", "GET", "/v1/events")
    assert (empty["items"], empty["next_cursor"]) == ([], ids[2])
    (later,) = write(quiet, 1, NOW)
    until_settled(quiet.db)
    (found,) = call("operator", "GET", "/v1/events", params={"after": empty["next_cursor"]})["items"]
    assert found["sequence"] == later


def test_a_stream_that_reads_too_slowly_ends_instead_of_skipping(quiet: Floor) -> None:
    key_id = quiet.caller.who["operator"].key_id
    write(quiet, 3)
    remove_events(quiet, limit=2)
    with quiet.db.session_factory() as session:
        assert events.look(session, events.EventFilter(), key_id, START).ended == "events-removed"
        found = events.look(session, events.EventFilter(), key_id, events.beginning(session))
    assert (found.ended, len(found.events)) == (None, 1)


def test_what_a_webhook_has_not_looked_at_stays(quiet: Floor) -> None:
    slow = webhook(quiet)
    old = write(quiet, 3)
    assert remove_events(quiet) == (0, 0)
    with transaction(quiet.db) as session:
        xid = session.scalars(select(Event.xid).where(Event.id == old[1])).one()
        session.get_one(Webhook, slow).after_xid, session.get_one(Webhook, slow).after_id = xid, old[1]
    assert remove_events(quiet) == (2, 2)
    with transaction(quiet.db) as session:
        session.get_one(Webhook, slow).disabled_at = NOW
    assert remove_events(quiet) == (1, 1)


def test_an_event_with_an_open_delivery_stays_until_that_has_ended(quiet: Floor) -> None:
    idle = webhook(quiet, disabled_at=OLD)
    waited_for, told = write(quiet, 2)
    pending = deliver(quiet, idle, waited_for, DeliveryState.PENDING)
    deliver(quiet, idle, told, DeliveryState.DEAD)
    assert remove_events(quiet) == (2, 1)
    assert numbers(quiet) == [waited_for]
    assert remove_events(quiet) == (0, 0)
    with transaction(quiet.db) as session:
        session.execute(update(Delivery).where(Delivery.id == pending).values(state="dead"))
    assert remove_events(quiet) == (0, 1)
    assert numbers(quiet) == []
    with quiet.db.session_factory() as session:
        assert session.scalar(select(func.count()).select_from(Delivery)) == 0


def test_what_a_callback_is_told_apart_by_stays_until_it_is_retired(quiet: Floor) -> None:
    request = uuid.UUID(quiet.ask(1))
    callback = webhook(quiet, request_id=request)
    with transaction(quiet.db) as session:
        session.execute(update(Event).values(created_at=OLD))
    assert remove_events(quiet) == (1, 0)
    with transaction(quiet.db) as session:
        fan.fan_out(session, NOW)
        session.execute(update(Delivery).values(state="delivered", delivered_at=NOW))
        session.get_one(Webhook, callback).after_xid = 2**63 - 1
    assert remove_events(quiet) == (0, 1)


def test_deliveries_that_have_ended_go_by_their_age(quiet: Floor) -> None:
    one = webhook(quiet)
    ids = write(quiet, 4)
    kept = deliver(quiet, one, ids[0], DeliveryState.PENDING)
    for number, state in zip(ids[1:3], (DeliveryState.DELIVERED, DeliveryState.DEAD), strict=True):
        deliver(quiet, one, number, state)
    young = deliver(quiet, one, ids[3], DeliveryState.DELIVERED, NOW - timedelta(days=29))
    assert [_deliveries(quiet, 1) for _ in range(3)] == [1, 1, 0]
    with quiet.db.session_factory() as session:
        assert set(session.scalars(select(Delivery.id))) == {kept, young}


def _deliveries(floor: Floor, limit: int) -> int:
    with transaction(floor.db) as session:
        return repository.remove_deliveries(session, NOW - timedelta(days=30), limit)


def test_a_floor_of_another_cluster_refuses_nobody(quiet: Floor) -> None:
    (number,) = write(quiet, 1, NOW)
    with transaction(quiet.db) as session:
        session.add(Retention(kind="events", floor_xid=2**40, floor_id=number - 1))
        session.execute(update(Event).values(xid=0))
    with quiet.db.session_factory() as session:
        assert events.beginning(session) == Position(0, number - 1)
        assert events.begin(session, Position(0, number - 1)) == Position(0, number - 1)
    remove_events(quiet)
    with quiet.db.session_factory() as session:
        assert session.get_one(Retention, "events").floor_xid == 0


def test_faults_of_an_import_go_and_their_file_with_them(floor: Floor, settings: Settings) -> None:
    wrong = {"served_model": "nobody", "domain": "privacy", "forget": [question(1)]}
    made = floor.caller.call(
        "requester", "POST", "/v1/imports", 202, content=json.dumps(wrong),
        headers={"Content-Type": "application/x-ndjson"},
    )  # fmt: skip
    path = f"/v1/imports/{made['id']}"
    run.run(floor.db, settings, uuid.UUID(made["id"]))
    assert floor.caller.send("requester", "GET", f"{path}/errors").status_code == 200
    assert service.remove(floor.db, settings, "faults") == 0
    with transaction(floor.db) as session:
        session.execute(update(Import).values(finished_at=OLD))
    assert service.remove(floor.db, settings, "faults") == 1
    assert floor.caller.refused("requester", "GET", f"{path}/errors") == (410, "faults-removed")
    assert floor.caller.call("requester", "GET", path)["errors"] is None
    assert len(orphans.remove(floor.db, settings, after_seconds=-60)) == 1


def test_each_kind_has_its_days_and_what_went_is_counted(quiet: Floor, settings: Settings) -> None:
    write(quiet, 3, NOW - timedelta(days=89))
    assert {kind: service.remove(quiet.db, settings, kind) for kind in service.KINDS} == dict.fromkeys(service.KINDS, 0)
    shorter = settings.model_copy(update={"keep_events_days": 88.0})
    until_settled(quiet.db)
    assert service.remove(quiet.db, shorter, "events") == 3
    with quiet.db.session_factory() as session:
        assert repository.counts(session) == {"events": 3}
