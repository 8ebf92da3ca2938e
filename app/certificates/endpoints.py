"""Certificates of erasure over HTTP: one address, three formats, as reports have them."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.auth import Principal, require
from app.certificates import page, service
from app.certificates.errors import CertificateDamaged, CertificateMissing
from app.certificates.schemas import Shown, json_schema
from app.db import DbSession
from app.preconditions import IfNoneMatch
from app.reports.answering import Blobs, Wanted, answer, answers, representation
from app.reports.schemas import Format, in_place

router = APIRouter(prefix="/v1/requests", tags=["requests"])
Anyone = Annotated[Principal, Depends(require())]


@router.get(
    "/{request_id}/certificate",
    summary="The certificate of erasure of a request",
    response_class=Response,
    responses=answers("The certificate", in_place(json_schema()), CertificateMissing, CertificateDamaged),
)
def read(
    request_id: uuid.UUID, session: DbSession, who: Anyone, blobs: Blobs, format_: Wanted,
    if_none_match: IfNoneMatch = None,
) -> Response:  # fmt: skip
    """Issued once, within a minute of the erasure's end; as canonical JSON, as one HTML file that loads nothing, or as
    PDF for the archive and for a signature.

    The JSON is the document as it was issued and, under `as_read`, how things stand now. Without that key its canonical
    bytes (RFC 8785) have the SHA-256 that HTML, PDF and the ETag name, and that the audit log has as
    `certificate.issued`. No text of what was asked is in it.
    """
    shown = service.read(session, request_id, who, blobs)
    tag = service.entity_tag(shown, representation(format_))
    return answer(format_, f"grail-certificate-{request_id}", tag, if_none_match, lambda: _content(format_, shown))


def _content(format_: Format, shown: Shown) -> bytes:
    if format_ is Format.JSON:
        return service.as_json(shown)
    return page.as_html(shown) if format_ is Format.HTML else page.as_pdf(shown)
