"""ETag, If-Match and If-None-Match (RFC 9110, 8.8 and 13.1): nobody overwrites what they have not seen.

The tag of a row is its `xmin`, the transaction that wrote it: any change shows, whoever made it, without a column that
somebody could forget to count up.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Response

from app.errors import ServiceError

HEADER_MAX_CHARS = 2000
IfMatch = Annotated[
    str | None,
    Header(max_length=HEADER_MAX_CHARS, description="only while the ETag is one of these, or `*`; else 412"),
]
IfNoneMatch = Annotated[
    str | None, Header(max_length=HEADER_MAX_CHARS, description="304 and no body while the ETag is still one of these")
]
ETAG: dict[str, Any] = {"ETag": {"description": "changes when the resource does", "schema": {"type": "string"}}}
"""For the `headers` of a documented answer."""
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "What `If-None-Match` names is still so"}}


class PreconditionFailed(ServiceError):
    """412."""

    status, type, title = 412, "precondition-failed", "It has changed since it was read"
    mend = "Read it again, decide anew, and send its new ETag in If-Match."


def entity_tag(revision: str) -> str:
    """The strong tag of a revision."""
    return f'"{revision}"'


def require_match(if_match: str, tag: str) -> None:
    """Raises PreconditionFailed unless the header names the tag (strong comparison: a weak one never does)."""
    named = _named(if_match)
    if tag not in named and named != ["*"]:
        raise PreconditionFailed("no ETag that If-Match names is the present one")


def is_known(if_none_match: str | None, tag: str) -> bool:
    """Whether If-None-Match names the tag (weak comparison)."""
    named = [part.removeprefix("W/") for part in _named(if_none_match or "")]
    return tag in named or named == ["*"]


def not_modified(tag: str) -> Response:
    """The answer to somebody who has it already."""
    return Response(status_code=304, headers={"ETag": tag})


def _named(header: str) -> list[str]:
    return [part.strip() for part in header.split(",")]
