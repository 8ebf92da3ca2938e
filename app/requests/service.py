"""Rules of requests: who sees what, how one is withdrawn. Each change is one transaction with its audit. How one comes
in stands in `app.requests.intake`."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import NO_VALID_KEY, Principal, Role
from app.batches import service as batches
from app.envelope.codec import Codec
from app.errors import NotFound, Unauthorised
from app.lifecycle import IllegalMove, RequestEvent, RequestState, advance_request
from app.preconditions import entity_tag, require_match
from app.requests import conflicts, duplicates, keeping, repository, status_repository
from app.requests.access import owns_or_judges
from app.requests.cursors import cursor_of, due_cursor_of, due_date_of, id_of
from app.requests.errors import (
    ContentsForbidden,
    NotWithdrawable,
    WithdrawalForbidden,
)
from app.requests.intake import Asked, prepare, submit
from app.requests.moves import end_hold, take_back
from app.requests.schemas import RequestFilter, RequestPage, RequestView
from app.requests.views import contents_of, view_of_row, views_of
from app.tables import Request

NOT_THERE = "there is no request with this id that this key may see"
__all__ = ["Asked", "browse", "expect", "prepare", "read", "status", "submit", "withdraw"]


def read(session: Session, request_id: uuid.UUID, who: Principal, now: datetime, *, with_items: bool) -> RequestView:
    """One request. Raises NotFound (also for somebody else's) and, for its texts, ContentsForbidden."""
    request = _visible(session, request_id, who)
    if with_items and not owns_or_judges(who, request):
        raise ContentsForbidden
    view = views_of(session, [request], now, who)[0]
    if not with_items:
        return view
    return view.model_copy(update={"contents": contents_of(request, repository.items_of(session, request.id))})


def status(
    connection: psycopg.Connection[Any], request_id: uuid.UUID, who: Principal, now: datetime,
    codec: Callable[[], Codec],
) -> RequestView:
    """One request without its texts, in one statement that looks at the key, too: what is asked most often. Raises
    Unauthorised for a key that was revoked, and NotFound."""
    found = status_repository.find(connection, request_id, who.shown, codec)
    if found is None:
        raise Unauthorised(NO_VALID_KEY)
    if found.id is None:
        raise NotFound(NOT_THERE)
    holder = replace(who, role=Role(found.role))
    return view_of_row(found, now, with_reasons=owns_or_judges(holder, found))


def browse(
    session: Session, wanted: RequestFilter, who: Principal, now: datetime, *, cursor: str | None, limit: int
) -> RequestPage:
    """A page of what `who` may see, newest first; with `wanted.due_before` by due date. `wanted.owner` is set here.
    Raises BadCursor."""
    owned = dataclasses.replace(wanted, owner=who.owner)
    if owned.due_before is not None:
        return _by_due_date(session, owned, who, now, cursor=cursor, limit=limit)
    rows = repository.page(session, owned, before=id_of(cursor) if cursor else None, limit=limit + 1)
    shown = rows[:limit]
    return RequestPage(
        items=views_of(session, shown, now, who), next_cursor=cursor_of(shown[-1].id) if len(rows) > limit else None
    )


def _by_due_date(
    session: Session, wanted: RequestFilter, who: Principal, now: datetime, *, cursor: str | None, limit: int
) -> RequestPage:
    """A page by due date."""
    after = due_date_of(cursor) if cursor else None
    rows = repository.page_by_due_date(session, wanted, after=after, limit=limit + 1)
    shown = rows[:limit]
    following = due_cursor_of(shown[-1].due_at, shown[-1].id) if len(rows) > limit else None
    return RequestPage(items=views_of(session, shown, now, who), next_cursor=following)


def expect(session: Session, request_id: uuid.UUID, who: Principal, if_match: str) -> None:
    """Hold the request if it is still as the header names it. Raises NotFound, PreconditionFailed.

    All that a change of it may lock is locked here, in the order served model, job, request.
    """
    request = _visible(session, request_id, who)
    repository.lock_model(session, request.served_model_id)
    if repository.state_now(session, request.id) is RequestState.BATCHED:
        batches.hold_job(session, request.id)
    require_match(if_match, entity_tag(repository.locked(session, request_id).xmin))


def withdraw(session: Session, request_id: uuid.UUID, who: Principal, now: datetime) -> RequestView:
    """Withdraw a request that nobody works on yet. What it took out of the standing set comes back; its items leave.

    Locks in the order served model, job, request. Raises NotFound, WithdrawalForbidden and NotWithdrawable.
    """
    request = _visible(session, request_id, who)
    if not owns_or_judges(who, request):
        raise WithdrawalForbidden
    left = take_back(session, request, now)
    try:
        request.state = advance_request(request.state, RequestEvent.WITHDRAW)
    except IllegalMove:
        raise NotWithdrawable(request.state) from None
    end_hold(request, now)
    request.completed_at = now
    keeping.ended(session, request, now)
    record(
        session,
        "request.withdrawn",
        subject_id=str(request.id),
        at=now,
        state=str(request.state),
        key_id=str(who.key_id),
    )
    conflicts.release(session, request, now)
    duplicates.ended_without_erasure(session, request, now)
    if left is not None:
        batches.batch_again(session, left, now)
    return views_of(session, [request], now, who)[0]


def _visible(session: Session, request_id: uuid.UUID, who: Principal) -> Request:
    """The request if `who` may see it. Somebody else's and one that never was give the same answer."""
    request = repository.find(session, request_id, owner=who.owner)
    if request is None:
        raise NotFound(NOT_THERE)
    return request
