"""Files of requests as tests bring them and a worker has them, step by step."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import func, select, update

from app.db import transaction
from app.imports import run, spool
from app.tables import Import, Request
from tests.app.service import Floor
from tests.fixtures.served import question

PATH = "/v1/imports"
JSONL = {"Content-Type": "application/x-ndjson"}
CSV = {"Content-Type": "text/csv"}
SECRET = "Brandmayr"


class Imports:
    """Files brought and worked on, step by step."""

    def __init__(self, floor: Floor) -> None:
        self.floor, self.db, self.settings = floor, floor.db, floor.settings
        self.directory = floor.settings.data_dir / spool.DIRECTORY

    def send(self, content: Any, role: str = "requester", query: str = "", **headers: str) -> httpx.Response:
        return self.floor.caller.send(role, "POST", PATH + query, content=content, headers={**JSONL, **headers})

    def bring(self, *rows: Any, partial: bool = False, role: str = "requester") -> uuid.UUID:
        """The id of an import of JSONL."""
        answer = self.send("\n".join(map(json.dumps, rows)).encode(), role, f"?partial={partial}")
        assert answer.status_code == 202, answer.text
        return uuid.UUID(answer.json()["id"])

    def run(self, import_id: uuid.UUID) -> Any:
        """What a worker does; the import afterwards."""
        run.run(self.db, self.settings, import_id)
        return self.view(import_id)

    def view(self, import_id: uuid.UUID, role: str = "requester") -> Any:
        return self.floor.caller.call(role, "GET", f"{PATH}/{import_id}")

    def faults(self, import_id: uuid.UUID) -> list[dict[str, Any]]:
        answer = self.floor.caller.send("requester", "GET", f"{PATH}/{import_id}/errors")
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    def lease_over(self, import_id: uuid.UUID) -> None:
        with transaction(self.db) as session:
            over = datetime.now(UTC) - timedelta(seconds=1)
            session.execute(update(Import).where(Import.id == import_id).values(lease_until=over))

    def references(self) -> list[str]:
        with self.db.session_factory() as session:
            return sorted(filter(None, session.scalars(select(Request.client_reference))))

    def count(self, table: Any = Request) -> int:
        with self.db.session_factory() as session:
            return int(session.scalar(select(func.count()).select_from(table)) or 0)


def row(number: int, **more: Any) -> dict[str, Any]:
    return {
        "served_model": "people", "domain": "privacy", "forget": [question(number)], "retain": [question(900 + number)],
        "client_reference": f"ref-{number:03}", **more,
    }  # fmt: skip


WRONG: dict[str, Any] = row(0, forget=[question(0, facts=[SECRET])], client_reference=SECRET)
