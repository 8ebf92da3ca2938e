"""HTTP words of the archive of reports."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from app.auth import Principal, Role, require
from app.errors import Forbidden, Unauthorised, Unavailable, Unprocessable, problem_responses
from app.reports import archive
from app.storage import FileStore

router = APIRouter(prefix="/v1", tags=["reports"])

Officer = Annotated[Principal, Depends(require(Role.OFFICER))]
ZIP = "application/zip"


@router.get(
    "/reports.zip",
    summary="The reports of a period as one archive",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "`reports/<job>.json` of each job that ended in the period, `certificates/<request>.json` "
            "of each erasure that it did, `index.csv` and `certificates.csv`",
            "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}},
        },
        **problem_responses(Unauthorised, Forbidden, Unprocessable, Unavailable),
    },
)
def reports_of_period(
    request: Request,
    who: Officer,
    first: Annotated[date, Query(alias="from", description="first day, by UTC")],
    last: Annotated[date, Query(alias="to", description="last day, by UTC")],
) -> StreamingResponse:
    """Documents as they were issued: the SHA-256 in the index is each file's, and the one that HTML, PDF and ETag name.
    An archive that breaks off has no directory: readers refuse it."""
    start, end = archive.period(first, last)
    state = request.app.state
    chunks = archive.stream(state.db, FileStore(state.settings.artifacts_dir), start, end)
    headers = {"Content-Disposition": f'attachment; filename="grail-reports-{first}-to-{last}.zip"'}
    return StreamingResponse(chunks, media_type=ZIP, headers=headers)
