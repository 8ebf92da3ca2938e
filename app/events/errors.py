"""What the service says when it can not stream."""

from __future__ import annotations

from typing import ClassVar

from app.errors import ServiceError


class TooManyStreams(ServiceError):
    """429."""

    status, type, title = 429, "too-many-streams", "This key has as many event streams open as it may"
    mend = "Close one, or follow GET /v1/events, which tells of everything that this key may see."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "30"}
