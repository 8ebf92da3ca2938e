"""Which format a caller gets: the one it names, else the one that its Accept header likes best. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from app.errors import ServiceError
from app.reports.schemas import Format

QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
TYPES = {format_: format_.media_type.partition(";")[0] for format_ in Format}


class NotAcceptable(ServiceError):
    """406."""

    status: ClassVar[int] = 406
    type = "not-acceptable"
    title = "It does not come in a format that the Accept header allows"
    mend = "Accept application/json, text/html or application/pdf, or name one: ?format=json, html or pdf."


def choose(named: Format | None, accept: str | None) -> Format:
    """The format: `named` whatever is accepted, JSON when nothing is said. Raises NotAcceptable."""
    if named is not None:
        return named
    if accept is None or not accept.strip():
        return Format.JSON
    ranges = list(_ranges(accept))
    best = max(Format, key=lambda format_: _quality(format_, ranges))  # the first of those that are liked equally
    if _quality(best, ranges) <= 0:
        raise NotAcceptable()
    return best


def _quality(format_: Format, ranges: list[tuple[str, float]]) -> float:
    """What the most specific range that covers the format says (RFC 9110, 12.5.1); 0 when none does."""
    wanted = TYPES[format_]
    family = wanted.partition("/")[0] + "/*"
    for name in (wanted, family, "*/*"):
        found = [quality for range_, quality in ranges if range_ == name]
        if found:
            return max(found)
    return 0.0


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """(media range, quality) of each part; what is malformed counts as not said."""
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        given = [piece.removeprefix("q=") for piece in parameters if piece.startswith("q=")]
        if not given:
            yield name, 1.0
        elif QUALITY.fullmatch(given[0]):
            yield name, float(given[0])
