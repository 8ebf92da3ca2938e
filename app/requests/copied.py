"""Rows as the text of COPY (PostgreSQL, "File Formats", text format), one file a table. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import IO, Any

from app.audit.service import Entry
from app.envelope.codec import Codec
from app.requests import duplicates, intake
from app.requests.intake import Asked
from app.requests.intake_repository import REQUEST_COLUMNS

NULL = "\\N"
ESCAPED = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
ARRIVAL, REQUEST, EXAMPLE, AUDIT, EVENT = "arrival", "request", "example", "audit", "event"
COLUMNS: Mapping[str, Sequence[str]] = {
    ARRIVAL: ("position", "id", "served_model_id", "fingerprint"),
    REQUEST: (*REQUEST_COLUMNS, "tries", "settings"),
    EXAMPLE: (
        "id", "served_model_id", "request_id", "parent_id", "domain", "segment", "role", "position", "key_id",
        "subject_index", "content_sealed", "content_digest", "standing", "erased_by_request_id", "removed_at",
    ),
    AUDIT: ("event", "subject_id", "leaf"),
    EVENT: ("kind", "request_id", "served_model_id", "data", "created_at"),
}  # fmt: skip
"""Tables in the order in which they are filled, with their columns. `arrival` says which requests came together: in
their order, with a fingerprint where they are linked to others for the same."""
NEW = {"tries": 0, "settings": {}}


class Lines:
    """Requests as lines of each table's file."""

    def __init__(self, files: Mapping[str, IO[bytes]]) -> None:
        self.files, self.count = files, 0

    def add(self, asked: Asked, now: datetime, codec: Codec) -> None:
        """Append one request with its items, leaves and events; what it retains stands, for now."""
        rows, request = intake.rows_of(asked, {}, now, codec), asked.request
        arrival = {
            "position": self.count, "id": request.id, "served_model_id": request.served_model_id,
            "fingerprint": request.fingerprint if duplicates.may_follow(request) else None,
        }  # fmt: skip
        self.count += 1
        self._write(ARRIVAL, [arrival])
        self._write(REQUEST, [{**rows.request, **NEW}])
        self._write(EXAMPLE, rows.examples)
        self.note(rows.trail)

    def note(self, trail: Sequence[Entry]) -> None:
        """Append leaves, and those events that they are."""
        self._write(AUDIT, map(intake.leaf_columns, trail))
        self._write(EVENT, intake.event_columns(trail))

    def _write(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self.files[table].writelines(line(COLUMNS[table], row) for row in rows)


def line(columns: Sequence[str], row: Mapping[str, Any]) -> bytes:
    """One row."""
    return ("\t".join(_cell(row[name]) for name in columns) + "\n").encode()


def _cell(value: Any) -> str:
    """One value; enums are texts, ids and numbers as they are written."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, bytes):
        return f"\\\\x{value.hex()}"
    if isinstance(value, datetime):
        return value.isoformat()
    text = json.dumps(value) if isinstance(value, dict | list) else str(value)
    return text.translate(ESCAPED)
