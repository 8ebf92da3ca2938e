"""A call that is repeated under its Idempotency-Key has one effect, and gets the first one's answer for a day
(`keep_answers_days`).

The answer is written in the transaction of the change: both are there or neither is, whenever a process dies. One that
dies after the commit and before the answer leaves an answer to be repeated; one that dies before it leaves nothing, and
the repetition does the work. Refusals are not kept, since nothing was changed: the repetition is judged anew.

Of two calls at the same time one holds the key (an advisory lock of the transaction), the other is told to come back:
it would otherwise keep a connection waiting for as long as the first one takes.

What a call was is kept as a keyed digest: from the row nobody can find out or guess what was sent.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fastapi import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.config import load_settings
from app.idempotency import repository
from app.idempotency.errors import KeyReused, StillAtWork
from app.secret import derive, derive_each
from app.tables import Idempotency

PURGED_AT_ONCE = 5000
REPLAYED = "Idempotency-Replayed"
PURPOSE = "idempotency"
BODY = "body"
"""The kept answer is JSON in its own bytes: a column of JSON would reorder them."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a call that did its work is answered with."""

    view: BaseModel
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls what. `name` is the Idempotency-Key, None without one; `body_digest` the SHA-256 of the body."""

    key_id: uuid.UUID
    name: str | None
    method: str
    address: str
    body_digest: bytes


def answer_once(session: Session, call: Call, now: datetime, work: Callable[[], Told]) -> Response:
    """The answer of `work`, or the kept one of a call that was the same. Raises KeyReused, StillAtWork, and what `work`
    raises."""
    if call.name is None:
        return response_of(work())
    if not repository.try_hold(session, _number(call)):
        raise StillAtWork
    kept = repository.find(session, call.key_id, call.name)
    if kept is not None and kept.created_at > now - _keeping():
        return _again(kept, call)
    told = work()
    answer = response_of(told)
    repository.keep(
        session,
        Idempotency(
            key_id=call.key_id, name=call.name, fingerprint=_fingerprint(derive(PURPOSE), call), status=told.status,
            answer={BODY: told.view.model_dump_json()}, headers=dict(told.headers), created_at=now,
        ),
    )  # fmt: skip
    return answer


def purge(session: Session, now: datetime) -> int:
    """Remove kept answers whose time is over, some at a time; how many. For the sweep."""
    return repository.purge(session, now - _keeping(), PURGED_AT_ONCE)


def _keeping() -> timedelta:
    return timedelta(days=load_settings().keep_answers_days)


def _again(kept: Idempotency, call: Call) -> Response:
    """The kept answer. Raises KeyReused when it belongs to another call."""
    if not any(hmac.compare_digest(kept.fingerprint, _fingerprint(key, call)) for key in derive_each(PURPOSE)):
        raise KeyReused
    headers = {**kept.headers, REPLAYED: "true"}
    return Response(kept.answer[BODY], kept.status, headers=headers, media_type="application/json")


def response_of(told: Told) -> Response:
    """What is sent."""
    body = told.view.model_dump_json()
    return Response(body, told.status, headers=dict(told.headers), media_type="application/json")


def _fingerprint(key: bytes, call: Call) -> str:
    """A keyed digest of method, address and body. Method and address hold no line end, so the three keep apart."""
    message = f"{call.method}\n{call.address}\n".encode() + call.body_digest
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def _number(call: Call) -> int:
    """64 bits that stand for the API key and the name, as advisory locks are numbered."""
    digest = hashlib.sha256(call.key_id.bytes + (call.name or "").encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
