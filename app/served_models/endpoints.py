"""Served models over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from app.adapters import service as adapters
from app.adapters.files import NotAnAdapter, ReferenceDiffers, ShapeMismatch, VersionDamaged
from app.adapters.headers import BrokenFile
from app.adapters.schemas import ReplicaAck, ReplicaList, ReplicaView
from app.auth import Principal, Role, require
from app.db import DbSession
from app.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    StorageFull,
    TooLarge,
    Unauthorised,
    Unavailable,
    Unprocessable,
    UnsupportedMediaType,
    problem_responses,
)
from app.preconditions import (
    ETAG,
    NOT_MODIFIED,
    IfMatch,
    IfNoneMatch,
    PreconditionFailed,
    is_known,
    not_modified,
)
from app.requests.errors import TextTooLong
from app.requests.schemas import ModelName
from app.served_models import service
from app.served_models.schemas import (
    ModelCreate,
    ModelList,
    ModelPatch,
    ModelView,
    RetainSetPut,
    RetainSetResult,
    RetainSetView,
)
from app.tokens import TokeniserMissing

router = APIRouter(prefix="/v1/models", tags=["models"])
ReplicaId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Anyone = Annotated[Principal, Depends(require())]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
Steward = Annotated[Principal, Depends(require(Role.OPERATOR, Role.OFFICER))]
READ = problem_responses(Unauthorised, NotFound, Unprocessable, Unavailable)
WRITE = {**READ, **problem_responses(BadRequest, Forbidden, TooLarge, UnsupportedMediaType)}


@router.get("", responses=problem_responses(Unauthorised, Unavailable))
def list_models(session: DbSession, who: Anyone) -> ModelList:
    """All served models, by name."""
    return ModelList(items=service.everything(session, who, datetime.now(UTC)))


@router.post(
    "",
    status_code=201,
    responses={
        **WRITE,
        **problem_responses(
            service.NameTaken, Unprocessable, service.PathRefused, NotAnAdapter, ShapeMismatch, ReferenceDiffers,
            BrokenFile, VersionDamaged, StorageFull,
        ),
    },
)
def create_model(
    session: DbSession, request: Request, response: Response, ask: ModelCreate, who: Operator
) -> ModelView:
    """Register a base model with the adapter that it is served with; the adapter becomes version 1."""
    now = datetime.now(UTC)
    model = service.create(session, ask, who, request.app.state.settings, now)
    response.headers["Location"] = f"/v1/models/{model.name}"
    return _tagged(response, service.show(session, model, who, now))


@router.get("/{name}", response_model=ModelView, responses={200: {"headers": ETAG}, **NOT_MODIFIED, **READ})
def get_model(
    session: DbSession, name: ModelName, response: Response, who: Anyone, if_none_match: IfNoneMatch = None
) -> Response | ModelView:
    """One served model."""
    view = service.show(session, service.named(session, name), who, datetime.now(UTC))
    return not_modified(view.etag) if is_known(if_none_match, view.etag) else _tagged(response, view)


def as_expected(session: DbSession, name: ModelName, who: Operator, if_match: IfMatch = None) -> None:
    """Go on only if the model is still as If-Match names it; it is then held until the end. Raises NotFound,
    PreconditionFailed."""
    del who  # asked before anything is told
    if if_match is not None:
        service.expect(session, name, if_match)


@router.patch(
    "/{name}",
    responses={
        200: {"headers": ETAG},
        **WRITE,
        **problem_responses(PreconditionFailed, Unprocessable, service.PolicyRefused, service.PathRefused),
    },
)
def patch_model(
    session: DbSession,
    request: Request,
    name: ModelName,
    response: Response,
    ask: ModelPatch,
    who: Operator,
    _: Annotated[None, Depends(as_expected)],
) -> ModelView:
    """Change the policy (merged field by field) or the prompt template."""
    now = datetime.now(UTC)
    model = service.patch(session, name, ask, who, request.app.state.settings, now)
    return _tagged(response, service.show(session, model, who, now))


@router.post("/{name}/breaker/close", responses={**READ, **problem_responses(Forbidden)})
def close_breaker(session: DbSession, name: ModelName, response: Response, who: Operator) -> ModelView:
    """Let jobs of the model start again, once what made them fail is mended. Nothing when its breaker is closed."""
    now = datetime.now(UTC)
    return _tagged(response, service.show(session, service.close_breaker(session, name, who, now), who, now))


@router.put(
    "/{name}/retain-set",
    responses={**WRITE, **problem_responses(Unprocessable, TextTooLong, Unavailable, TokeniserMissing)},
)
def put_retain_set(session: DbSession, name: ModelName, ask: RetainSetPut, who: Operator) -> RetainSetResult:
    """Replace the standing retain set. Erasure wins: what is being or was forgotten is left out and counted."""
    return service.put_retain_set(session, name, ask.items, who, datetime.now(UTC))


@router.get("/{name}/retain-set", responses={**READ, **problem_responses(Forbidden)})
def get_retain_set(session: DbSession, name: ModelName, _: Steward) -> RetainSetView:
    """How much stands, by domain. Not for requesters: whether a request of theirs changes it would tell them whether
    somebody protects that very content."""
    return service.retain_set(session, name)


@router.post("/{name}/replicas/{replica_id}/ack", responses={**WRITE, **problem_responses(adapters.DigestMismatch)})
def acknowledge(
    session: DbSession, name: ModelName, replica_id: ReplicaId, ask: ReplicaAck, who: Operator
) -> ReplicaView:
    """A serving replica says which version and digest it serves; reports list those that have not."""
    adapters.acknowledge(session, name, replica_id, ask.version, ask.digest, who, datetime.now(UTC))
    return next(view for view in adapters.replicas(session, name) if view.replica_id == replica_id)


@router.get("/{name}/replicas", responses=READ)
def list_replicas(session: DbSession, name: ModelName, _: Anyone) -> ReplicaList:
    """What each replica last said it serves."""
    return ReplicaList(items=adapters.replicas(session, name))


def _tagged(response: Response, view: ModelView) -> ModelView:
    """`view`, with its ETag in the headers of the answer."""
    response.headers["ETag"] = view.etag
    return view
