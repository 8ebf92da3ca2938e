"""GET /metrics: for operators' keys, or for a token that opens this address and no other."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from fastapi.security import HTTPAuthorizationCredentials
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from app.auth import Role, authenticate, bearer, require
from app.db import transaction

router = APIRouter(include_in_schema=False)
allowed = require(Role.OPERATOR, Role.OFFICER)


def reader(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
    """Whoever holds the metrics token, which works while the database is away, or the key of an operator, officer or
    admin. Raises Unauthorised, Forbidden."""
    plaintext = given.credentials if given else None
    if _is_token(plaintext or "", request.app.state.settings.metrics_token):
        return
    with transaction(request.app.state.db) as session:
        allowed(authenticate(session, plaintext))


@router.get("/metrics", dependencies=[Depends(reader)])
def metrics(request: Request) -> Response:
    """All metrics in Prometheus' text format."""
    return Response(request.app.state.metrics.exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _is_token(given: str, tokens: str) -> bool:
    """Whether it is one of the tokens, two while one is being replaced."""
    known = [_digest(token.strip()) for token in tokens.split(",") if token.strip()]
    return any(hmac.compare_digest(_digest(given), one) for one in known)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
