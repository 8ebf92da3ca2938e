"""Adapter versions over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from app.adapters import service
from app.adapters.files import VersionDamaged, tar_size, tar_stream
from app.adapters.schemas import BOUNDS, Activate, Activated, AdapterDetail, AdapterPage, Reason
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
from app.requests.schemas import ModelName

router = APIRouter(prefix="/v1/models/{name}/adapters", tags=["adapters"])
Version = Annotated[int, InPath(ge=1, le=2**31 - 1)]
READ = problem_responses(Unauthorised, NotFound, Unprocessable, Unavailable)
Anyone = Annotated[Principal, Depends(require())]
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
    """The PEFT directory as a tar: unpack it and hand it to `PeftModel.from_pretrained`. Leaves a receipt, which is
    committed before the first byte leaves."""
    adapter = service.ready_to_download(session, name, version, who, reason)
    directory = Path(adapter.directory)
    chunks: Iterator[bytes] = tar_stream(directory, adapter.name)
    headers = {
        "Content-Length": str(tar_size(directory)),
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
