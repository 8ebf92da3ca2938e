"""Opaque cursors: the id that a page ended with, or its due date and id, marked with the form's version."""

from __future__ import annotations

import base64
import binascii
import uuid
from datetime import UTC, datetime, timedelta

from app.requests.errors import BadCursor

FORM, FORM_BY_DUE_DATE = b"\x01", b"\x02"
EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def cursor_of(last_id: uuid.UUID) -> str:
    """The cursor of the page that follows `last_id`."""
    return _written(FORM + last_id.bytes)


def id_of(cursor: str) -> uuid.UUID:
    """The id in a cursor. Raises BadCursor."""
    return uuid.UUID(bytes=_read(cursor, FORM, 16))


def due_cursor_of(due_at: datetime, last_id: uuid.UUID) -> str:
    """The cursor of the page that follows this due date and id in a list by due date."""
    microseconds = (due_at - EPOCH) // MICROSECOND
    return _written(FORM_BY_DUE_DATE + microseconds.to_bytes(8, signed=True) + last_id.bytes)


def due_date_of(cursor: str) -> tuple[datetime, uuid.UUID]:
    """The due date and id in a cursor. Raises BadCursor."""
    raw = _read(cursor, FORM_BY_DUE_DATE, 24)
    try:
        due_at = EPOCH + int.from_bytes(raw[:8], signed=True) * MICROSECOND
    except OverflowError:
        raise BadCursor from None
    return due_at, uuid.UUID(bytes=raw[8:])


def _written(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _read(cursor: str, form: bytes, length: int) -> bytes:
    """What follows the form's mark. Raises BadCursor."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadCursor from None
    if len(raw) != 1 + length or raw[:1] != form:
        raise BadCursor
    return raw[1:]
