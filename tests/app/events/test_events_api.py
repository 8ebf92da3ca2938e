"""Events over HTTP: pages, streams, who sees which, where one goes on."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from app.config import Settings, load_settings
from app.db import transaction
from app.embedded.services import EmbeddedServices
from app.main import create_app
from app.tables import Event
from tests.app.service import BAD, NOW, Floor, revoke, until_settled
from tests.app.test_away import cut_connections

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def database_url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings are read after this."""
    monkeypatch.setenv("GRAIL_EVENTS_POLL_SECONDS", "0.02")
    monkeypatch.setenv("GRAIL_EVENTS_HEARTBEAT_SECONDS", "0.2")
    monkeypatch.setenv("GRAIL_EVENTS_STREAMS_PER_KEY", "2")
    return database_url


@pytest.fixture
def served(settings: Settings) -> FastAPI:
    """A process of its own: connections belong to one loop."""
    return create_app(settings)


@pytest.fixture
def url(floor: Floor, served: FastAPI) -> Iterator[str]:
    """The API on a socket: streams do not end by themselves."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(served, log_config=None, ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


class Stream:
    """One open stream."""

    def __init__(self, floor: Floor, url: str, path: str, role: str = "requester", **more: Any) -> None:
        headers = {**floor.caller.header(role), **STREAM, **more.pop("headers", {})}
        self.client = httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)
        self.context = self.client.stream("GET", path, **more)
        self.answer = self.context.__enter__()
        self.lines = self.answer.iter_lines()
        self.comments = 0

    def next(self) -> dict[str, str]:
        """The fields of the next event; empty at the end of the stream."""
        found: dict[str, str] = {}
        for line in self.lines:
            if line.startswith(":"):
                self.comments += 1
            elif line and not line.startswith("retry"):
                name, _, value = line.partition(": ")
                found[name] = value
            elif found:
                return found
        return found

    def take(self, count: int) -> list[dict[str, str]]:
        return [self.next() for _ in range(count)]

    def rest(self) -> list[dict[str, str]]:
        """All until the service ends the stream."""
        found = []
        while event := self.next():
            found.append(event)
        return found

    def close(self) -> None:
        self.answer.close()
        self.client.close()


def kinds(events: list[dict[str, str]]) -> list[str]:
    return [event["event"] for event in events]


LIFE = [
    "request.received", "request.batched", "request.running", "request.evaluated", "request.queued", "request.batched",
    "request.running", "request.evaluated", "request.published",
]  # fmt: skip


def test_a_stream_tells_what_was_and_what_comes_and_ends_with_its_request(floor: Floor, url: str) -> None:
    asked = floor.ask(1)
    stream = Stream(floor, url, f"/v1/requests/{asked}/events")
    assert stream.answer.headers["content-type"].startswith("text/event-stream")
    assert kinds(stream.take(1)) == LIFE[:1]
    floor.work(BAD)
    floor.work()
    rest = stream.rest()
    assert kinds(rest) == [*LIFE[1:], "end"]
    assert json.loads(rest[-1]["data"]) == {"state": "published"} and "id" not in rest[-1]
    last = json.loads(rest[-2]["data"])
    assert (last["id"], last["kind"], last["request_id"]) == (rest[-2]["id"], "request.published", asked)
    stream.close()


def test_who_connects_again_gets_what_is_missing_and_no_more_once_it_has_ended(floor: Floor, url: str) -> None:
    asked = floor.ask(1)
    path = f"/v1/requests/{asked}/events"
    first = Stream(floor, url, path)
    seen = first.take(1)
    first.close()
    floor.work(BAD)
    second = Stream(floor, url, path, headers={"Last-Event-ID": seen[-1]["id"]}, params={"after": "latest"})
    seen += second.take(3)
    second.close()
    floor.work()
    third = Stream(floor, url, path, params={"after": seen[-1]["id"]})
    seen += third.rest()[:-1]
    third.close()
    assert kinds(seen) == LIFE
    assert len({event["id"] for event in seen}) == len(seen)
    until_settled(floor.db)
    headers = {**floor.caller.header("requester"), **STREAM, "Last-Event-ID": seen[-1]["id"]}
    assert httpx.get(url + path, headers=headers, trust_env=False).status_code == 204  # a browser then stays away


def test_a_stream_of_everything_has_what_the_key_may_see(floor: Floor, url: str) -> None:
    mine, all_of_it = (Stream(floor, url, "/v1/events", role) for role in ("requester", "operator"))
    one, other = floor.ask(1), floor.ask(2, role="other")
    assert [json.loads(event["data"])["request_id"] for event in all_of_it.take(2)] == [one, other]
    assert json.loads(mine.next()["data"])["request_id"] == one
    floor.work()
    wanted = json.loads(mine.next()["data"])
    assert wanted["kind"] == "job.queued", "the job of one's own request"
    mine.close()
    all_of_it.close()


def test_a_job_tells_its_progress_and_ends(floor: Floor, url: str) -> None:
    floor.ask(1)
    job_id = floor.order()
    stream = Stream(floor, url, f"/v1/jobs/{job_id}/events", params={"kinds": ["job.progress", "job.published"]})
    token = floor.claim(job_id)
    assert token is not None
    from app.jobs import leases
    from grail.types import Progress

    with transaction(floor.db) as session:
        leases.heartbeat(session, job_id, token, 60, Progress("unlearn", 0.5), now=NOW)
    assert json.loads(stream.next()["data"])["data"]["stage"] == "unlearn"
    floor.evaluate(job_id, token)
    floor.conclude(job_id)
    assert kinds(stream.rest()) == ["job.published", "end"]
    stream.close()


def test_an_idle_stream_sends_comments_and_holds_no_connection(floor: Floor, url: str, served: FastAPI) -> None:
    asked = floor.ask(1)
    stream = Stream(floor, url, f"/v1/requests/{asked}/events")
    stream.take(1)
    lines = iter(stream.lines)
    while stream.comments < 3:
        stream.comments += next(lines).startswith(":")
    seen = [served.state.db.engine.pool.checkedout() for _ in range(50) if not time.sleep(0.002)]
    assert min(seen) == 0, "now and then one looks; nobody stays"
    stream.close()


def test_a_key_has_so_many_streams_and_its_place_is_free_again_once_one_closes(floor: Floor, url: str) -> None:
    open_ones = [Stream(floor, url, "/v1/events") for _ in range(2)]
    third = Stream(floor, url, "/v1/events")
    assert third.answer.status_code == 429
    assert third.answer.headers["content-type"] == "application/problem+json"
    assert int(third.answer.headers["retry-after"]) > 0
    Stream(floor, url, "/v1/events", "other").close()
    open_ones[0].close()
    deadline = time.monotonic() + 30
    while (again := Stream(floor, url, "/v1/events")).answer.status_code == 429:
        again.close()
        assert time.monotonic() < deadline
    again.close()
    open_ones[1].close()


def test_a_database_that_goes_away_is_waited_for_and_nothing_is_lost_or_repeated(
    floor: Floor, url: str, services: EmbeddedServices
) -> None:
    asked = floor.ask(1)
    stream = Stream(floor, url, f"/v1/requests/{asked}/events")
    seen = stream.take(1)
    for verdict in (BAD, None):
        cut_connections(services, floor.settings.database_url)
        floor.db.dispose()
        floor.work(verdict) if verdict else floor.work()
    seen += stream.rest()[:-1]
    assert kinds(seen) == LIFE and len({event["id"] for event in seen}) == len(seen)
    stream.close()


def test_a_stream_of_a_revoked_key_ends(floor: Floor, url: str) -> None:
    stream = Stream(floor, url, "/v1/events")
    revoke(floor.db, floor.caller.keys["requester"])
    (last,) = stream.rest()
    assert (last["event"], json.loads(last["data"])) == ("end", {"state": "key-revoked"})
    stream.close()


# Pages


def test_pages_hold_every_event_once_in_order_and_say_where_to_go_on(floor: Floor) -> None:
    asked = floor.ask(1)
    floor.work(BAD)
    floor.work()
    until_settled(floor.db)
    path, seen, after = f"/v1/requests/{asked}/events", [], None
    more = True
    while more:
        page = floor.caller.call("requester", "GET", path, params={"limit": 2, **({"after": after} if after else {})})
        seen, after, more = seen + page["items"], page["next_cursor"], page["more"]
    assert [event["kind"] for event in seen] == LIFE
    assert [event["sequence"] for event in seen] == sorted({event["sequence"] for event in seen})
    assert floor.caller.call("requester", "GET", path, params={"after": after})["items"] == []


def test_pages_are_narrowed_by_kind_and_served_model(floor: Floor) -> None:
    floor.caller.call("operator", "POST", "/v1/models", 201, json=floor.registration("second"))
    floor.ask(1)
    floor.ask(2, model="second")
    floor.work()
    until_settled(floor.db)

    def found(**query: Any) -> set[tuple[str, str]]:
        items = floor.caller.call("operator", "GET", "/v1/events", params={"limit": 200, **query})["items"]
        return {(item["kind"], item["served_model"]) for item in items}

    assert found(kinds="request.received") == {("request.received", "people"), ("request.received", "second")}
    assert found(served_model="second") == {("request.received", "second")}
    assert {kind.split(".")[0] for kind, _ in found(kinds=["job.*"])} == {"job"}
    assert {kind for kind, _ in found(kinds=["job.queued", "request.published"])} == {"job.queued", "request.published"}
    found_none = floor.caller.refused("operator", "GET", "/v1/events", params={"served_model": "nobody"})
    assert found_none == (422, "unknown-served-model")


def test_from_now_on_there_is_nothing_until_something_happens(floor: Floor) -> None:
    floor.ask(1)
    until_settled(floor.db)
    page = floor.caller.call("requester", "GET", "/v1/events", params={"after": "latest"})
    assert page["items"] == [] and not page["more"]
    asked = floor.ask(2)
    until_settled(floor.db)
    (event,) = floor.caller.call("requester", "GET", "/v1/events", params={"after": page["next_cursor"]})["items"]
    assert (event["kind"], event["request_id"]) == ("request.received", asked)


def test_other_peoples_events_are_not_there(floor: Floor) -> None:
    theirs, mine = floor.ask(1, role="other"), floor.ask(2)
    floor.work()
    until_settled(floor.db)
    job = floor.caller.call("operator", "GET", "/v1/jobs")["items"][0]["id"]
    for headers in ({}, STREAM):
        for path in (f"/v1/requests/{theirs}/events", f"/v1/requests/{uuid.uuid4()}/events",
                     f"/v1/jobs/{uuid.uuid4()}/events"):  # fmt: skip
            assert floor.caller.refused("requester", "GET", path, headers=headers) == (404, "not-found")
    assert theirs not in json.dumps(floor.caller.call("requester", "GET", f"/v1/jobs/{job}/events"))
    everything = json.dumps(floor.caller.call("requester", "GET", "/v1/events"))
    assert mine in everything and theirs not in everything


@pytest.mark.parametrize("after", ["nothing", "1", "-", "1-2-3", "1-99999999999999999999"])
def test_a_cursor_that_is_none_is_refused(floor: Floor, after: str) -> None:
    assert floor.caller.send("requester", "GET", "/v1/events", params={"after": after}).status_code in {400, 422}
    headers = {"Last-Event-ID": after}
    assert floor.caller.refused("requester", "GET", "/v1/events", headers=headers) == (400, "bad-cursor")


def test_a_stream_waits_for_what_is_committed_and_not_yet_settled(floor: Floor, url: str) -> None:
    """Its request has ended, and an older transaction is open: the end is not told before what led to it."""
    asked = floor.ask(1)
    until_settled(floor.db)
    with floor.db.session_factory() as older:
        older.add(Event(kind="thing.changed", data={}))
        older.flush()
        floor.caller.call("requester", "DELETE", f"/v1/requests/{asked}")
        stream = Stream(floor, url, f"/v1/requests/{asked}/events")
        assert kinds(stream.take(1)) == ["request.received"]
        lines = iter(stream.lines)
        while stream.comments < 2:
            line = next(lines)
            assert not line.startswith("event"), line
            stream.comments += line.startswith(":")
        older.commit()
    assert kinds(stream.rest()) == ["request.withdrawn", "end"]
    stream.close()


def test_settings_of_these_tests_are_read(settings: Settings) -> None:
    assert load_settings().events_poll_seconds == settings.events_poll_seconds == 0.02
