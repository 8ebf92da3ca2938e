"""What the service says when it can not stream."""

from __future__ import annotations

from typing import ClassVar

from app.errors import Gone, ServiceError


class TooManyStreams(ServiceError):
    """429."""

    status, type, title = 429, "too-many-streams", "This key has as many event streams open as it may"
    mend = "Close one, or follow GET /v1/events, which tells of everything that this key may see."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "30"}


class EventsRemoved(Gone):
    """What came next to that position is not kept any more."""

    type = "events-removed"
    title = "Events that follow this position were removed: they are older than they are kept"
    mend = (
        "Read the requests or jobs that you follow, then go on with `after=latest`; without `after` you get what is "
        "kept. Whoever reads at least once in GRAIL_KEEP_EVENTS_DAYS misses nothing."
    )
