"""Certificates of erasure over HTTP: one address, three formats, as reports have them."""

from __future__ import annotations

import uuid
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from app.auth import Principal, require
from app.certificates import page, service
from app.certificates.errors import CertificateDamaged, CertificateMissing
from app.certificates.schemas import Shown, json_schema
from app.db import DbSession
from app.errors import NotFound, Unauthorised, Unavailable, Unprocessable, problem_responses
from app.preconditions import IfNoneMatch, is_known
from app.reports import html
from app.reports.endpoints import BINARY, PAGE_POLICY, Wanted
from app.reports.negotiation import NotAcceptable
from app.reports.schemas import Format, in_place
from app.storage import BlobStore, FileStore

router = APIRouter(prefix="/v1/requests", tags=["requests"])
Anyone = Annotated[Principal, Depends(require())]


def _blobs(request: Request) -> BlobStore:
    return FileStore(request.app.state.settings.artifacts_dir)


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The certificate",
        "headers": {"ETag": {"description": "changes when anything shown does", "schema": {"type": "string"}}},
        "content": {
            "application/json": {"schema": in_place(json_schema())},
            "text/html": {"schema": {"type": "string"}},
            "application/pdf": BINARY,
        },
    },
    304: {"description": "What `If-None-Match` names is still what is shown"},
    **problem_responses(
        Unauthorised, NotFound, CertificateMissing, NotAcceptable, Unprocessable, CertificateDamaged, Unavailable
    ),
}


@router.get(
    "/{request_id}/certificate",
    summary="The certificate of erasure of a request",
    response_class=Response,
    responses=ANSWERS,
)
def read(
    request_id: uuid.UUID, session: DbSession, who: Anyone, blobs: Annotated[BlobStore, Depends(_blobs)],
    format_: Wanted, if_none_match: IfNoneMatch = None,
) -> Response:  # fmt: skip
    """Issued once, within a minute of the erasure's end; as canonical JSON, as one HTML file that loads nothing, or as
    PDF for the archive and for a signature.

    The JSON is the document as it was issued and, under `as_read`, how things stand now. Without that key its canonical
    bytes (RFC 8785) have the SHA-256 that HTML, PDF and the ETag name, and that the audit log has as
    `certificate.issued`. No text of what was asked is in it.
    """
    shown = service.read(session, request_id, who, blobs)
    representation = "json" if format_ is Format.JSON else f"{format_}/{version('grail-server')}"
    tag = service.entity_tag(shown, representation)
    headers = {"ETag": tag, "Vary": "Accept, Authorization"}
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    headers["Content-Disposition"] = f'inline; filename="grail-certificate-{request_id}.{format_}"'
    if format_ is Format.HTML:
        headers["Content-Security-Policy"] = f"{html.content_policy()}; {PAGE_POLICY}"
    return Response(_content(format_, shown), media_type=format_.media_type, headers=headers)


def _content(format_: Format, shown: Shown) -> bytes:
    if format_ is Format.JSON:
        return service.as_json(shown)
    return page.as_html(shown) if format_ is Format.HTML else page.as_pdf(shown)
