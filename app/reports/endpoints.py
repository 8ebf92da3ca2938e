"""Evaluation reports over HTTP: one address, three formats."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.auth import Principal, require
from app.db import DbSession
from app.preconditions import IfNoneMatch
from app.reports import html, pdf, service
from app.reports.answering import Blobs, Wanted, answer, answers, representation
from app.reports.schemas import Format, Issued, openapi_schema
from app.trust.canonical import canonical

router = APIRouter(prefix="/v1/jobs", tags=["reports"])
Anyone = Annotated[Principal, Depends(require())]


@router.get(
    "/{job_id}/report", summary="The evaluation report of a job", response_class=Response,
    responses=answers("The report", openapi_schema(), service.ReportMissing, service.ReportDamaged),
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
    tag = service.entity_tag(issued, representation(format_))
    return answer(format_, f"grail-report-{job_id}", tag, if_none_match, lambda: _content(format_, issued))


def _content(format_: Format, issued: Issued) -> bytes:
    if format_ is Format.HTML:
        return html.render(issued)
    if format_ is Format.PDF:
        return pdf.render(issued)
    return canonical({**issued.document, **service.late(issued)})
