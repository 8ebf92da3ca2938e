"""An import with real processes, whose worker is killed in the middle of it."""

from __future__ import annotations

import json

from cli.stack import Stack
from tests.e2e.service import Service
from tests.fixtures.served import question

ROWS = 1500


def test_an_import_outlives_its_worker_without_a_row_twice(stack: Stack, service: Service) -> None:
    """Wrong rows among them are named once; what was imported before the kill is not imported again."""
    rows = [
        {"served_model": "tiny", "domain": "privacy", "forget": [question(number)], "client_reference": f"r{number}"}
        for number in range(ROWS)
    ]
    for number in (7, 701):
        rows[number]["served_model"] = "nobody"
    body = "\n".join(map(json.dumps, rows))
    made = service.call(
        "requester", "POST", "/v1/imports?partial=true", 202, content=body,
        headers={"Content-Type": "application/x-ndjson"},
    )  # fmt: skip
    path = f"/v1/imports/{made['id']}"
    service.until(path, lambda found: found["rows"] > 0)
    stack.kill("control")
    ended = service.until(path, lambda found: found["finished_at"] is not None, seconds=240)
    assert (ended["state"], ended["rows"], ended["imported"], ended["refused"]) == ("imported", ROWS, ROWS - 2, 2)
    answer = service.clients["requester"].get(f"{path}/errors")
    assert [json.loads(line)["line"] for line in answer.text.splitlines()] == [8, 702]
    references, cursor = [], None
    while True:
        wanted = {"limit": 200} | ({"cursor": cursor} if cursor else {})
        page = service.call("requester", "GET", "/v1/requests", params=wanted)
        references += [one["client_reference"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(references) == sorted(f"r{number}" for number in range(ROWS) if number not in (7, 701))
