"""A process takes on so much and no more; health and open streams do not count; what is slow is let go of."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from app.config import Settings
from app.errors import Overloaded
from app.health import Kept, Readiness
from app.in_flight import InFlight
from app.main import create_app
from tests.app.service import Floor
from tests.fixtures.served import question

HALF = b'{"served_model": "people", "domain": "privacy", "fo'


class Gate:
    """InFlight before an application that answers when it is told to."""

    def __init__(self, most: int) -> None:
        self.shed, self.go, self.sent = 0, asyncio.Event(), [b"application/json"]
        self.layer = InFlight(self.app, most, self.note)

    def note(self) -> None:
        self.shed += 1

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/broken":
            raise RuntimeError
        kind = b"text/event-stream; charset=utf-8" if scope["path"] == "/stream" else b"application/json"
        if scope["path"] != "/stream":
            await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await self.go.wait()

    def call(self, path: str) -> asyncio.Task[int]:
        async def run() -> int:
            found: list[Message] = []

            async def send(message: Message) -> None:
                found.append(message)

            await self.layer({"type": "http", "path": path, "headers": []}, asyncio.Event().wait, send)  # type: ignore[arg-type]
            headers = dict(found[0]["headers"])
            assert found[0]["status"] != 503 or int(headers[b"retry-after"]) > 0
            return int(found[0]["status"])

        return asyncio.create_task(run())


def test_over_its_bound_a_call_is_refused_at_once_and_there_is_room_again_after() -> None:
    async def run() -> None:
        gate = Gate(2)
        working = [gate.call("/a"), gate.call("/b")]
        assert await gate.call("/c") == 503 and gate.shed == 1
        gate.go.set()
        assert [await task for task in working] == [200, 200]
        assert await gate.call("/c") == 200
        assert gate.layer.count == 0

    asyncio.run(run())


def test_a_place_is_free_again_after_an_error_and_after_a_caller_who_left() -> None:
    async def run() -> None:
        gate = Gate(1)
        with pytest.raises(RuntimeError):
            await gate.call("/broken")
        left = gate.call("/a")
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert gate.layer.count == 0

    asyncio.run(run())


def test_open_streams_leave_their_place_and_health_needs_none() -> None:
    async def run() -> None:
        gate = Gate(1)
        streams = [gate.call("/stream") for _ in range(5)]
        await asyncio.sleep(0)
        assert gate.layer.count == 0
        working = gate.call("/a")
        await asyncio.sleep(0)
        assert await gate.call("/b") == 503
        healthy = [gate.call(path) for path in ("/healthz", "/readyz", "/metrics")]
        gate.go.set()
        assert [await task for task in (*streams, working, *healthy)] == [200] * 9
        assert gate.layer.count == 0

    asyncio.run(run())


def test_streams_have_a_bound_of_their_own(shared: Floor) -> None:
    import uuid

    from app.events.streams import Streams

    async def run() -> None:
        streams = Streams(shared.db, poll_seconds=60, heartbeat_seconds=60, per_key=9, most=2)
        first, second = (streams.opened(uuid.uuid4(), None) for _ in range(2))
        with first, second, pytest.raises(Overloaded), streams.opened(uuid.uuid4(), None):
            raise AssertionError("a third was opened")
        with streams.opened(uuid.uuid4(), None):
            assert len(streams.bells) == 1

    asyncio.run(run())


def test_readiness_is_looked_at_once_for_any_number_of_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    looking = threading.Event()

    def look() -> Readiness:
        nonlocal looks
        looks += 1
        assert looking.wait(10)
        return Readiness(ready=True, checks={}, warnings={})

    async def run() -> None:
        kept = Kept()
        callers = [asyncio.create_task(kept.get(look)) for _ in range(500)]
        await asyncio.sleep(0)
        callers.pop().cancel()  # one who hangs up takes nothing from the others
        looking.set()
        assert all(found.ready for found in await asyncio.gather(*callers)) and looks == 1
        await kept.get(look)
        assert looks == 1
        monkeypatch.setattr("app.health.KEPT_SECONDS", 0.0)
        await kept.get(look)
        assert looks == 2

    asyncio.run(run())


def test_readiness_asks_the_database_once_a_second_for_anybody(shared: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy import event

    monkeypatch.setattr("app.health.KEPT_SECONDS", 3600.0)
    heard: list[str] = []
    with TestClient(create_app(shared.settings)) as client:
        engine = client.app.state.db.engine  # type: ignore[attr-defined]
        event.listen(engine, "before_cursor_execute", lambda *given: heard.append(given[2]))
        client.get("/readyz")
        first = len(heard)
        assert first > 0
        assert {client.get("/readyz").status_code for _ in range(20)} == {200}
        assert len(heard) == first


# On a socket


@contextmanager
def listening(settings: Settings) -> Iterator[int]:
    """A process on a socket, its port."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield int(opened.getsockname()[1])
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(shared: Floor) -> Iterator[int]:
    with listening(shared.settings.model_copy(update={"body_seconds": 0.3, "max_body_bytes": 2000})) as found:
        yield found


