"""HTTP words of the audit log. Hashes, proofs, checkpoints and keys are for everybody with a key; leaves, which hold
ids of everybody's requests, for officers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse

from app.audit_log import export, service
from app.audit_log.errors import NoCheckpointYet, NotInLog, OutsideLog
from app.audit_log.schemas import MOST_LEAVES, ConsistencyProof, Hash, InclusionProof, LeafPage, LogState
from app.auth import Principal, Role, require
from app.config import bounds
from app.db import DbSession
from app.errors import Forbidden, Unauthorised, Unavailable, Unprocessable, problem_responses

router = APIRouter(prefix="/v1/log", tags=["audit log"])

Anyone = Annotated[Principal, Depends(require())]
Officer = Annotated[Principal, Depends(require(Role.OFFICER))]
Size = Annotated[int | None, Query(ge=1, le=MOST_LEAVES, description="leaves; those of the newest checkpoint without")]
PAGE_MAX = bounds().page_limit_max
TEXT, JSONL = "text/plain; charset=utf-8", "application/x-ndjson"


@router.get(
    "", summary="How the audit log stands", responses=problem_responses(Unauthorised, Unavailable)
)
def state(session: DbSession, who: Anyone) -> LogState:
    """How many leaves have a number, how many wait for one, and what is signed."""
    return service.state(session)


@router.get(
    "/checkpoint",
    summary="The newest signed checkpoint",
    response_class=PlainTextResponse,
    responses={
        200: {"description": "A C2SP signed note: name, size and root hash of the log, and signatures"},
        **problem_responses(Unauthorised, NoCheckpointYet, Unavailable),
    },
)
def checkpoint(session: DbSession, who: Anyone) -> PlainTextResponse:
    """Keep it: later proofs of consistency start from it, and nobody can change what was before it unseen."""
    return PlainTextResponse(service.signed(session).note, media_type=TEXT)


@router.get(
    "/keys",
    summary="The keys that verify checkpoints and reports",
    response_class=PlainTextResponse,
    responses={
        200: {"description": "A line `name+id+key` for each, with `not-after=` or `revoked=` once it ended"},
        **problem_responses(Unauthorised, NoCheckpointYet, Unavailable),
    },
)
def keys(session: DbSession, who: Anyone) -> PlainTextResponse:
    """Compare them with what you got by another way: whoever forges a log brings keys of their own."""
    return PlainTextResponse(service.ring_text(session), media_type=TEXT)


@router.get(
    "/proofs/inclusion",
    summary="That a leaf is in the log",
    responses=problem_responses(Unauthorised, NotInLog, NoCheckpointYet, OutsideLog, Unprocessable, Unavailable),
)
def inclusion(
    session: DbSession,
    who: Anyone,
    leaf_hash: Annotated[Hash | None, Query(description="SHA-256 of a zero byte and the leaf's bytes, in hex")] = None,
    position: Annotated[int | None, Query(ge=0, lt=MOST_LEAVES, description="instead of the former")] = None,
    size: Size = None,
) -> InclusionProof:
    """A path of hashes from the leaf to the root (RFC 9162)."""
    wanted = None if leaf_hash is None else bytes.fromhex(leaf_hash)
    return service.inclusion(session, leaf_hash=wanted, position=position, size=size)


@router.get(
    "/proofs/consistency",
    summary="That the log continues an earlier one",
    responses=problem_responses(Unauthorised, NoCheckpointYet, OutsideLog, Unprocessable, Unavailable),
)
def consistency(
    session: DbSession,
    who: Anyone,
    from_size: Annotated[int, Query(alias="from", ge=0, le=MOST_LEAVES, description="leaves of what you kept")],
    to_size: Annotated[Size, Query(alias="to")] = None,
) -> ConsistencyProof:
    """Hashes which show that nothing before was changed or taken out (RFC 9162)."""
    return service.consistency(session, from_size, to_size)


@router.get(
    "/leaves",
    summary="Leaves, in the order of their numbers",
    responses=problem_responses(Unauthorised, Forbidden, Unprocessable, Unavailable),
)
def leaves(
    session: DbSession,
    who: Officer,
    start: Annotated[int, Query(ge=0, lt=MOST_LEAVES, description="number of the first one")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
) -> LeafPage:
    """Ids, states, digests and times of every change; never what a person wrote."""
    return service.leaves(session, start, limit)


@router.get(
    "/export",
    summary="The whole log, for a regulator",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "JSON lines: head with checkpoint and keys, every leaf, earlier checkpoints",
            "content": {JSONL: {"schema": {"type": "string"}}},
        },
        **problem_responses(Unauthorised, Forbidden, NoCheckpointYet, Unavailable),
    },
)
def exported(request: Request, who: Officer) -> StreamingResponse:
    """As far as it is signed. `grail log verify --file` checks it without the service."""
    db = request.app.state.db
    return StreamingResponse(export.lines(db, export.head_line(db)), media_type=JSONL)
