"""The path of copyright requests: notice, validated, erased, countered, and back.

    received ─▶ notice ─validate─▶ queued ─▶ ... ─▶ published ─counter─▶ countered ─reinstate─▶ reinstated
                   └─refuse─▶ refused                   ▲                    │
                                                        └──────dismiss───────┘

Duplicates that shared the end of a request share its counter-notice too.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy.orm import Session

from app.auth import Principal
from app.lifecycle import RequestEvent, RequestState
from app.requests import keeping, repository
from app.requests.errors import BeingReinstated, NotCounterable
from app.requests.moves import found, move, note
from app.requests.schemas import RequestView
from app.requests.views import views_of
from app.tables import Request, RequestDomain, RequestKind


def validate(session: Session, request_id: uuid.UUID, who: Principal, now: datetime) -> RequestView:
    """A notice is what it says it is: it is queued. Raises NotFound and WrongState."""
    request = found(session, request_id)
    repository.locked(session, request_id)
    move(request, RequestEvent.VALIDATE)
    note(session, "validated", request, who, now)
    return views_of(session, [request], now, who)[0]


def counter(session: Session, request_id: uuid.UUID, reason: str, who: Principal, now: datetime) -> RequestView:
    """Lodge a counter-notice against an erased work. Content that is still kept stays for another window, so that the
    decision need not be rushed. Raises NotFound, NotCounterable and WrongState."""
    request = found(session, request_id)
    if request.domain is not RequestDomain.COPYRIGHT or request.kind is not RequestKind.ERASE:
        raise NotCounterable
    for one in _with_duplicates(session, request):
        move(one, RequestEvent.COUNTER)
        one.countered_at, one.counter_reason = now, reason
        if one.content_removed_at is None and one.content_until is not None and one.content_until >= now:
            one.content_until = max(one.content_until, keeping.until(session, one, now))
        note(session, "countered", one, who, now, reason=reason)
    return views_of(session, [request], now, who)[0]


def dismiss(session: Session, request_id: uuid.UUID, who: Principal, now: datetime) -> RequestView:
    """A counter-notice is not followed: the work stays erased. Raises NotFound, BeingReinstated and WrongState."""
    request = found(session, request_id)
    repository.lock_model(session, request.served_model_id)
    reinstatement = repository.open_reinstatement(session, request.id)
    if reinstatement is not None:
        raise BeingReinstated(reinstatement)
    for one in _with_duplicates(session, request):
        move(one, RequestEvent.DISMISS)
        note(session, "dismissed", one, who, now)
    return views_of(session, [request], now, who)[0]


def _with_duplicates(session: Session, request: Request) -> Iterator[Request]:
    """A request and the duplicates that stand where it does, all held."""
    repository.lock_model(session, request.served_model_id)
    state = repository.locked(session, request.id).state
    duplicates = repository.duplicates(session, request.id, state)
    yield request
    if state in (RequestState.PUBLISHED, RequestState.COUNTERED):
        yield from duplicates
