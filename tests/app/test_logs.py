"""Logs hold ids, kinds and places; never what people sent, not even inside an exception that a server logs whole."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.logs import configure_logs

SECRET = "Mirela lives at 14 Larch Quay"


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged from here on."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    written = io.StringIO()
    with monkeypatch.context() as replaced:
        replaced.setattr(sys, "stderr", written)
        configure_logs()
    yield written
    root.handlers, root.level = before, level


def fails() -> None:
    raise ValueError(SECRET)


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "a library's"])
def test_an_exception_is_logged_by_kind_and_place_without_its_text(logs: io.StringIO, ours: bool) -> None:
    log = structlog.get_logger("here") if ours else logging.getLogger("uvicorn.error")
    try:
        fails()
    except ValueError:
        log.error("Exception in ASGI application", exc_info=True)
    said = logs.getvalue()
    assert "Larch" not in said
    line = json.loads(said)
    assert line["kind"] == "ValueError" and "test_logs.py:" in line["where"] and line["event"].startswith("Exception")


def test_an_unforeseen_error_of_a_route_leaves_no_text_in_answer_or_log(api: FastAPI, logs: io.StringIO) -> None:
    api.get("/fails")(fails)
    with TestClient(api, raise_server_exceptions=False) as client:
        answer = client.get("/fails")
    assert answer.status_code == 500 and "Larch" not in answer.text
    assert answer.json()["incident"] in logs.getvalue()
    assert "Larch" not in logs.getvalue()
