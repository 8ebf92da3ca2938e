"""Decisions about a request's clock and its end: hold, resume, extend, refuse.

While a request is on hold its clock stands, no batch takes it, and what it took out of the standing retain set stays
out: what may have to go is not taught meanwhile, and nothing is lost by waiting.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy.orm import Session

from app.auth import Principal, Role
from app.batches import service as batches
from app.lifecycle import RequestEvent, RequestState
from app.requests import clocks, conflicts, duplicates, keeping, repository
from app.requests.errors import LegalHoldForbidden, NotExtendable
from app.requests.moves import end_hold, found, move, note, take_back
from app.requests.schemas import HoldOrder, RequestView
from app.requests.views import views_of
from app.tables import HoldKind, Request


def hold(session: Session, request_id: uuid.UUID, asked: HoldOrder, who: Principal, now: datetime) -> RequestView:
    """Let a request's clock stand. One on hold already gets the new kind and reason; its clock goes on standing.

    Raises NotFound, LegalHoldForbidden and WrongState.
    """
    request = found(session, request_id)
    left = take_back(session, request, now)
    _check_legal(who, request.hold_kind, asked.kind)
    if request.state is not RequestState.ON_HOLD:
        before = request.state
        move(request, RequestEvent.HOLD)
        request.held_from = before
        request.held_since = clocks.pause(clocks.clock_of(request), now).held_since
    request.hold_kind, request.hold_reason = asked.kind, asked.reason
    note(session, "held", request, who, now, reason=asked.reason, kind=str(asked.kind))
    if left is not None:
        batches.batch_again(session, left, now)
    return _shown(session, request, who, now)


def resume(session: Session, request_id: uuid.UUID, who: Principal, now: datetime) -> RequestView:
    """End a hold: the request is queued, or a notice again if it was one. Raises NotFound, LegalHoldForbidden and
    WrongState."""
    request = found(session, request_id)
    repository.locked(session, request_id)
    _check_legal(who, request.hold_kind)
    notice = request.held_from is RequestState.NOTICE
    move(request, RequestEvent.RESUME_AS_NOTICE if notice else RequestEvent.RESUME)
    end_hold(request, now)
    note(session, "resumed", request, who, now)
    return _shown(session, request, who, now)


def extend(session: Session, request_id: uuid.UUID, reason: str, who: Principal, now: datetime) -> RequestView:
    """Put the due date forward as the request's regulation allows, once and inside the first period. Raises NotFound
    and NotExtendable."""
    request = found(session, request_id)
    repository.locked(session, request_id)
    clock = clocks.clock_of(request)
    why = clocks.no_extension(clock, request.regulation, now)
    if why is not None:
        raise NotExtendable(why)
    later = clocks.extend(clock, request.regulation, now)
    request.due_at, request.first_due_at = later.due_at, later.first_due_at
    request.extended_at, request.extension_reason = now, reason
    note(session, "extended", request, who, now, reason=reason, due_at=later.due_at.isoformat())
    return _shown(session, request, who, now)


def refuse(session: Session, request_id: uuid.UUID, reason: str, who: Principal, now: datetime) -> RequestView:
    """End a request without an erasure. What it took out of the standing set comes back, its own items leave. Raises
    NotFound and WrongState."""
    request = found(session, request_id)
    left = take_back(session, request, now)
    move(request, RequestEvent.REFUSE)
    end_hold(request, now)
    request.refusal_reason, request.completed_at = reason, now
    keeping.ended(session, request, now)
    note(session, "refused", request, who, now, reason=reason)
    conflicts.release(session, request, now)
    duplicates.ended_without_erasure(session, request, now)
    if left is not None:
        batches.batch_again(session, left, now)
    return _shown(session, request, who, now)


def _check_legal(who: Principal, *kinds: HoldKind | None) -> None:
    """Legal holds are officers' business. Raises LegalHoldForbidden."""
    if HoldKind.LEGAL in kinds and not who.is_any_of(Role.OFFICER):
        raise LegalHoldForbidden


def _shown(session: Session, request: Request, who: Principal, now: datetime) -> RequestView:
    session.flush()
    return views_of(session, [request], now, who)[0]
