"""What can be wrong with a repeated call."""

from __future__ import annotations

from typing import ClassVar

from app.errors import Conflict, Unprocessable


class KeyReused(Unprocessable):
    """The key belongs to another call."""

    type = "idempotency-key-reused"
    title = "The Idempotency-Key was used for another call"
    mend = "Send a new key with each new call; repeat a call with exactly the body and address that it had."


class StillAtWork(Conflict):
    """The first call with this key has not ended."""

    type = "idempotency-in-progress"
    title = "A call with this Idempotency-Key is still at work"
    mend = "Send the same again after the seconds in Retry-After: it then gets the first one's answer."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}
