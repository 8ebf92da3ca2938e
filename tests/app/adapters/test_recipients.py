"""Who has a superseded version: everybody who pulled or served it is listed, told once an officer says so, and has
acknowledged once they serve a newer one."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app.db import transaction
from app.tables import AdapterRecipient, Audit, Replica
from tests.app.service import Floor

MODEL = "/v1/models/people"


def path_of(version: int, rest: str = "") -> str:
    return f"{MODEL}/adapters/{version}{rest}"


def pull(floor: Floor, role: str, version: int, **params: str) -> None:
    assert floor.caller.send(role, "GET", path_of(version, "/download"), params=params).status_code == 200


def serve(floor: Floor, replica: str, version: int, role: str = "operator") -> None:
    digest = floor.caller.call("operator", "GET", path_of(version))["digest"]
    body = {"version": version, "digest": digest}
    floor.caller.call(role, "POST", f"{MODEL}/replicas/{replica}/ack", json=body)


def listed(floor: Floor, version: int = 1, **params: Any) -> dict[str, Any]:
    found = floor.caller.call("officer", "GET", path_of(version, "/recipients"), params=params)
    return {item["name"]: item for item in found["items"]}


def states(floor: Floor, version: int = 1) -> dict[str, str]:
    return {name: item["state"] for name, item in listed(floor, version).items()}


def erase(floor: Floor, number: int) -> None:
    floor.ask(number)
    floor.work()


def notify(floor: Floor, recipient: str, version: int = 1, **more: Any) -> Any:
    path = path_of(version, f"/recipients/{listed(floor, version)[recipient]['id']}/notified")
    return floor.caller.call("officer", "POST", path, json={"channel": "mail"} | more)


def test_everybody_who_pulled_or_served_a_version_is_on_its_list(floor: Floor) -> None:
    pull(floor, "requester", 1)
    pull(floor, "requester", 1)
    pull(floor, "operator", 1)
    serve(floor, "edge-a", 1)
    erase(floor, 1)
    pull(floor, "other", 2)
    page = floor.caller.call("officer", "GET", path_of(1, "/recipients"))
    assert (page["version"], page["state"], page["next_cursor"]) == (1, "superseded", None)
    assert page["superseded_at"]
    assert states(floor) == dict.fromkeys(("requester", "operator", "edge-a"), "not_notified")
    found = listed(floor)
    assert [found[name]["downloads"] for name in ("requester", "operator", "edge-a")] == [2, 1, None]
    assert found["requester"]["id"] == str(floor.caller.who["requester"].key_id)
    assert found["requester"]["first_at"] < found["requester"]["last_at"]
    assert [item["kind"] for item in found.values()].count("replica") == 1
    assert list(states(floor, 2)) == ["other"]


def test_pages_of_recipients_follow_each_other(floor: Floor) -> None:
    for role in ("requester", "other", "operator"):
        pull(floor, role, 1)
    for replica in ("edge-a", "edge-b"):
        serve(floor, replica, 1)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for expected in (2, 2, 1):
        page = floor.caller.call("officer", "GET", path_of(1, "/recipients"), params={"limit": 2, **cursor})
        assert len(page["items"]) == expected
        seen += [item["name"] for item in page["items"]]
        cursor = {"cursor": page["next_cursor"]}
    assert page["next_cursor"] is None
    assert sorted(seen) == ["edge-a", "edge-b", "operator", "other", "requester"]
    refused = floor.caller.refused("officer", "GET", path_of(1, "/recipients?cursor=none"))
    assert refused == (400, "bad-cursor")


def test_a_replica_that_serves_a_newer_version_has_acknowledged_and_stays_on_the_list(floor: Floor) -> None:
    serve(floor, "edge-a", 1)
    serve(floor, "edge-b", 1)
    erase(floor, 1)
    serve(floor, "edge-a", 2)
    assert states(floor) == {"edge-a": "acknowledged", "edge-b": "not_notified"}
    assert listed(floor)["edge-a"]["acknowledged_version"] == 2
    assert states(floor, 2) == {"edge-a": "not_notified"}
    serve(floor, "edge-a", 1)  # it went back
    assert states(floor)["edge-a"] == "not_notified"


def test_a_key_has_acknowledged_once_all_replicas_that_speak_with_it_serve_a_newer_version(floor: Floor) -> None:
    pull(floor, "operator", 1)
    pull(floor, "admin", 1)
    serve(floor, "edge-a", 1)
    serve(floor, "edge-b", 1)
    erase(floor, 1)
    serve(floor, "edge-a", 2)
    assert (states(floor)["operator"], listed(floor)["operator"]["acknowledged_version"]) == ("not_notified", 1)
    serve(floor, "edge-b", 2)
    assert states(floor)["operator"] == "acknowledged"
    assert states(floor)["admin"] == "not_notified", "no replica speaks with it"


def test_an_officer_notes_that_a_recipient_was_told(floor: Floor) -> None:
    pull(floor, "requester", 1)
    serve(floor, "edge-a", 1)
    erase(floor, 1)
    told = notify(floor, "requester")
    assert (told["name"], told["state"], told["channel"], told["notified_by"]) == (
        "requester", "notified", "mail", "officer",
    )  # fmt: skip
    assert states(floor) == {"requester": "notified", "edge-a": "not_notified"}
    assert notify(floor, "edge-a", channel="portal")["state"] == "notified"
    again = notify(floor, "requester", channel="letter")
    assert again["channel"] == "letter" and again["notified_at"] > told["notified_at"]
    with floor.db.session_factory() as session:
        event = Audit.event == "adapter.recipient_notified"
        found = session.scalars(select(Audit.leaf).where(event).order_by(Audit.id)).all()
    fields = [json.loads(leaf)["fields"] for leaf in found]
    assert [(leaf["kind"], leaf["channel"]) for leaf in fields] == [
        ("key", "mail"), ("replica", "portal"), ("key", "letter"),
    ]  # fmt: skip
    assert fields[0]["recipient_id"] == str(floor.caller.who["requester"].key_id)
    assert fields[0]["key_id"] == str(floor.caller.who["officer"].key_id)
    serve(floor, "edge-a", 2)
    assert states(floor)["edge-a"] == "acknowledged"
    assert listed(floor)["edge-a"]["channel"] == "portal", "what was done stays known"


def test_nobody_is_told_of_a_version_that_is_not_superseded_and_no_stranger_of_any(floor: Floor) -> None:
    pull(floor, "requester", 1)
    path = path_of(1, f"/recipients/{floor.caller.who['requester'].key_id}/notified")
    assert floor.caller.refused("officer", "POST", path, json={"channel": "mail"}) == (409, "not-superseded")
    erase(floor, 1)
    for stranger in (floor.caller.who["other"].key_id, uuid.uuid4(), uuid.UUID(int=0)):
        path = path_of(1, f"/recipients/{stranger}/notified")
        assert floor.caller.refused("officer", "POST", path, json={"channel": "mail"}) == (404, "not-found")


@pytest.mark.parametrize("channel", ["", "Mail", "by mail", "x" * 33, "é", "1", None])
def test_a_channel_is_one_word(shared: Floor, channel: Any) -> None:
    path = path_of(1, f"/recipients/{uuid.uuid4()}/notified")
    assert shared.caller.refused("officer", "POST", path, json={"channel": channel}) == (422, "unprocessable")


def test_replicas_that_spoke_before_this_was_noted_are_listed_while_they_serve_it(floor: Floor) -> None:
    """As after the migration: neither a key of the replica nor its past is known."""
    serve(floor, "edge-a", 1)
    with transaction(floor.db) as session:
        session.execute(delete(AdapterRecipient))
        session.execute(update(Replica).values(key_id=None))
    erase(floor, 1)
    assert states(floor) == {"edge-a": "not_notified"}
    assert listed(floor)["edge-a"]["first_at"] is None
    assert notify(floor, "edge-a")["state"] == "notified"
