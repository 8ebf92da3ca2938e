"""Documents over HTTP, reports and certificates alike: one address, three formats, a tag of what is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response

from app.errors import NotFound, ServiceError, Unauthorised, Unavailable, Unprocessable, problem_responses
from app.preconditions import is_known
from app.reports import html
from app.reports.negotiation import NotAcceptable, choose
from app.reports.schemas import Format
from app.storage import BlobStore, FileStore

PAGE_POLICY = "frame-ancestors 'none'; sandbox"
"""What a content policy can say in a header only."""


def _blobs(request: Request) -> BlobStore:
    return FileStore(request.app.state.settings.artifacts_dir)


def _wanted(
    request: Request,
    named: Annotated[Format | None, Query(alias="format", description="goes before the Accept header")] = None,
) -> Format:
    return choose(named, ", ".join(request.headers.getlist("accept")))


Blobs = Annotated[BlobStore, Depends(_blobs)]
Wanted = Annotated[Format, Depends(_wanted)]


def answers(what: str, schema: Mapping[str, Any], *errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of an address that gives a document; `errors` beside those of any."""
    return {
        200: {
            "description": what,
            "headers": {"ETag": {"description": "changes when anything shown does", "schema": {"type": "string"}}},
            "content": {
                "application/json": {"schema": schema},
                "text/html": {"schema": {"type": "string"}},
                "application/pdf": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        304: {"description": "What `If-None-Match` names is still what is shown"},
        **problem_responses(Unauthorised, NotFound, NotAcceptable, Unprocessable, Unavailable, *errors),
    }


def representation(format_: Format) -> str:
    """For the tag: pages may look otherwise in another version of the service, the JSON may not."""
    return "json" if format_ is Format.JSON else f"{format_}/{version('grail-server')}"


def answer(
    format_: Format, name: str, tag: str, if_none_match: str | None, content: Callable[[], bytes]
) -> Response:
    """The document under the name of a file, or 304 where the caller has it."""
    headers = {"ETag": tag, "Vary": "Accept, Authorization"}
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'inline; filename="{name}.{format_}"'
    if format_ is Format.HTML:
        headers["Content-Security-Policy"] = f"{html.content_policy()}; {PAGE_POLICY}"
    return Response(content(), media_type=format_.media_type, headers=headers)
