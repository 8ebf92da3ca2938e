"""What the service says to who asks too often."""

from __future__ import annotations

from typing import ClassVar

from app.errors import ServiceError


class RateLimited(ServiceError):
    """429."""

    status, type, title = 429, "rate-limited", "This key has made as many calls of this kind as it may"
    mend = "Wait for the seconds in Retry-After. Many requests at once are one call of POST /v1/imports."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "60"}


class TooManyFailures(ServiceError):
    """429 for who has no key, or tries many."""

    status, type, title = 429, "too-many-failures", "Too many calls without a valid key came from this address"
    mend = "Wait for the seconds in Retry-After, then send a valid key."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "60"}
