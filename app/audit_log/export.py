"""The whole log as a file for a regulator: JSON lines, written and read in constant memory.

The first line is the head: the log's name, size and root, the newest checkpoint (which covers that size) and the ring
of keys. A line for each leaf follows, then one for each checkpoint up to that one. `grail log verify --file` reads it
without the service. Leaves are read some hundred at a time, so that a slow reader holds no transaction open: what was
signed does not change meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from app.audit_log import repository, service
from app.audit_log.schemas import leaf_view
from app.db import Database, reading
from app.trust.verify import parse_head, parse_note

FORMAT = "grail-log-export-1"
AT_ONCE = 500
"""Leaves of one statement, of 8 KiB at most each."""


def head_line(db: Database) -> dict[str, Any]:
    """What an export begins with. Raises NoCheckpointYet."""
    with reading(db) as connection:
        last, ring = service.signed(connection), service.ring_text(connection)
    origin = parse_head(parse_note(last.note)[0]).origin
    return {
        "format": FORMAT, "origin": origin, "size": last.size, "root": last.root.hex(),
        "checkpoint": last.note.decode(), "keys": ring,
    }  # fmt: skip


def lines(db: Database, head: dict[str, Any]) -> Iterator[bytes]:
    """The export that begins with `head`, some lines at a time."""
    yield _line(head)
    for start in range(0, head["size"], AT_ONCE):
        with reading(db) as connection:
            rows = repository.leaves(connection, start, min(start + AT_ONCE, head["size"]))
        yield b"".join(_line(leaf_view(row).model_dump()) for row in rows)
    after = 0
    while True:
        with reading(db) as connection:
            found = repository.checkpoints(connection, after, AT_ONCE)
        if not found:
            return
        after = found[-1].id
        yield b"".join(_line({"checkpoint": bytes(row.note).decode()}) for row in found if row.size <= head["size"])


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
