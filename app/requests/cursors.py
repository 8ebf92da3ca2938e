"""Opaque cursors: the id that a page ended with, marked with the form's version."""

from __future__ import annotations

import base64
import binascii
import uuid

from app.requests.errors import BadCursor

FORM = b"\x01"


def cursor_of(last_id: uuid.UUID) -> str:
    """The cursor of the page that follows `last_id`."""
    return base64.urlsafe_b64encode(FORM + last_id.bytes).decode().rstrip("=")


def id_of(cursor: str) -> uuid.UUID:
    """The id in a cursor. Raises BadCursor."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadCursor from None
    if len(raw) != 17 or raw[:1] != FORM:
        raise BadCursor
    return uuid.UUID(bytes=raw[1:])
