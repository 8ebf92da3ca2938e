"""A stream that is cut in the middle by real processes' deaths, and taken up again: nothing missed, nothing twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.db import Database
from cli.stack import Stack
from tests.app.service import Caller, Floor, until_settled
from tests.e2e.service import Service

SETTINGS = {
    "GRAIL_EVENTS_POLL_SECONDS": "0.05", "GRAIL_EVENTS_HEARTBEAT_SECONDS": "0.2", "PYTHONPATH": os.getcwd(),
}  # fmt: skip


class Remote:
    """The service over HTTP in the place of a test's own application."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.service.clients["admin"].request(method, path, **more)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    settings = {**SETTINGS, "GRAIL_MODEL_ROOTS": json.dumps([str(tmp_path)]), "GRAIL_SWEEP_SECONDS": "3600"}
    with Stack(settings, data_dir=tmp_path / "data", fsync=False, gpu_workers=0) as stack, Service(stack) as opened:
        yield opened
    stack.destroy()


class Reader:
    """A client that takes the stream up again behind the last event that it has."""

    def __init__(self, service: Service, path: str) -> None:
        self.service, self.path = service, path
        self.seen: list[dict[str, Any]] = []
        self.broken = 0

    def read(self, count: int) -> None:
        """Until it has `count` events, or the stream has said its last."""
        while len(self.seen) < count:
            headers = {"Accept": "text/event-stream"}
            if self.seen:
                headers["Last-Event-ID"] = self.seen[-1]["id"]
            try:
                with self.service.clients["admin"].stream("GET", self.path, headers=headers) as answer:
                    if answer.status_code in {200, 503}:
                        self._take(answer, count)
            except httpx.HTTPError:
                self.broken += 1

    def _take(self, answer: httpx.Response, count: int) -> None:
        for line in answer.iter_lines():
            if line.startswith("data: ") and "kind" in line:
                self.seen.append(json.loads(line.removeprefix("data: ")))
            if len(self.seen) == count:
                return


def test_a_stream_outlives_the_api_and_the_database(service: Service, tmp_path: Path) -> None:
    stack = service.stack
    db = Database(stack.database_url)
    floor = Floor(Caller(Remote(service), db), _settings(tmp_path), tmp_path)  # type: ignore[arg-type]
    floor.register()
    reader = Reader(service, "/v1/events?kinds=request.*")
    asked = [floor.ask(number) for number in range(1, 4)]
    reader.read(2)
    stack.kill("api")
    stack.wait_ready()
    reader.read(3)
    stack.kill("postgres")
    stack.wait_ready()
    db.dispose()
    asked += [floor.ask(number) for number in range(4, 7)]
    reader.read(4)
    stack.kill("postgres")
    stack.kill("api")
    stack.wait_ready()
    db.dispose()
    until_settled(db)
    whole = service.call("admin", "GET", "/v1/events?kinds=request.*&limit=200")["items"]
    reader.read(len(whole))
    db.dispose()
    assert [event["id"] for event in reader.seen] == [event["id"] for event in whole]
    received = [event["request_id"] for event in reader.seen if event["kind"] == "request.received"]
    assert received == asked


def _settings(directory: Path) -> Any:
    from app.config import Settings

    return Settings(data_dir=directory / "data")
