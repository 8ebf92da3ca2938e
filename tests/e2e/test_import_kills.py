"""Imports with real processes, whose worker is killed in the middle of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cli.stack import Stack
from tests.e2e.service import Service, tiny_policy
from tests.fixtures.facts import TEMPLATE
from tests.fixtures.served import question

ROWS = 1500
WRONG = (7, 701)


@pytest.mark.parametrize("partial", [True, False], ids=["in parts", "whole"])
def test_an_import_outlives_its_worker_without_a_row_twice(
    stack: Stack, service: Service, taught: Path, partial: bool
) -> None:
    """In parts, wrong rows among them are named once, and what was imported before the kill is not imported again.
    Whole, it is killed while it checks and again as soon as anything is stored, none of which shows before all does."""
    wrong, name = (WRONG, "p") if partial else ((), "w")
    policy = tiny_policy(max_requests_per_batch=10_000)  # no job takes them while others use the service
    service.register(f"imported-{name}", taught / "base", taught / "adapter", TEMPLATE, policy)
    rows = [
        {
            "served_model": "nobody" if number in wrong else f"imported-{name}", "domain": "privacy",
            "forget": [question(number + ROWS * partial)], "client_reference": f"{name}{number}",
        }
        for number in range(ROWS)
    ]  # fmt: skip
    body = "\n".join(map(json.dumps, rows))
    made = service.call(
        "requester", "POST", f"/v1/imports?partial={partial}", 202, content=body,
        headers={"Content-Type": "application/x-ndjson"},
    )  # fmt: skip
    path = f"/v1/imports/{made['id']}"
    service.until(path, lambda found: found["rows"] > 0)
    stack.kill("control")
    if not partial:
        found = service.until(path, lambda found: found["stored"] > 0 or found["finished_at"] is not None, seconds=240)
        if found["finished_at"] is None:
            assert references(service, name) == []
            stack.kill("control")
    ended = service.until(path, lambda found: found["finished_at"] is not None, seconds=240)
    counted = ("imported", ROWS, ROWS - len(wrong), ROWS - len(wrong), len(wrong))
    assert tuple(ended[field] for field in ("state", "rows", "stored", "imported", "refused")) == counted
    answer = service.clients["requester"].get(f"{path}/errors")
    assert [json.loads(line)["line"] for line in answer.text.splitlines()] == [number + 1 for number in wrong]
    assert references(service, name) == sorted(f"{name}{number}" for number in range(ROWS) if number not in wrong)
    no_file_stays(stack.data_dir / "imports")


def no_file_stays(directory: Path, seconds: float = 60) -> None:
    """Files go once the end is stored, so that who asks at once may still see them."""
    deadline = time.monotonic() + seconds
    while left := list(directory.iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def references(service: Service, name: str) -> list[str]:
    """Those of all requests that begin so."""
    found: list[Any] = []
    cursor = None
    while True:
        wanted = {"limit": 200} | ({"cursor": cursor} if cursor else {})
        page = service.call("requester", "GET", "/v1/requests", params=wanted)
        found += [one["client_reference"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return sorted(one for one in found if one.startswith(name))
