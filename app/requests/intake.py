"""How a request is received: checked, linked to an open one for the same, stored with its trail, in one transaction.

Without retain items that takes three statements (`intake_repository`), and different requests go on side by side.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.audit.service import Entry as AuditEntry
from app.audit.service import entry as audit_entry
from app.auth import NO_VALID_KEY, Principal
from app.envelope.codec import Codec
from app.envelope.columns import codec_of, seal_rows
from app.errors import Unauthorised
from app.events.journal import of_request
from app.ids import new_id, new_ids
from app.lifecycle import RequestState
from app.requests import conflicts, digests, duplicates
from app.requests import entries as rules
from app.requests import intake_repository as intake
from app.requests.checks import check, check_lengths
from app.requests.draft import Draft
from app.requests.entries import Entry
from app.requests.intake_repository import Target
from app.requests.known import unknown_model
from app.requests.receipt import Receipt, receive
from app.requests.repository import Counts, lock_model
from app.requests.schemas import RequestCreate, RequestView
from app.requests.sealed import sealed_examples
from app.requests.views import view_of_new
from app.served_models.schemas import Policy
from app.tables import ExampleDomain, Request, ServedModel
from app.telemetry.context import note
from app.telemetry.tracing import traceparent
from grail.types import Role as ExampleRole
from grail.types import Segment

Lengths = Callable[[Sequence[Entry], ServedModel | Target], None]


def submit(session: Session, payload: RequestCreate, who: Principal, now: datetime, *, due_days: int) -> RequestView:
    """Take a request with its items and probes; with retain items only it stands at once.

    The key is looked at in the first statement, whoever did so before: one that is revoked takes effect at once. Raises
    Unauthorised, UnknownServedModel, NothingAsked, FactNotInText, DuplicateItem, Contradiction and TextTooLong.
    """
    request_id = _new_request_id(payload, None)
    found = _entries(payload, request_id)
    print_ = duplicates.fingerprint(payload.domain, found) if payload.forget else None
    alone = bool(payload.retain)
    role, model = intake.holder_and_model(
        session, who.shown, payload.served_model, None if alone else print_, shared=not alone
    )  # fmt: skip
    if role is None:
        raise Unauthorised(NO_VALID_KEY)
    if model is None:
        raise unknown_model(session, payload.served_model)
    model = _as_held(session, model, alone=alone)
    note(request_id=request_id, model=payload.served_model)
    asked = _asked(payload, model, who, now, codec_of(session), request_id, found, print_, due_days)
    return view_of_new(asked.request, payload.served_model, _place(session, asked, now), now)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was checked and is not stored yet, with digests as they are stored. `began` is the state that it
    starts in, unless it is linked; `held` what calls for the same hold alone."""

    request: Draft
    entries: Sequence[Entry]
    began: RequestState
    held: str | None


def prepare(
    payload: RequestCreate,
    model: ServedModel | Target,
    who: Principal,
    now: datetime,
    codec: Codec,
    *,
    due_days: int,
    sorts_at: datetime | None = None,
    policy: Policy | None = None,
    lengths: Lengths = check_lengths,
) -> Asked:
    """Check what is asked, and make its row. Raises what `submit` raises, but for UnknownServedModel, and
    KeyStoreAway, NoKeyEncryptionKey.

    `sorts_at` is the moment by which its id sorts where that is not this one: lists by time of receipt go by ids.
    `policy` is the model's, where it was read from its row already; `lengths` checks that texts fit the model.
    """
    request_id = _new_request_id(payload, sorts_at)
    found = _entries(payload, request_id)
    print_ = duplicates.fingerprint(payload.domain, found) if payload.forget else None
    return _asked(payload, model, who, now, codec, request_id, found, print_, due_days, policy, lengths)


@dataclass(frozen=True, slots=True)
class Rows:
    """What is stored of a request, by columns; `trail` are its leaves, some of which are events, too."""

    request: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]]
    trail: Sequence[AuditEntry]


def rows_of(asked: Asked, blocked: Mapping[str, uuid.UUID], now: datetime, codec: Codec) -> Rows:
    """A request with its items, sealed under a key of its own, and its leaves and events. Retain items with a digest in
    `blocked` (and which request forgets it) do not stand. Raises KeyStoreAway, NoKeyEncryptionKey."""
    request, key = asked.request, codec.keyring.fresh()
    columns = {name: getattr(request, name) for name in intake.PLAIN_COLUMNS} | {"key_id": key.id}
    examples = _rows(asked.entries, request, blocked, now)
    return Rows(
        seal_rows(codec, Request, [columns], {key.id: key})[0],
        sealed_examples(codec, request.served_model_id, key, examples),
        list(_receipt_entries(asked, blocked, now)),
    )


def leaf_columns(made: AuditEntry) -> dict[str, Any]:
    """A leaf by columns."""
    return {"event": made.event, "subject_id": made.subject_id, "leaf": made.leaf}


def event_columns(trail: Iterable[AuditEntry]) -> Iterator[dict[str, Any]]:
    """Those of the leaves that are events of a request, by columns."""
    for made in trail:
        said = of_request(made.event, made.fields)
        if said is not None:
            model_id = made.fields["served_model_id"]
            yield {**said, "request_id": made.subject_id, "served_model_id": model_id, "created_at": made.at}


def as_json(*rows: Rows) -> dict[str, str]:
    """Requests with all that belongs to them, as `intake_repository` stores them."""
    return intake.as_json(
        [one.request for one in rows],
        [example for one in rows for example in one.examples],
        [{**leaf_columns(made), "leaf": made.leaf.decode()} for one in rows for made in one.trail],
        [event for one in rows for event in event_columns(one.trail)],
    )


