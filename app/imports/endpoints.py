"""HTTP words of imports."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.security import HTTPAuthorizationCredentials
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.auth import Principal, authenticate, bearer, require
from app.config import Settings, bounds
from app.db import Database, DbSession, transaction
from app.errors import (
    BadRequest,
    NotFound,
    StorageFull,
    TooLarge,
    Unauthorised,
    Unavailable,
    Unprocessable,
    problem_responses,
)
from app.idempotency.dependency import REPLAYED_HEADER, IdempotencyKey, call_of
from app.idempotency.errors import KeyReused, StillAtWork
from app.idempotency.service import Told, answer_once
from app.ids import new_id
from app.imports import service, spool
from app.imports.errors import FaultsRemoved, NoFaultsYet, TooManyImports, WrongForm
from app.imports.schemas import ImportPage, ImportView
from app.imports.spool import Upload
from app.requests.errors import BadCursor
from app.storage import BlobDamaged, FileStore
from app.tables import ImportForm

PATH = "/v1/imports"
router = APIRouter(prefix=PATH, tags=["imports"])

Who = Annotated[Principal, Depends(require())]
PAGE_MAX = bounds().page_limit_max
JSONL = "application/x-ndjson"
MEDIA_TYPES = {ImportForm.JSONL: JSONL, ImportForm.CSV: "text/csv"}
FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself. JSONL: one request a line, as POST /v1/requests takes it. CSV: one item a "
        "row, rows that stand together under the same client_reference are one request",
        "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()},
    }
}


@dataclass(slots=True)
class Received:
    """An upload on the disk. What nobody keeps is removed."""

    upload: Upload
    form: ImportForm
    kept: bool = False


async def _received(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    form: Annotated[ImportForm | None, Query(description="as the Content-Type says, where it is left out")] = None,
) -> AsyncIterator[Received]:
    """The body in its file. The key is looked at before anything is read, and no connection to the database is held
    while a caller sends, however slowly."""
    settings: Settings = request.app.state.settings
    again = "idempotency-key" in request.headers  # perhaps a call that has its import already
    await run_in_threadpool(_let_in, request.app.state.db, credentials, again=again)
    found = _form_of(request.headers.get("content-type", ""), form)
    try:
        upload = await spool.receive(settings.data_dir, new_id(), request.stream())
    except ClientDisconnect:
        raise BadRequest("the body broke off") from None
    received = Received(upload, found)
    try:
        yield received
    finally:
        if not received.kept:
            spool.remove(settings.data_dir, upload.id)


def _let_in(db: Database, credentials: HTTPAuthorizationCredentials | None, *, again: bool) -> None:
    with transaction(db) as session:
        who = authenticate(session, credentials.credentials if credentials else None)
        if not again:
            service.room(session, who)


def _form_of(content_type: str, form: ImportForm | None) -> ImportForm:
    """The form of a file. Raises WrongForm."""
    media = content_type.partition(";")[0].strip().lower()
    found = next((known for known, name in MEDIA_TYPES.items() if name == media), None)
    if found is None or form not in (None, found):
        raise WrongForm
    return found


@router.post(
    "",
    status_code=202,
    response_model=ImportView,
    summary="Import a file of requests",
    openapi_extra=FILE,
    responses={
        202: {
            "description": "The file is stored; its import goes on by itself",
            "headers": {
                "Location": {"description": "address of the import", "schema": {"type": "string"}},
                **REPLAYED_HEADER,
            },
        },
        **problem_responses(
            BadRequest,
            Unauthorised,
            StillAtWork,
            TooLarge,
            WrongForm,
            Unprocessable,
            KeyReused,
            TooManyImports,
            Unavailable,
            StorageFull,
        ),
    },
)
def create(
    received: Annotated[Received, Depends(_received)],
    request: Request,
    session: DbSession,
    who: Who,
    partial: Annotated[bool, Query(description="import the right rows even if others are wrong")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answered once the file is stored. Unless `partial` is set, nothing is imported if any row is wrong. Requests
    count as received now, whenever their rows are read."""
    now = datetime.now(UTC)
    if received.upload.size == 0:
        raise BadRequest("the file is empty")

    def work() -> Told:
        view = service.create(session, received.upload, received.form, who, now, partial=partial)
        received.kept = True
        return Told(view, 202, {"Location": f"{PATH}/{view.id}"})

    return answer_once(session, call_of(request, who, idempotency_key, received.upload.digest), now, work)


@router.get(
    "",
    summary="Browse imports, newest first",
    description="A requester sees its own imports only.",
    responses=problem_responses(BadCursor, Unauthorised, Unprocessable, Unavailable),
)
def browse(
    session: DbSession,
    who: Who,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
) -> ImportPage:
    return service.browse(session, who, cursor=cursor, limit=limit)


@router.get(
    "/{import_id}",
    summary="One import",
    responses=problem_responses(Unauthorised, NotFound, Unprocessable, Unavailable),
)
def read(import_id: uuid.UUID, session: DbSession, who: Who) -> ImportView:
    """Its state, and how far it has come."""
    return service.read(session, import_id, who)


@router.get(
    "/{import_id}/errors",
    summary="What is wrong with the rows of an import",
    response_class=Response,
    responses={
        200: {
            "description": "JSONL: `line`, `field` and `problem` of each fault; empty when there is none",
            "content": {JSONL: {"schema": {"type": "string"}}},
        },
        **problem_responses(
            Unauthorised, NotFound, NoFaultsYet, FaultsRemoved, Unprocessable, BlobDamaged, Unavailable
        ),
    },
)
def errors(import_id: uuid.UUID, request: Request, session: DbSession, who: Who) -> Response:
    """By line and field, without any text of the rows."""
    path = service.faults(session, import_id, who, FileStore(request.app.state.settings.artifacts_dir))
    return Response(b"", media_type=JSONL) if path is None else FileResponse(path, media_type=JSONL)
