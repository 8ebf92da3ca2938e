"""A key follows another without a pause: both open the same, what the holder owns stays theirs, either can end."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.auth import Role, authenticate
from app.db import transaction
from app.errors import Unauthorised
from app.events.repository import key_holds
from app.keys.repository import any_valid
from app.keys.service import KeyEnded, create_key, revoke_key, rotate_key
from app.main import create_app
from app.tables import Key
from tests.app.service import Floor

DAY = timedelta(days=1)


def now() -> datetime:
    return datetime.now(UTC)


def test_both_keys_are_of_one_holder_until_the_old_one_ends(session: Session) -> None:
    first, old = create_key(session, "desk", Role.OFFICER)
    second, new = rotate_key(session, first.prefix, now(), overlap=DAY)
    third, newest = rotate_key(session, second.prefix, now(), overlap=DAY)
    assert len({old, new, newest}) == 3
    for key in (old, new, newest):
        who = authenticate(session, key)
        assert (who.key_id, who.name, who.role) == (first.id, "desk", Role.OFFICER)
    assert first.expires_at is not None and not first.opens(now() + 2 * DAY)
    assert third.expires_at is None and third.opens(now() + 1000 * DAY)


def test_an_expired_key_opens_nothing_and_is_not_followed(session: Session) -> None:
    row, key = create_key(session, "desk", Role.ADMIN, expires_at=now() + DAY)
    assert authenticate(session, key).key_id == row.id
    row.expires_at = now() - DAY
    session.flush()
    with pytest.raises(Unauthorised):
        authenticate(session, key)
    with pytest.raises(KeyEnded):
        rotate_key(session, row.prefix, now(), overlap=DAY)
    assert not key_holds(session, row.id)


def test_an_overlap_does_not_prolong_a_key_that_ends_sooner(session: Session) -> None:
    soon = now() + timedelta(hours=1)
    row, _ = create_key(session, "desk", Role.ADMIN, expires_at=soon)
    rotate_key(session, row.prefix, now(), overlap=DAY)
    assert row.expires_at == soon


def test_a_leaked_key_is_revoked_and_its_holder_goes_on(session: Session) -> None:
    first, leaked = create_key(session, "desk", Role.REQUESTER)
    second, new = rotate_key(session, first.prefix, now(), overlap=DAY)
    revoke_key(session, first.prefix)
    session.flush()
    with pytest.raises(Unauthorised):
        authenticate(session, leaked)
    who = authenticate(session, new)
    assert who.key_id == first.id and any_valid(session, first.id, now())
    assert key_holds(session, second.id) and not key_holds(session, first.id), "streams of the leaked key end"
    revoke_key(session, second.prefix)
    assert not any_valid(session, first.id, now())


def test_what_the_holder_asked_is_theirs_under_both_keys_and_nobody_elses(floor: Floor) -> None:
    asked = floor.ask(1)
    old = floor.caller.keys["requester"]
    with transaction(floor.db) as session:
        _, new = rotate_key(session, old.split("_")[1], now(), overlap=DAY)
    seen = {}
    for name, key in {"old": old, "new": new, "other": floor.caller.keys["other"]}.items():
        answer = floor.caller.client.get(f"/v1/requests/{asked}", headers={"Authorization": f"Bearer {key}"})
        seen[name] = answer.status_code
    assert seen == {"old": 200, "new": 200, "other": 404}
    again = floor.caller.client.delete(f"/v1/requests/{asked}", headers={"Authorization": f"Bearer {new}"})
    assert again.json()["state"] == "withdrawn"


def test_the_last_use_of_each_key_is_noted(floor: Floor) -> None:
    caller, began = floor.caller, now()
    with TestClient(create_app(floor.settings)) as client:
        client.get("/v1/models", headers=caller.header("officer"))
        client.get("/v1/models", headers={"Authorization": "Bearer " + caller.keys["other"] + "x"})
    with floor.db.session_factory() as session:
        used = {row.name: row.last_used_at for row in session.scalars(select(Key))}
    assert used["officer"] is not None and used["officer"] >= began
    assert used["other"] is None and used["admin"] is None
    assert isinstance(caller.who["officer"].key_id, uuid.UUID)
