"""Rows as they are shown: a page of requests costs four statements, whatever its length."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.preconditions import entity_tag
from app.requests import repository
from app.requests.repository import Counts
from app.requests.schemas import ItemView, ProbeKind, ProbeView, RequestContents, RequestView
from app.tables import Example, Request
from grail.types import Role, Segment


def views_of(session: Session, requests: Sequence[Request], now: datetime) -> list[RequestView]:
    """Requests with their counts, model names and last jobs."""
    session.flush()  # what is shown, and its revision, are those that are about to be committed
    ids = [request.id for request in requests]
    names = repository.model_names_of(session, {request.served_model_id for request in requests})
    counts, jobs = repository.counts_of(session, ids), repository.last_jobs_of(session, ids)
    return [
        _view(request, names[request.served_model_id], counts.get(request.id, Counts()), jobs.get(request.id), now)
        for request in requests
    ]


def contents_of(request: Request, rows: Sequence[Example]) -> RequestContents:
    """What was asked, in its order."""
    probes: dict[uuid.UUID, list[ProbeView]] = {}
    for row in rows:
        if row.parent_id is not None:
            probe = ProbeView(
                id=row.id, kind=ProbeKind(row.role), prompt=row.prompt, completion=row.completion, facts=row.facts
            )
            probes.setdefault(row.parent_id, []).append(probe)
    sides: dict[Segment, list[ItemView]] = {Segment.FORGET: [], Segment.RETAIN: []}
    for row in rows:
        if row.role is Role.ITEM:
            sides[row.segment].append(_item(row, probes.get(row.id, [])))
    return RequestContents(
        subject_reference=request.subject_reference,
        note=request.note,
        forget=sides[Segment.FORGET],
        retain=sides[Segment.RETAIN],
    )


def days_left(request: Request, now: datetime) -> int | None:
    """Whole days until the due date, negative once it has passed; None when the request is done."""
    return None if request.completed_at is not None else (request.due_at - now) // timedelta(days=1)


def _item(row: Example, probes: list[ProbeView]) -> ItemView:
    return ItemView(
        id=row.id,
        subject=row.subject,
        prompt=row.prompt,
        completion=row.completion,
        facts=row.facts,
        outcome=row.outcome,
        probes=probes,
    )


def _view(request: Request, model: str, counts: Counts, job_id: uuid.UUID | None, now: datetime) -> RequestView:
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
        received_at=request.received_at,
        due_at=request.due_at,
        days_left=days_left(request, now),
        completed_at=request.completed_at,
        tries=request.tries,
        outcome=request.outcome,
        job_id=job_id,
        duplicate_of_id=request.duplicate_of_id,
        etag=entity_tag(request.xmin),
    )
