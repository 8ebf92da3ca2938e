"""A request that is being received: what its row will be, without the row's machinery, which takes longer than the
rest of what is done with it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime

from app.lifecycle import RequestState
from app.tables import HoldKind, Regulation, RequestDomain, RequestKind


@dataclass(slots=True)
class Draft:
    """As `app.tables.Request`, at its beginning. `xmin` is its revision, once it is stored."""

    id: uuid.UUID
    served_model_id: uuid.UUID
    domain: RequestDomain
    state: RequestState
    subject_reference: str | None = field(repr=False)
    legal_basis: str | None
    client_reference: str | None = field(repr=False)
    note: str | None = field(repr=False)
    created_by: uuid.UUID
    regulation: Regulation
    received_at: datetime
    due_at: datetime
    completed_at: datetime | None
    traceparent: str | None
    fingerprint: str | None
    kind: RequestKind = RequestKind.ERASE
    duplicate_of_id: uuid.UUID | None = None
    xmin: str = ""
    tries: int = 0
    outcome: None = None
    original_id: None = None
    first_due_at: None = None
    extended_at: None = None
    extension_reason: None = None
    held_since: None = None
    hold_kind: HoldKind | None = None
    hold_reason: None = None
    refusal_reason: None = None
    countered_at: None = None
    counter_reason: None = None
    content_until: None = None
    content_removed_at: None = None
