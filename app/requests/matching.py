"""If-Match of one request: a dependency for every endpoint that changes one, and the headers of those that show one."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import Depends, Response

from app.auth import Principal, require
from app.db import DbSession
from app.preconditions import IfMatch
from app.requests import service
from app.requests.schemas import RequestView


def as_expected(
    request_id: uuid.UUID,
    session: DbSession,
    who: Annotated[Principal, Depends(require())],
    if_match: IfMatch = None,
) -> None:
    """Go on only if the request is still as If-Match names it; it is then held until the end. Raises NotFound,
    PreconditionFailed. Name it after the endpoint's own role, which is to be asked first."""
    if if_match is not None:
        service.expect(session, request_id, who, if_match)


AsExpected = Annotated[None, Depends(as_expected)]


def tagged(response: Response, view: RequestView) -> RequestView:
    """`view`, with its ETag in the headers of the answer."""
    response.headers["ETag"] = view.etag
    return view
