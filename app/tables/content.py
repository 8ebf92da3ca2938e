"""What a row says of a person or a work: sealed as one value, under the key of its request."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from app.envelope.codec import Kind


@dataclass(frozen=True, slots=True)
class Content:
    """The texts of an example."""

    subject: str = field(repr=False)
    prompt: str = field(repr=False)
    completion: str = field(repr=False)
    facts: tuple[str, ...] = field(default=(), repr=False)


def _to_bytes(content: Any) -> bytes:
    return to_json([content.subject, content.prompt, content.completion, content.facts])


def _from_bytes(raw: bytes) -> Content:
    subject, prompt, completion, facts = json.loads(raw)
    return Content(subject, prompt, completion, tuple(facts))


CONTENT = Kind(_to_bytes, _from_bytes)
