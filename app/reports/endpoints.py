"""Evaluation reports over HTTP: one address, three formats."""

from __future__ import annotations

import uuid
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from app.auth import Principal, require
from app.db import DbSession
from app.errors import NotFound, Unauthorised, Unavailable, Unprocessable, problem_responses
from app.preconditions import IfNoneMatch, is_known
from app.reports import html, pdf, service
from app.reports.negotiation import NotAcceptable, choose
from app.reports.schemas import Format, Issued, openapi_schema
from app.storage import BlobStore, FileStore
from app.trust.canonical import canonical

router = APIRouter(prefix="/v1/jobs", tags=["reports"])
Anyone = Annotated[Principal, Depends(require())]
BINARY = {"schema": {"type": "string", "format": "binary"}}
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

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The report",
        "headers": {"ETag": {"description": "changes when anything shown does", "schema": {"type": "string"}}},
        "content": {
            "application/json": {"schema": openapi_schema()},
            "text/html": {"schema": {"type": "string"}},
            "application/pdf": BINARY,
        },
    },
    304: {"description": "What `If-None-Match` names is still what is shown"},
    **problem_responses(
        Unauthorised, NotFound, service.ReportMissing, NotAcceptable, Unprocessable, service.ReportDamaged, Unavailable
    ),
}


@router.get(
    "/{job_id}/report", summary="The evaluation report of a job", response_class=Response, responses=ANSWERS,
)  # fmt: skip
def read(
    job_id: uuid.UUID, session: DbSession, who: Anyone, blobs: Blobs, format_: Wanted,
    if_none_match: IfNoneMatch = None,
) -> Response:  # fmt: skip
    """As canonical JSON, as one HTML file that loads nothing, or as PDF for the archive and for a signature.

    The JSON is the document as it was issued and, as they are now, `replicas_not_acknowledged`, `approvals` and
    `audit_position`. Without these its canonical bytes (RFC 8785) have the SHA-256 that HTML, PDF and the ETag name. A
    requester gets an excerpt: other people's requests, their checks and their examples are left out.
    """
    issued = service.read(session, job_id, who, blobs)
    tag = service.entity_tag(issued, _shown(format_))
    headers = {"ETag": tag, "Vary": "Accept, Authorization"}
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'inline; filename="grail-report-{job_id}.{format_}"'
    if format_ is Format.HTML:
        headers["Content-Security-Policy"] = f"{html.content_policy()}; {PAGE_POLICY}"
    return Response(_content(format_, issued), media_type=format_.media_type, headers=headers)


def _content(format_: Format, issued: Issued) -> bytes:
    if format_ is Format.HTML:
        return html.render(issued)
    if format_ is Format.PDF:
        return pdf.render(issued)
    return canonical({**issued.document, **service.late(issued)})


def _shown(format_: Format) -> str:
    """The representation: pages may look otherwise in another version of the service, the JSON may not."""
    return "json" if format_ is Format.JSON else f"{format_}/{version('grail-server')}"

