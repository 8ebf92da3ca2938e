"""Where a reader of events stands: (transaction, number) of the last one that it was given. Pure.

A position is written `<xid>-<id>`: the `id` of a server-sent event, the `after` of a query, the cursor of a page.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from app.requests.errors import BadCursor

FORM = re.compile(r"([0-9]{1,19})-([0-9]{1,19})")
PATTERN = "^(latest|[0-9]{1,19}-[0-9]{1,19})$"
LATEST = "latest"
MOST = 2**63 - 1
"""The largest number that the database's columns hold."""


class Position(NamedTuple):
    """Events sort by transaction, then by number."""

    xid: int
    id: int

    def __str__(self) -> str:
        return f"{self.xid}-{self.id}"


START = Position(0, 0)


def position_of(text: str) -> Position:
    """The position in `text`. Raises BadCursor."""
    form = FORM.fullmatch(text)
    found = Position(int(form[1]), int(form[2])) if form else None
    if found is None or max(found) > MOST:
        raise BadCursor(mend="Send `id` of the last event that you have as it is, or `latest`, or nothing.")
    return found
