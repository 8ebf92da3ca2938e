"""What the service knows of certificates. Their full JSON Schema is `schema_v1.json` beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SCHEMA = "grail.certificate/1"
SCHEMA_FILE = Path(__file__).with_name("schema_v1.json")
AS_READ = "as_read"
"""The one key that is filled in at reading, outside the digest."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate when it is read: what was digested, and how things stand now."""

    document: Mapping[str, Any]
    digest: str
    as_read: Mapping[str, Any]


@lru_cache(maxsize=1)
def json_schema() -> dict[str, Any]:
    """The published JSON Schema of `grail.certificate/1`."""
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema
