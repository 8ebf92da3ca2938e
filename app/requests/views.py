"""Rows as they are shown: a page of requests costs four statements, whatever its length."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.auth import Principal
from app.preconditions import entity_tag
from app.requests import clocks, repository
from app.requests.access import owns_or_judges
from app.requests.draft import Draft
from app.requests.repository import Counts
from app.requests.schemas import (
    CounterView,
    ExtensionView,
    HoldView,
    ItemView,
    ProbeKind,
    ProbeView,
    RequestContents,
    RequestView,
)
from app.tables import Example, Request
from app.tables.content import Content
from grail.types import Role, Segment

GONE = Content("", "", "")
"""What is shown of content that was destroyed."""


def views_of(
    session: Session, requests: Sequence[Request], now: datetime, who: Principal | None = None
) -> list[RequestView]:
    """Requests with their counts, model names and last jobs; reasons that people wrote only where `who` may read
    them."""
    session.flush()  # what is shown, and its revision, are those that are about to be committed
    ids = [request.id for request in requests]
    names = repository.model_names_of(session, {request.served_model_id for request in requests})
    counts, jobs = repository.counts_of(session, ids), repository.last_jobs_of(session, ids)
    return [
        _view(
            request,
            now,
            model=names[request.served_model_id],
            counts=counts.get(request.id, Counts()),
            job_id=jobs.get(request.id),
            with_reasons=who is not None and owns_or_judges(who, request),
        )
        for request in requests
    ]


def view_of_new(request: Draft, model: str, counts: Counts, now: datetime) -> RequestView:
    """A request that was stored just now, to its owner: no job can have taken it yet."""
    return _view(request, now, model=model, counts=counts, job_id=None, with_reasons=True)


def view_of_row(row: Any, now: datetime, *, with_reasons: bool) -> RequestView:
    """A request as `status_repository` reads it."""
    counts = Counts(row.forget_items, row.retain_items, row.probes)
    return _view(row, now, model=row.model, counts=counts, job_id=row.job_id, with_reasons=with_reasons)


def contents_of(request: Request, rows: Sequence[Example]) -> RequestContents:
    """What was asked, in its order."""
    contents = {row.id: row.content or GONE for row in rows}
    probes: dict[uuid.UUID, list[ProbeView]] = {}
    for row in rows:
        if row.parent_id is not None:
            content = contents[row.id]
            probe = ProbeView(
                id=row.id, kind=ProbeKind(row.role), prompt=content.prompt, completion=content.completion,
                facts=list(content.facts),
            )  # fmt: skip
            probes.setdefault(row.parent_id, []).append(probe)
    sides: dict[Segment, list[ItemView]] = {Segment.FORGET: [], Segment.RETAIN: []}
    for row in rows:
        if row.role is Role.ITEM:
            sides[row.segment].append(_item(row, contents[row.id], probes.get(row.id, [])))
    return RequestContents(
        subject_reference=request.subject_reference,
        note=request.note,
        forget=sides[Segment.FORGET],
        retain=sides[Segment.RETAIN],
    )


def _item(row: Example, content: Content, probes: list[ProbeView]) -> ItemView:
    return ItemView(
        id=row.id,
        subject=content.subject,
        prompt=content.prompt,
        completion=content.completion,
        facts=list(content.facts),
        outcome=row.outcome,
        probes=probes,
    )


def _view(
    request: Request | Any,
    now: datetime,
    *,
    model: str,
    counts: Counts,
    job_id: uuid.UUID | None,
    with_reasons: bool,
) -> RequestView:
    clock = clocks.clock_of(request)
    return RequestView(
        id=request.id,
        served_model=model,
        domain=request.domain,
        state=request.state,
        forget_items=counts.forget_items,
        retain_items=counts.retain_items,
        probes=counts.probes,
        legal_basis=request.legal_basis,
        client_reference=request.client_reference,
        kind=request.kind,
        regulation=request.regulation,
        received_at=request.received_at,
        due_at=request.due_at,
        days_left=clocks.days_left(clock, now),
        overdue=clocks.overdue(clock, now),
        hold=_hold(request, with_reasons),
        extension=_extension(request, with_reasons),
        refusal_reason=request.refusal_reason if with_reasons else None,
        counter=_counter(request, with_reasons),
        content_until=request.content_until,
        content_removed_at=request.content_removed_at,
        completed_at=request.completed_at,
        tries=request.tries,
        outcome=request.outcome,
        job_id=job_id,
        original_id=request.original_id,
        duplicate_of_id=request.duplicate_of_id,
        etag=entity_tag(request.xmin),
    )


def _hold(request: Request | Any, with_reasons: bool) -> HoldView | None:
    if request.hold_kind is None or request.held_since is None:
        return None
    return HoldView(
        kind=request.hold_kind, since=request.held_since, reason=request.hold_reason if with_reasons else None
    )


def _extension(request: Request | Any, with_reasons: bool) -> ExtensionView | None:
    if request.extended_at is None or request.first_due_at is None:
        return None
    return ExtensionView(
        at=request.extended_at,
        first_due_at=request.first_due_at,
        reason=request.extension_reason if with_reasons else None,
    )


def _counter(request: Request | Any, with_reasons: bool) -> CounterView | None:
    if request.countered_at is None:
        return None
    return CounterView(at=request.countered_at, reason=request.counter_reason if with_reasons else None)
