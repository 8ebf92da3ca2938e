"""Teaching an erased work again after a counter-notice: a request of its own, served by a job on the active version.

Nothing is rolled back: whatever else was erased since stays so. Until it is published its items do not stand, since the
original is still in force; erasures that others ask for win over it.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import Principal
from app.envelope.columns import codec_of, warm
from app.ids import new_id, new_ids
from app.lifecycle import RequestEvent, RequestState, advance_request
from app.requests import clocks, conflicts, repository
from app.requests import entries as rules
from app.requests.checks import check, check_lengths
from app.requests.digests import as_stored
from app.requests.entries import Entry
from app.requests.errors import (
    BeingReinstated,
    ContentGone,
    ErasedByAnother,
    NotCounterable,
    NotWhatWasErased,
    WrongState,
)
from app.requests.moves import found, note
from app.requests.schemas import Item, RequestCreate, RequestView
from app.requests.sealed import sealed_examples
from app.requests.views import views_of
from app.served_models.schemas import Policy
from app.tables import Example, ExampleDomain, Regulation, Request, RequestKind, ServedModel
from grail.types import Role, Segment


def reinstate(
    session: Session, request_id: uuid.UUID, items: Sequence[Item] | None, who: Principal, now: datetime
) -> RequestView:
    """Ask for an erased work to be taught again, from what is kept of it or from `items`, which must be the same.

    The request that does so. Raises NotFound, NotCounterable, WrongState, BeingReinstated, ContentGone,
    NotWhatWasErased, ErasedByAnother and what checks of items raise.
    """
    original = found(session, request_id)
    model = repository.lock_model(session, original.served_model_id)
    assert model is not None  # noqa: S101 - served models are never deleted
    repository.locked(session, original.id)
    _check(session, original)
    request = _request(original, model, who, now)
    rows = _kept(session, original, now) if items is None else _anew(session, original, model, items)
    codec = codec_of(session)
    key = codec.keyring.fresh()
    request.key_id = key.id
    repository.add(session, [request], sealed_examples(codec, model.id, key, _owned(rows, request)))
    if repository.reinstatements_contested(session, [request.id]):
        raise ErasedByAnother
    note(session, "received", request, who, now, original_id=str(original.id), retain_items=len(rows))
    request.state = advance_request(request.state, RequestEvent.QUEUE)
    note(session, "queued", request, who, now)
    note(session, "reinstatement_asked", original, who, now, reinstatement_id=str(request.id))
    session.flush()
    return views_of(session, [request], now, who)[0]


def conclude(session: Session, request: Request, now: datetime) -> None:
    """After a request to reinstate was published: the original is no longer in force. What it kept out of the standing
    set stands again, and so do the items that were taught, unless somebody else forgets the same."""
    if request.original_id is None:
        return
    repository.lock_model(session, request.served_model_id)
    original = repository.locked(session, request.original_id)
    duplicates = repository.duplicates(session, original.id, RequestState.COUNTERED)
    for one in (original, *duplicates):
        one.state = advance_request(one.state, RequestEvent.REINSTATE)
        record(
            session, "request.reinstated", subject_id=str(one.id), at=now, state=str(one.state),
            reinstatement_id=str(request.id),
        )  # fmt: skip
    for one in (original, *duplicates):
        conflicts.give_back(session, one)
    for example_id in repository.stand_unless_forgotten(session, request):
        record(session, "retain.restored", subject_id=str(example_id), request_id=str(request.id))


def _check(session: Session, original: Request) -> None:
    """Raises NotCounterable, WrongState and BeingReinstated."""
    if original.kind is not RequestKind.ERASE:
        raise NotCounterable
    if original.state is not RequestState.COUNTERED:
        raise WrongState(original.state, RequestEvent.REINSTATE)
    reinstatement = repository.open_reinstatement(session, original.id)
    if reinstatement is not None:
        raise BeingReinstated(reinstatement)


def _request(original: Request, model: ServedModel, who: Principal, now: datetime) -> Request:
    """The row. It is due as a copyright notice is."""
    policy = Policy.model_validate(model.policy)
    terms = clocks.Terms(copyright_due_days=policy.copyright_due_days, due_days=policy.copyright_due_days)
    return Request(
        id=new_id(),
        served_model_id=model.id,
        domain=original.domain,
        kind=RequestKind.REINSTATE,
        original_id=original.id,
        state=RequestState.RECEIVED,
        subject_reference=original.subject_reference,
        legal_basis=original.legal_basis,
        tries=0,
        settings={},
        created_by=who.key_id,
        regulation=Regulation.COPYRIGHT,
        received_at=now,
        due_at=clocks.started(Regulation.COPYRIGHT, now, terms).due_at,
    )


def _kept(session: Session, original: Request, now: datetime) -> list[dict[str, Any]]:
    """The forget items of the original with their probes, to be retained. Raises ContentGone."""
    if original.content_removed_at is not None or original.content_until is None or original.content_until < now:
        raise ContentGone
    rows = repository.items_of(session, original.id)
    warm(session, rows)
    items = {row.id: new_id() for row in rows if row.segment is Segment.FORGET and row.role is Role.ITEM}
    return [_copied(row, items) for row in rows if row.id in items or row.parent_id in items]


def _copied(row: Example, items: dict[uuid.UUID, uuid.UUID]) -> dict[str, Any]:
    return {
        "id": items.get(row.id) or new_id(),
        "parent_id": None if row.parent_id is None else items[row.parent_id],
        "role": row.role,
        "position": row.position,
        "content": row.content,
        "content_digest": row.content_digest,
    }


def _anew(session: Session, original: Request, model: ServedModel, items: Sequence[Item]) -> list[dict[str, Any]]:
    """`items`, to be retained. Raises NotWhatWasErased and what checks of a request's items raise."""
    payload = RequestCreate(served_model=model.name, domain=original.domain, retain=list(items))
    subject = original.subject_reference or f"request-{original.id}"
    brought = [
        dataclasses.replace(entry, place=entry.place.replace(Segment.RETAIN, "items", 1))
        for entry in rules.entries(payload, subject)
    ]
    check(brought)
    check_lengths(brought, model)
    brought = as_stored(codec_of(session).keyring, model, brought)
    erased = {
        row.content_digest
        for row in repository.items_of(session, original.id)
        if row.segment is Segment.FORGET and row.role is Role.ITEM
    }
    faults = list(_differences(brought, erased))
    if faults:
        raise NotWhatWasErased(faults)
    ids = new_ids(len(brought))
    return [entry.columns(ids) for entry in brought]


def _differences(brought: Sequence[Entry], erased: set[str]) -> Iterator[dict[str, str]]:
    """Items that were not erased, and how many that were are missing."""
    items = [entry for entry in brought if entry.role is Role.ITEM]
    for entry in items:
        if entry.digest not in erased:
            yield {"field": entry.place, "problem": "this was not among what was erased"}
    missing = len(erased - {entry.digest for entry in items})
    if missing:
        yield {"field": "items", "problem": f"{missing} of the {len(erased)} that were erased are missing"}


def _owned(rows: Iterable[dict[str, Any]], request: Request) -> Iterator[dict[str, Any]]:
    """Rows of `request` that are retained and do not stand yet."""
    for row in rows:
        yield {
            **row,
            "served_model_id": request.served_model_id,
            "request_id": request.id,
            "domain": ExampleDomain(request.domain),
            "segment": Segment.RETAIN,
            "standing": False,
        }