def _as_held(session: Session, model: Target, *, alone: bool) -> Target:
    """A model with plain digests is looked at once more when it is held: they may have been keyed while it was waited
    for. One with retain items is held alone from here on."""
    if model.is_keyed:
        return model
    if alone:
        held = lock_model(session, model.id)
        return replace(model, is_keyed=held is not None and held.is_keyed)
    return replace(model, is_keyed=intake.is_keyed(session, model.id))


def _store(session: Session, asked: Asked, blocked: Mapping[str, uuid.UUID], now: datetime) -> None:
    """Write one request, which has its revision afterwards; the session does not know it."""
    asked.request.xmin = intake.store(session, as_json(rows_of(asked, blocked, now, codec_of(session))))


def _place(session: Session, asked: Asked, now: datetime) -> Counts:
    """Store one request: linked if it is asked already, its retain items where nobody forgets them, what it forgets out
    of the standing set. The caller holds its model together with others, if it only forgets."""
    request = asked.request
    gone = forgotten(asked.entries)
    retained = {entry.digest for entry in asked.entries if _protects(entry)}
    blocked = conflicts.being_forgotten(session, request.served_model_id, retained) if retained else {}
    stands = False
    if request.fingerprint is not None:
        first_id, stands = intake.asked_before(
            session, request.created_by, request.served_model_id, request.fingerprint, gone
        )
        duplicates.link(request, first_id)
    _store(session, asked, blocked, now)
    if stands:
        conflicts.erase_from_standing(session, request, gone, now)
    return counts(asked.entries)


def _new_request_id(payload: RequestCreate, sorts_at: datetime | None) -> uuid.UUID:
    return new_id(payload.received_at or sorts_at)


def _entries(payload: RequestCreate, request_id: uuid.UUID) -> list[Entry]:
    """What is asked, checked as far as neither database nor tokenizer is needed."""
    found = rules.entries(payload, payload.subject_reference or f"request-{request_id}")
    check(found)
    return found


def _asked(
    payload: RequestCreate,
    model: ServedModel | Target,
    who: Principal,
    now: datetime,
    codec: Codec,
    request_id: uuid.UUID,
    found: Sequence[Entry],
    fingerprint: str | None,
    due_days: int,
    policy: Policy | None = None,
    lengths: Lengths = check_lengths,
) -> Asked:
    receipt = receive(payload, policy or Policy.model_validate(model.policy), now, due_days)
    lengths(found, model)
    asked = digests.stored_fingerprint(codec.keyring, model, fingerprint)
    draft = _draft(request_id, payload, who, model, receipt, asked)
    return Asked(draft, digests.as_stored(codec.keyring, model, found), receipt.state, fingerprint)


def _draft(
    request_id: uuid.UUID,
    payload: RequestCreate,
    who: Principal,
    model: ServedModel | Target,
    receipt: Receipt,
    fingerprint: str | None,
) -> Draft:
    """The row to be."""
    return Draft(
        id=request_id,
        served_model_id=model.id,
        domain=payload.domain,
        state=receipt.state,
        subject_reference=payload.subject_reference,
        legal_basis=payload.legal_basis,
        client_reference=payload.client_reference,
        note=payload.note,
        created_by=who.key_id,
        regulation=receipt.regulation,
        received_at=receipt.clock.received_at,
        due_at=receipt.clock.due_at,
        completed_at=receipt.clock.completed_at,
        traceparent=traceparent(),
        fingerprint=fingerprint,
    )


def _protects(entry: Entry) -> bool:
    """Whether an entry joins the standing retain set."""
    return entry.segment is Segment.RETAIN and entry.role is ExampleRole.ITEM


def forgotten(found: Sequence[Entry]) -> list[str]:
    """Digests of what shall go."""
    return [entry.digest for entry in found if entry.segment is Segment.FORGET and entry.role in rules.FORGOTTEN]


def _rows(
    found: Sequence[Entry], request: Draft, blocked: Mapping[str, uuid.UUID], now: datetime
) -> Iterator[dict[str, Any]]:
    """Example rows. A retain item that somebody has forgotten is stored, but does not stand; those of a linked request
    rest."""
    rests = request.state is RequestState.LINKED
    ids = new_ids(len(found))
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


def _receipt_entries(asked: Asked, blocked: Mapping[str, uuid.UUID], now: datetime) -> Iterator[AuditEntry]:
    """Leaves about what came in, and about retain items that do not stand because somebody forgets them."""
    request, found = asked.request, asked.entries
    count = counts(found)
    yield audit_entry(
        f"request.{asked.began}",
        str(request.id),
        now,
        state=str(asked.began),
        served_model_id=str(request.served_model_id),
        key_id=str(request.created_by),
        domain=str(request.domain),
        forget_items=count.forget_items,
        retain_items=count.retain_items,
        probes=count.probes,
    )
    if request.duplicate_of_id is not None:
        yield duplicates.link_entry(request.id, request.duplicate_of_id, request.served_model_id, now)
        return
    kept_out = {entry.digest for entry in found if _protects(entry)} & blocked.keys()
    for digest in sorted(kept_out):
        yield audit_entry(
            "retain.not_standing", str(request.id), content_digest=digest, request_id=str(blocked[digest])
        )  # fmt: skip


def counts(found: Sequence[Entry]) -> Counts:
    """How much is asked."""
    items = [entry.segment for entry in found if entry.role is ExampleRole.ITEM]
    return Counts(items.count(Segment.FORGET), items.count(Segment.RETAIN), len(found) - len(items))
