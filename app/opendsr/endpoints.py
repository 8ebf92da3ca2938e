"""HTTP words of OpenDSR 2.0 (https://github.com/opengdpr/OpenDSR): signed answers, errors in its form."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from app.auth import Principal, require
from app.config import Settings
from app.db import DbSession
from app.errors import (
    BadRequest,
    NotFound,
    TooLarge,
    Unauthorised,
    Unavailable,
    UnsupportedMediaType,
    problem_responses,
)
from app.now import Now
from app.opendsr import service
from app.opendsr.errors import IdTaken, NoExtension, NotErasure, OpenDsrRefused, OpenDsrRoute
from app.opendsr.forms import DOMAIN_HEADER, SIGNATURE_HEADER, domain_of
from app.opendsr.schemas import Cancellation, DataSubjectRequest, Discovery, Receipt, StatusView
from app.opendsr.signing import KeyUnusable, public_pem, signature, signing_key
from app.requests.errors import WithdrawalForbidden
from app.secret import NoMasterSecret
from app.tokens import TokeniserMissing

router = APIRouter(prefix="/opendsr", tags=["opendsr"], route_class=OpenDsrRoute)

Who = Annotated[Principal, Depends(require())]
UNSIGNED = (KeyUnusable, NoMasterSecret, Unavailable)


async def _body(request: Request) -> bytes:
    return await request.body()


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


Body = Annotated[bytes, Depends(_body)]
Config = Annotated[Settings, Depends(_settings)]


@router.get(
    "/discovery",
    response_model=Discovery,
    summary="What this processor takes",
    responses=problem_responses(Unauthorised, *UNSIGNED),
)
def discovery(who: Who, settings: Config) -> Response:
    """Erasure only. `processor_domain` is the name under which `extensions` has our part."""
    return _signed(service.discovery(settings), settings)


@router.get(
    "/key",
    response_class=PlainTextResponse,
    summary="What verifies signatures, as PEM",
    responses=problem_responses(Unauthorised, *UNSIGNED),
)
def key(who: Who, settings: Config) -> str:
    """The public key alone: a certificate for it is the operator's business."""
    return public_pem(signing_key(settings))


@router.post(
    "/requests",
    status_code=201,
    response_model=Receipt,
    summary="Hand on a data subject's request",
    responses=problem_responses(
        BadRequest, OpenDsrRefused, NotErasure, IdTaken, NoExtension, Unauthorised, TooLarge, UnsupportedMediaType,
        *UNSIGNED, TokeniserMissing,
    ),
)  # fmt: skip
def submit(
    asked: DataSubjectRequest, body: Body, session: DbSession, who: Who, now: Now, settings: Config
) -> Response:
    """An erasure whose `extensions` name the served model and the texts becomes a request of the domain `privacy`."""
    return _signed(service.submit(session, asked, body, who, now, settings), settings, 201)


@router.get(
    "/requests/{subject_request_id}",
    response_model=StatusView,
    summary="Where a request stands",
    responses=problem_responses(BadRequest, OpenDsrRefused, Unauthorised, NotFound, *UNSIGNED),
)
def status(subject_request_id: uuid.UUID, session: DbSession, who: Who, settings: Config) -> Response:
    """A request that was refused or failed is `cancelled` here; `extensions` has its state in our words."""
    return _signed(service.status(session, subject_request_id, who, settings), settings)


@router.delete(
    "/requests/{subject_request_id}",
    status_code=202,
    response_model=Cancellation,
    summary="Cancel a request that no job works on yet",
    responses=problem_responses(
        BadRequest, OpenDsrRefused, Unauthorised, WithdrawalForbidden, NotFound, *UNSIGNED
    ),
)
def cancel(subject_request_id: uuid.UUID, session: DbSession, who: Who, now: Now, settings: Config) -> Response:
    """Afterwards it is a 400."""
    return _signed(service.cancel(session, subject_request_id, who, now), settings, 202)


def _signed(document: BaseModel, settings: Settings, status_code: int = 200) -> Response:
    """The answer with its signature. Raises KeyUnusable, NoMasterSecret: then nothing is committed."""
    body = document.model_dump_json().encode()
    headers = {
        DOMAIN_HEADER: domain_of(settings.public_url), SIGNATURE_HEADER: signature(signing_key(settings), body),
    }  # fmt: skip
    return Response(body, status_code, headers, media_type="application/json")