def begun(key: str, head: str) -> bytes:
    """The head of a call."""
    return (
        f"POST /v1/requests HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\n{head}\r\n"
    ).encode()


def raw(port: int, key: str, *parts: bytes, head: str = "", ends: bool = False) -> bytes:
    """All that comes back until the server hangs up; with `ends` we do so first. What is answered before the body has
    come ends in a reset where the body comes after it: the answer is there all the same."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        line.sendall(begun(key, head))
        for part in parts:
            line.sendall(part)
        if ends:
            line.shutdown(socket.SHUT_WR)
        answered = b""
        with suppress(ConnectionResetError):
            while found := line.recv(65536):
                answered += found
        return answered


def status(answered: bytes) -> int:
    return int(answered.split(b" ", 2)[1])


@pytest.mark.parametrize("head", ["Content-Length: 500\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_body_that_does_not_come_is_a_408_and_the_end_of_the_connection(shared: Floor, port: int, head: str) -> None:
    part = HALF if "Length" in head else f"{len(HALF):x}\r\n".encode() + HALF + b"\r\n"
    answered = raw(port, shared.caller.keys["requester"], part, head=head)
    assert status(answered) == 408 and b"body-too-slow" in answered
    assert b"connection: close" in answered.lower()


def test_a_body_that_comes_in_drops_is_cut_off_all_the_same(shared: Floor, port: int) -> None:
    """Its time is for the whole of it: a byte now and then does not prolong it."""
    key = shared.caller.keys["requester"]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        line.sendall(begun(key, "Content-Length: 1900\r\n"))
        line.settimeout(0.02)
        answered = b""
        for _ in range(1500):
            line.sendall(b" ")
            try:
                answered = line.recv(65536)
            except TimeoutError:
                continue
            break
    assert status(answered) == 408


def test_lengths_that_are_not_so_are_refused_and_never_break_the_service(shared: Floor, port: int) -> None:
    key = shared.caller.keys["requester"]
    whole = json.dumps({"served_model": "people", "domain": "privacy", "forget": [question(7)]}).encode()
    close = "Connection: close\r\n"
    cases = {
        "too long": (raw(port, key, head="Content-Length: 99999999999\r\n"), {413}),
        "no number": (raw(port, key, head="Content-Length: abc\r\n"), {400}),
        "negative": (raw(port, key, head="Content-Length: -1\r\n"), {400}),
        "two": (raw(port, key, head="Content-Length: 5\r\nContent-Length: 6\r\n"), {400}),
        "endless": (raw(port, key, head=f"Content-Length: {'9' * 5000}\r\n"), {400, 413}),
        "short": (raw(port, key, whole, head=f"Content-Length: {len(whole) - 9}\r\n{close}"), {400}),
        "grows": (raw(port, key, b"7d1\r\n" + b" " * 2001 + b"\r\n", head="Transfer-Encoding: chunked\r\n"), {413}),
        "right": (raw(port, key, whole, head=f"Content-Length: {len(whole)}\r\n{close}"), {202}),
    }
    assert [name for name, (answered, wanted) in cases.items() if status(answered) not in wanted] == []


def test_a_body_that_breaks_off_leaves_the_service_well(shared: Floor, port: int) -> None:
    key = shared.caller.keys["requester"]
    answered = raw(port, key, HALF, head="Content-Length: 500\r\n", ends=True)
    assert not answered or status(answered) == 400
    assert status(raw(port, key, b"{}", head="Content-Length: 2\r\nConnection: close\r\n")) == 422


def test_slow_callers_take_the_places_and_others_are_told_at_once(shared: Floor) -> None:
    key = shared.caller.keys["requester"]
    settings = shared.settings.model_copy(update={"max_in_flight": 2, "metrics_token": "t" * 40})
    with listening(settings) as port:
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for line in slow:
            line.sendall(begun(key, "Content-Length: 500\r\n") + HALF)
        found: Any = b""
        for _ in range(500):  # until both have been seen
            found = raw(port, key, b"{}", head="Content-Length: 2\r\nConnection: close\r\n")
            if status(found) == 503:
                break
        assert status(found) == 503 and b"overloaded" in found and b"retry-after: " in found.lower()
        for line in slow:
            line.close()
        for _ in range(500):
            found = raw(port, key, b"{}", head="Content-Length: 2\r\nConnection: close\r\n")
            if status(found) != 503:
                break
        assert status(found) == 422
