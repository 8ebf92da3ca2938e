"""What the service knows of report documents. Their full JSON Schemas are `schema_v2.json`, and `schema_v1.json` of
those that were issued before, beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

SCHEMA = "grail.report/2"
FIRST_SCHEMA = "grail.report/1"
SCHEMA_FILES = {SCHEMA: "schema_v2.json", FIRST_SCHEMA: "schema_v1.json"}
"""Every schema that a report may have, the newest first."""

Document = Mapping[str, Any]


class Format(StrEnum):
    """How a report may be had."""

    JSON = "json"
    HTML = "html"
    PDF = "pdf"

    @property
    def media_type(self) -> str:
        """Its media type."""
        return {"json": "application/json", "html": "text/html; charset=utf-8", "pdf": "application/pdf"}[self.value]


@dataclass(frozen=True, slots=True)
class Issued:
    """A report as it stands when it is read: what was digested, and what may change after."""

    document: Document
    digest: str
    state: str  # the job's state now
    replicas: tuple[Mapping[str, Any], ...]  # those that have not acknowledged the active version
    approvals: tuple[Mapping[str, Any], ...] = ()  # what officers decided
    audit_position: Mapping[str, Any] | None = None  # of its leaf in the audit log


@lru_cache(maxsize=len(SCHEMA_FILES))
def json_schema(name: str = SCHEMA) -> dict[str, Any]:
    """The published JSON Schema of that name. Raises KeyError."""
    path = Path(__file__).with_name(SCHEMA_FILES[name])
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def openapi_schema() -> dict[str, Any]:
    """All of them, with every reference put in place."""
    return {"oneOf": [in_place(json_schema(name)) for name in SCHEMA_FILES]}


def in_place(whole: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with every reference put in place: inside an OpenAPI document `#/$defs` would point elsewhere."""
    definitions = whole.get("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(entry) for entry in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(definitions[part["$ref"].removeprefix("#/$defs/")])
        return {key: resolved(value) for key, value in part.items()}

    return {key: resolved(value) for key, value in whole.items() if not key.startswith("$")}
