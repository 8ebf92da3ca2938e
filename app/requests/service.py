"""Rules of requests: what is taken, who sees it, how it is withdrawn. Each change is one transaction with its audit."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import Principal
from app.batches import service as batches
from app.errors import NotFound
from app.ids import new_id
from app.lifecycle import IllegalMove, RequestEvent, RequestState, advance_request
from app.preconditions import entity_tag, require_match
from app.requests import conflicts, duplicates, repository
from app.requests import entries as rules
from app.requests.access import owns_or_judges
from app.requests.checks import check, check_lengths
from app.requests.cursors import cursor_of, due_cursor_of, due_date_of, id_of
from app.requests.entries import Entry
from app.requests.errors import (
    ContentsForbidden,
    NotWithdrawable,
    WithdrawalForbidden,
)
from app.requests.known import known_model
from app.requests.moves import end_hold, take_back
from app.requests.receipt import Receipt, receive
from app.requests.schemas import RequestCreate, RequestFilter, RequestPage, RequestView
from app.requests.views import contents_of, views_of
from app.served_models.schemas import Policy
from app.tables import ExampleDomain, Request, RequestKind, ServedModel
from app.telemetry.context import note
from app.telemetry.tracing import traceparent
from grail.types import Role as ExampleRole
from grail.types import Segment


def submit(session: Session, payload: RequestCreate, who: Principal, now: datetime, *, due_days: int) -> RequestView:
    """Take a request with its items and probes; with retain items only it stands at once.

    Raises UnknownServedModel, NothingAsked, FactNotInText, DuplicateItem, Contradiction and TextTooLong.
    """
    asked = prepare(payload, known_model(session, payload.served_model), who, now, due_days=due_days)
    note(request_id=asked.request.id, model=payload.served_model)
    _place(session, asked, now)
    return views_of(session, [asked.request], now, who)[0]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was checked and is not stored yet. `began` is the state that it starts in, unless it is linked."""

    request: Request
    entries: Sequence[Entry]
    began: RequestState


def prepare(
    payload: RequestCreate,
    model: ServedModel,
    who: Principal,
    now: datetime,
    *,
    due_days: int,
    sorts_at: datetime | None = None,
) -> Asked:
    """Check what is asked, and make its row. Raises what `submit` raises, but for UnknownServedModel.

    `sorts_at` is the moment by which its id sorts where that is not this one: lists by time of receipt go by ids.
    """
    receipt = receive(payload, Policy.model_validate(model.policy), now, due_days)
    request_id = new_id(payload.received_at or sorts_at)
    found = rules.entries(payload, payload.subject_reference or f"request-{request_id}")
    check(found)
    check_lengths(found, model)
    request = _request(request_id, payload, who, model, receipt)
    if payload.forget:
        request.fingerprint = duplicates.fingerprint(payload.domain, found)
    return Asked(request, found, receipt.state)


def store(session: Session, asked: Sequence[Asked], blocked: Mapping[str, uuid.UUID], now: datetime) -> None:
    """Write requests with their items and leaves. Retain items with a digest in `blocked` (and which request forgets
    it) do not stand."""
    rows = (row for one in asked for row in _rows(one.entries, one.request, blocked, now))
    repository.add(session, [one.request for one in asked], rows)
    for one in asked:
        _audit_receipt(session, one, blocked, now)


def _place(session: Session, asked: Asked, now: datetime) -> None:
    """Store one request: linked if it is asked already, its retain items where nobody forgets them, what it forgets out
    of the standing set."""
    request = asked.request
    retained = {entry.digest for entry in asked.entries if _protects(entry)}
    blocked = conflicts.being_forgotten(session, request.served_model_id, retained)
    duplicates.link(session, request)
    store(session, [asked], blocked, now)
    conflicts.erase_from_standing(session, request, _forgotten(asked.entries), now)


def read(session: Session, request_id: uuid.UUID, who: Principal, now: datetime, *, with_items: bool) -> RequestView:
    """One request. Raises NotFound (also for somebody else's) and, for its texts, ContentsForbidden."""
    request = _visible(session, request_id, who)
    if with_items and not owns_or_judges(who, request):
        raise ContentsForbidden
    view = views_of(session, [request], now, who)[0]
    if not with_items:
        return view
    return view.model_copy(update={"contents": contents_of(request, repository.items_of(session, request.id))})


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


def _request(
    request_id: uuid.UUID, payload: RequestCreate, who: Principal, model: ServedModel, receipt: Receipt
) -> Request:
    """The row."""
    return Request(
        id=request_id,
        served_model_id=model.id,
        domain=payload.domain,
        kind=RequestKind.ERASE,
        state=receipt.state,
        subject_reference=payload.subject_reference,
        legal_basis=payload.legal_basis,
        client_reference=payload.client_reference,
        note=payload.note,
        tries=0,
        settings={},
        created_by=who.key_id,
        regulation=receipt.regulation,
        received_at=receipt.clock.received_at,
        due_at=receipt.clock.due_at,
        completed_at=receipt.clock.completed_at,
        traceparent=traceparent(),
    )


def _protects(entry: Entry) -> bool:
    """Whether an entry joins the standing retain set."""
    return entry.segment is Segment.RETAIN and entry.role is ExampleRole.ITEM


def _forgotten(found: Sequence[Entry]) -> list[str]:
    """Digests of what shall go."""
    return [entry.digest for entry in found if entry.segment is Segment.FORGET and entry.role in rules.FORGOTTEN]


def _rows(
    found: Sequence[Entry], request: Request, blocked: Mapping[str, uuid.UUID], now: datetime
) -> Iterator[dict[str, Any]]:
    """Example rows. A retain item that somebody has forgotten is stored, but does not stand; those of a linked request
    rest."""
    rests = request.state is RequestState.LINKED
    ids = [new_id() for _ in found]
    for entry in found:
        eraser = blocked.get(entry.digest) if _protects(entry) and not rests else None
        yield {
            **entry.columns(ids),
            "served_model_id": request.served_model_id,
            "request_id": request.id,
            "domain": ExampleDomain(request.domain),
            "segment": entry.segment,
            "standing": _protects(entry) and eraser is None and not rests,
            "erased_by_request_id": eraser,
            "removed_at": None if eraser is None else now,
        }


def _audit_receipt(session: Session, asked: Asked, blocked: Mapping[str, uuid.UUID], now: datetime) -> None:
    """Leaves about what came in, and about retain items that do not stand because somebody forgets them."""
    request, found = asked.request, asked.entries
    items = [entry.segment for entry in found if entry.role is ExampleRole.ITEM]
    record(
        session,
        f"request.{asked.began}",
        subject_id=str(request.id),
        at=now,
        state=str(asked.began),
        served_model_id=str(request.served_model_id),
        key_id=str(request.created_by),
        domain=str(request.domain),
        forget_items=items.count(Segment.FORGET),
        retain_items=items.count(Segment.RETAIN),
        probes=len(found) - len(items),
    )
    if request.state is RequestState.LINKED:
        duplicates.audit_link(session, request, now)
        return
    kept_out = {entry.digest for entry in found if _protects(entry)} & blocked.keys()
    for digest in sorted(kept_out):
        record(
            session,
            "retain.not_standing",
            subject_id=str(request.id),
            content_digest=digest,
            request_id=str(blocked[digest]),
        )


def _visible(session: Session, request_id: uuid.UUID, who: Principal) -> Request:
    """The request if `who` may see it. Somebody else's and one that never was give the same answer."""
    request = repository.find(session, request_id, owner=who.owner)
    if request is None:
        raise NotFound("there is no request with this id that this key may see")
    return request
