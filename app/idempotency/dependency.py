"""Idempotency-Key as a dependency: an endpoint that creates something hands its work to `Once`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response

from app.auth import Principal, require
from app.db import DbSession
from app.idempotency.service import REPLAYED, Call, Told, answer_once
from app.limits import BODY_DIGEST

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        max_length=255,
        description="A word of your own for this call, such as a UUID. Repeated with the same key and body within 24 "
        f"hours, the call does nothing and gets the first one's answer, with `{REPLAYED}: true`.",
    ),
]
REPLAYED_HEADER: dict[str, Any] = {
    REPLAYED: {"description": "`true` when this is the answer to an earlier call", "schema": {"type": "string"}}
}

Once = Callable[[Callable[[], Told]], Response]


async def _read(request: Request) -> None:
    """Read the body, also where the endpoint takes none."""
    await request.body()


def call_of(request: Request, who: Principal, key: str | None, body_digest: bytes | None = None) -> Call:
    """The call that a request is, whose body was read; `body_digest` where it is known otherwise."""
    address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return Call(who.key_id, key, request.method, address, body_digest or request.scope[BODY_DIGEST])


def _once(
    request: Request,
    session: DbSession,
    who: Annotated[Principal, Depends(require())],
    _: Annotated[None, Depends(_read)],
    idempotency_key: IdempotencyKey = None,
) -> Once:
    """Does the work of this call once. Name it after the endpoint's own role, which is to be asked first."""
    call = call_of(request, who, idempotency_key)
    return lambda work: answer_once(session, call, datetime.now(UTC), work)


OnlyOnce = Annotated[Once, Depends(_once)]
