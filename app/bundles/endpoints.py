"""Bundles and attestations over HTTP: for those who may see whole reports, as both name everybody's requests."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as InPath

from app.audit_log.errors import OutsideLog
from app.audit_log.schemas import MOST_LEAVES
from app.auth import Principal, Role, require
from app.bundles import service
from app.bundles.errors import BundleDamaged, BundleMissing
from app.bundles.schemas import AttestationList, AttestationView
from app.db import DbSession
from app.errors import Forbidden, NotFound, Unauthorised, Unavailable, Unprocessable, problem_responses
from app.preconditions import ETAG, NOT_MODIFIED, IfNoneMatch, is_known, not_modified
from app.reports.service import ReportMissing
from app.requests.schemas import ModelName
from app.storage import BlobStore, FileStore

router = APIRouter(prefix="/v1")
Steward = Annotated[Principal, Depends(require(Role.OPERATOR, Role.OFFICER))]
ZIP = "application/zip"
Since = Annotated[
    int | None,
    Query(ge=1, le=MOST_LEAVES, description="leaves of a checkpoint that you kept: the bundle proves how it went on"),
]


def _blobs(request: Request) -> BlobStore:
    return FileStore(request.app.state.settings.artifacts_dir)


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bundle, as `grail verify` reads it",
        "headers": ETAG,
        "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}},
    },
    **NOT_MODIFIED,
    **problem_responses(
        Unauthorised, Forbidden, NotFound, ReportMissing, BundleMissing, Unprocessable, OutsideLog, BundleDamaged,
        Unavailable,
    ),
}  # fmt: skip


@router.get(
    "/jobs/{job_id}/report.zip",
    tags=["reports"],
    summary="The bundle of a job's report, for an auditor",
    response_class=Response,
    responses=ANSWERS,
)
def read(
    job_id: uuid.UUID, session: DbSession, who: Steward, blobs: Annotated[BlobStore, Depends(_blobs)],
    since: Since = None, if_none_match: IfNoneMatch = None,
) -> Response:  # fmt: skip
    """Report, scores under blinded ids, events, manifests, a signed statement about them, and proofs that it is sealed
    in the audit log. It stays as it is; with `since` it may come with a newer checkpoint and one proof more, and with
    the same statement."""
    found = service.read(session, job_id, since, blobs, lambda digest: is_known(if_none_match, f'"{digest}"'))
    tag = f'"{found.digest}"'
    if found.body is None or is_known(if_none_match, tag):
        return not_modified(tag)
    named = f'attachment; filename="grail-report-{job_id}.zip"'
    return Response(found.body, media_type=ZIP, headers={"ETag": tag, "Content-Disposition": named})


@router.get(
    "/models/{name}/adapters/{version}/attestations",
    tags=["adapters"],
    summary="What is signed about a version",
    responses=problem_responses(Unauthorised, Forbidden, NotFound, Unprocessable, Unavailable),
)
def attestations(
    session: DbSession, name: ModelName, version: Annotated[int, InPath(ge=1, le=2**31 - 1)], who: Steward
) -> AttestationList:
    """DSSE envelopes of in-toto statements (how it was made, what was measured, what was erased), and `model.sig`."""
    found = service.attestations(session, name, version)
    items = [AttestationView(name=row.name, body=row.body.decode(), created_at=row.created_at) for row in found]
    return AttestationList(items=items)
