"""Adapter versions over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from app.adapters import recipients, service
from app.adapters.files import VersionDamaged, tar_size, tar_stream
from app.adapters.schemas import (
    BOUNDS,
    Activate,
    Activated,
    AdapterDetail,
    AdapterPage,
    Notice,
    Reason,
    Recipient,
    RecipientPage,
)
from app.auth import Principal, Role, require
from app.db import DbSession
from app.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    TooLarge,
    Unauthorised,
    Unavailable,
    Unprocessable,
    UnsupportedMediaType,
    problem_responses,
)
from app.now import Now
from app.requests.schemas import ModelName

router = APIRouter(prefix="/v1/models/{name}/adapters", tags=["adapters"])
Version = Annotated[int, InPath(ge=1, le=2**31 - 1)]
READ = problem_responses(Unauthorised, NotFound, Unprocessable, Unavailable)
Anyone = Annotated[Principal, Depends(require())]
Officer = Annotated[Principal, Depends(require(Role.OFFICER))]
Steward = Annotated[Principal, Depends(require(Role.OPERATOR, Role.OFFICER))]


@router.get("", responses={**READ, **problem_responses(BadRequest)})
def list_adapters(
    session: DbSession, name: ModelName, who: Anyone, cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=BOUNDS.page_limit_max)] = 50,
) -> AdapterPage:  # fmt: skip
    """Versions of a model, newest first."""
    return service.page(session, name, who, cursor, limit)


@router.get("/{version}", responses=READ)
def get_adapter(session: DbSession, name: ModelName, version: Version, who: Anyone) -> AdapterDetail:
    """One version with its manifest."""
    return service.detail(session, name, version, who)


@router.get(
    "/{version}/download",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}},
        **READ,
        **problem_responses(Forbidden, service.Superseded, service.WeightsDestroyed, VersionDamaged),
    },
)
def download_adapter(
    session: DbSession, name: ModelName, version: Version, who: Anyone,
    reason: Annotated[Reason | None, Query(description="Needed for a superseded version.")] = None,
) -> StreamingResponse:  # fmt: skip
    """The PEFT directory as a tar, with `model.sig` once the version is signed: unpack it and hand it to
    `PeftModel.from_pretrained`. Leaves a receipt, which is committed before the first byte leaves."""
    adapter = service.ready_to_download(session, name, version, who, reason)
    directory, signature = Path(adapter.directory), service.signature_of(session, adapter)
    chunks: Iterator[bytes] = tar_stream(directory, adapter.name, signature)
    headers = {
        "Content-Length": str(tar_size(directory, signature)),
        "Content-Disposition": f'attachment; filename="{adapter.name}.tar"',
        "ETag": f'"{adapter.digest}"',
    }
    return StreamingResponse(chunks, media_type="application/x-tar", headers=headers)


@router.post(
    "/{version}/activate",
    responses={
        **READ,
        **problem_responses(
            BadRequest, Forbidden, service.NotActivatable, service.Superseded, service.WeightsDestroyed,
            service.ModelBusy, service.AliasMoved, TooLarge, UnsupportedMediaType, VersionDamaged,
        ),
    },
)  # fmt: skip
def activate_adapter(session: DbSession, name: ModelName, version: Version, ask: Activate, who: Steward) -> Activated:
    """Point the alias at a version: forward, or back. A superseded one needs an officer and a reason."""
    return service.activate(session, name, version, ask, who)


@router.get(
    "/{version}/recipients",
    summary="Who has a version, and whether they were told that it is superseded",
    responses={**READ, **problem_responses(BadRequest, Forbidden)},
)
def list_recipients(
    session: DbSession, name: ModelName, version: Version, who: Officer,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=BOUNDS.page_limit_max)] = 50,
) -> RecipientPage:  # fmt: skip
    """Keys that downloaded it and replicas that serve it or did. `acknowledged` is who serves a newer version now."""
    return recipients.page(session, name, version, cursor, limit)


@router.post(
    "/{version}/recipients/{recipient_id}/notified",
    summary="Note that a recipient of a superseded version was told",
    responses={
        **READ,
        **problem_responses(BadRequest, Forbidden, recipients.NotSuperseded, TooLarge, UnsupportedMediaType),
    },
)
def note_notified(
    session: DbSession, name: ModelName, version: Version, recipient_id: uuid.UUID, ask: Notice, who: Officer, now: Now
) -> Recipient:
    """Telling them is yours to do; this keeps when it was, by whom and by which channel. The last time counts."""
    return recipients.notify(session, name, version, recipient_id, ask.channel, who, now)
