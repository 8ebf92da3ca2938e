"""Ids of what a call or task is about: in each log line that is made for it, and on its span.

Plain ids and slugs only: what a caller wrote into a path may be anything, and is left out unless it looks like one.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import structlog
from opentelemetry import trace

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAMES = {
    "request_id": "request_id", "job_id": "job_id", "import_id": "import_id", "webhook_id": "webhook_id",
    "delivery_id": "delivery_id", "name": "model",
}  # fmt: skip
"""Path parameters that are noted, and what they are called in logs."""

_noted: ContextVar[dict[str, str] | None] = ContextVar("grail_ids", default=None)


def begin() -> dict[str, str]:
    """What is noted from here on, also by threads that work for this call: their context is a copy of this one, the
    dictionary is the same."""
    noted: dict[str, str] = {}
    _noted.set(noted)
    return noted


def note(**ids: uuid.UUID | str | int | None) -> None:
    """Add ids to the log lines of this call or task, and to its span."""
    if not ids:
        return
    plain = {name: str(value) for name, value in ids.items() if value is not None and PLAIN.fullmatch(str(value))}
    structlog.contextvars.bind_contextvars(**plain)
    noted = _noted.get()
    if noted is not None:
        noted.update(plain)
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({f"grail.{name}": value for name, value in plain.items()})


def about(path_params: Mapping[str, Any]) -> None:
    """Note what a call's path names."""
    note(**{NAMES[name]: value for name, value in path_params.items() if name in NAMES})
