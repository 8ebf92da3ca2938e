"""Requests for the same: while one is open, what the same key asks again is linked to it and shares its end.

Nothing is computed twice, and none is lost: a linked request is published with the first; when the first ends without
an erasure, the oldest linked one goes its own way and the others follow it. Requests of different keys are never
linked, since a key may not learn that another's request exists.

Everything here holds the served model's row, then the requests. While it is linked, the items that a request wants to
keep do not stand: those of the first do, and none is to be counted or drawn twice.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy.orm import Session

from app.audit.service import Entry, add, entry, record
from app.lifecycle import RequestEvent, RequestState, advance_request
from app.requests import conflicts, repository
from app.requests import duplicates_repository as same
from app.requests import entries as rules
from app.requests.draft import Draft
from app.served_models.schemas import Policy
from app.tables import Request, RequestDomain
from grail.types import Role

BEGINNING = (RequestState.RECEIVED, RequestState.NOTICE)
"""States in which a request comes in that something is to be erased for."""


def fingerprint(domain: RequestDomain, found: Iterable[rules.Entry]) -> str:
    """What is asked, whatever its order: SHA-256 over the domain and the digests of what to forget and to retain.
    Probes are no part of it: they measure."""
    items = sorted(f"{entry.segment}:{entry.digest}" for entry in found if entry.role is Role.ITEM)
    return hashlib.sha256("\n".join([str(domain), *items]).encode()).hexdigest()


def link(request: Draft, first_id: uuid.UUID | None) -> None:
    """Link a request that is being received to the open one for the same, if there is one. The caller holds what is
    asked and that one, and stores the request afterwards."""
    if first_id is not None and may_follow(request):
        _follow(request, first_id)


def may_follow(request: Draft) -> bool:
    """Whether a request that is being received is linked where the same is asked already."""
    return request.state in BEGINNING and request.fingerprint is not None


def link_entry(request_id: uuid.UUID, first_id: uuid.UUID, served_model_id: uuid.UUID, now: datetime) -> Entry:
    """One leaf about a request that follows another, not stored yet."""
    return entry(
        "request.linked", str(request_id), now, state=str(RequestState.LINKED), duplicate_of=str(first_id),
        served_model_id=str(served_model_id),
    )  # fmt: skip


def audit_link(session: Session, request: Request, now: datetime) -> None:
    """One leaf about a request that follows another."""
    assert request.duplicate_of_id is not None  # noqa: S101 - a constraint
    add(session, link_entry(request.id, request.duplicate_of_id, request.served_model_id, now))


def published(session: Session, first: Request, now: datetime) -> None:
    """A request was published: so are those that are linked to it, with the same outcome."""
    linked = same.linked_to(session, first.id)
    for request in linked:
        request.state = advance_request(request.state, RequestEvent.PUBLISH)
        request.completed_at, request.outcome, request.content_until = now, first.outcome, first.content_until
        record(
            session, "request.published", subject_id=str(request.id), at=now, state=str(request.state),
            duplicate_of=str(first.id),
        )  # fmt: skip
    if linked:
        session.flush()
        same.copy_outcomes(session, first.id, [request.id for request in linked])


def ended_without_erasure(session: Session, first: Request, now: datetime) -> None:
    """A request was withdrawn or refused, or has failed: the oldest that was linked to it is queued in its place (or,
    where notices are validated, is one again: a person decides anew), and the others are linked to that one. After
    `conflicts.release` of the first."""
    linked = same.linked_to(session, first.id)
    if not linked:
        return
    heir, *others = linked
    event = RequestEvent.UNLINK_AS_NOTICE if _needs_a_person(session, heir) else RequestEvent.UNLINK
    heir.state, heir.duplicate_of_id = advance_request(heir.state, event), None
    record(session, f"request.{heir.state}", subject_id=str(heir.id), at=now, state=str(heir.state))
    for request in others:
        request.duplicate_of_id = heir.id
        audit_link(session, request, now)
    session.flush()
    conflicts.let_stand(session, heir, now)


def _follow(request: Draft, first_id: uuid.UUID) -> None:
    request.state, request.duplicate_of_id = advance_request(request.state, RequestEvent.LINK), first_id


def _needs_a_person(session: Session, request: Request) -> bool:
    """Whether somebody has to validate a request before it is queued."""
    model = repository.lock_model(session, request.served_model_id)
    assert model is not None  # noqa: S101 - served models are never deleted
    return request.domain is RequestDomain.COPYRIGHT and Policy.model_validate(model.policy).validate_notices
