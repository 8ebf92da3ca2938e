"""A forget/retain request as a person or team made it, and its life."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.envelope.columns import Sealed, SealedBytes
from app.lifecycle import RequestState
from app.tables.base import Base, Created, Id, Revision, enum_of


class RequestDomain(StrEnum):
    """The kinds of request that the service takes."""

    PRIVACY = "privacy"
    COPYRIGHT = "copyright"


class RequestKind(StrEnum):
    """What is asked for."""

    ERASE = "erase"  # or, with retain items alone, protect
    REINSTATE = "reinstate"  # teach again what `original_id` had erased


class Regulation(StrEnum):
    """What sets the due date."""

    GDPR = "gdpr"  # one calendar month, by two more with a reason
    CCPA = "ccpa"  # 45 days, by 45 more with a reason
    COPYRIGHT = "copyright"  # the served model's policy
    NONE = "none"  # the service's own GRAIL_REQUEST_DUE_DAYS


class HoldKind(StrEnum):
    """Why a request is on hold."""

    IDENTITY = "identity"
    SCOPE = "scope"
    LEGAL = "legal"


WORDS = ("subject_reference", "note", "extension_reason", "hold_reason", "refusal_reason", "counter_reason")
"""What people wrote about a request."""
PLAIN_WORDS = " OR ".join(f"{name} IS NOT NULL" for name in WORDS)


class Request(Base):
    """`settings` holds what changed after a failed try; `outcome` numbers and states only, never text.

    `first_due_at` is the due date before it was extended. While it is held (from the state `held_from`) its clock
    stands; what it stood is added to both dates at its end. Requests with one `group_id` are batched together and with
    no others: halves of a batch that failed. `content_until` is how long the texts are kept once it has ended
    (`app.requests.keeping`); they were destroyed at `content_removed_at`. What people wrote, here and in its examples,
    is sealed under the key `key_id`, which is destroyed then. `traceparent` is the span in which it was
    received, where traces are sent.
    """

    __tablename__ = "request"

    id: Mapped[Id]
    served_model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("served_model.id"))
    domain: Mapped[RequestDomain] = mapped_column(enum_of(RequestDomain, "request_domain"))
    state: Mapped[RequestState] = mapped_column(enum_of(RequestState, "request_state"), default=RequestState.RECEIVED)
    plain_subject_reference: Mapped[str | None] = mapped_column("subject_reference", String(200))
    subject_reference_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    subject_reference = Sealed(keys=("key_id",), plain="plain_subject_reference")
    legal_basis: Mapped[str | None] = mapped_column(String(200))
    client_reference: Mapped[str | None] = mapped_column(String(200))
    plain_note: Mapped[str | None] = mapped_column("note", String(2000))
    note_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    note = Sealed(keys=("key_id",), plain="plain_note")
    tries: Mapped[int] = mapped_column(Integer, default=0)
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    outcome: Mapped[dict[str, Any] | None]
    created_by: Mapped[uuid.UUID] = mapped_column(ForeignKey("key.id"))
    key_id: Mapped[uuid.UUID | None]
    received_at: Mapped[Created]
    due_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    kind: Mapped[RequestKind] = mapped_column(
        enum_of(RequestKind, "request_kind"), default=RequestKind.ERASE, server_default="erase"
    )
    regulation: Mapped[Regulation] = mapped_column(
        enum_of(Regulation, "regulation"), default=Regulation.NONE, server_default="none"
    )
    first_due_at: Mapped[datetime | None]
    extended_at: Mapped[datetime | None]
    plain_extension_reason: Mapped[str | None] = mapped_column("extension_reason", String(2000))
    extension_reason_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    extension_reason = Sealed(keys=("key_id",), plain="plain_extension_reason")
    held_since: Mapped[datetime | None]
    hold_kind: Mapped[HoldKind | None] = mapped_column(enum_of(HoldKind, "hold_kind"))
    plain_hold_reason: Mapped[str | None] = mapped_column("hold_reason", String(2000))
    hold_reason_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    hold_reason = Sealed(keys=("key_id",), plain="plain_hold_reason")
    held_from: Mapped[RequestState | None] = mapped_column(enum_of(RequestState, "request_state"))
    plain_refusal_reason: Mapped[str | None] = mapped_column("refusal_reason", String(2000))
    refusal_reason_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    refusal_reason = Sealed(keys=("key_id",), plain="plain_refusal_reason")
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    duplicate_of_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("request.id"))
    original_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("request.id"))
    group_id: Mapped[uuid.UUID | None]
    countered_at: Mapped[datetime | None]
    plain_counter_reason: Mapped[str | None] = mapped_column("counter_reason", String(2000))
    counter_reason_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    counter_reason = Sealed(keys=("key_id",), plain="plain_counter_reason")
    content_until: Mapped[datetime | None]
    content_removed_at: Mapped[datetime | None]
    traceparent: Mapped[str | None] = mapped_column(String(55))
    xmin: Mapped[Revision]

    __table_args__ = (
        CheckConstraint("tries >= 0", name="tries_are_not_negative"),
        CheckConstraint("due_at > received_at", name="due_after_receipt"),
        CheckConstraint(
            "(completed_at IS NOT NULL) = (state IN ('published', 'standing', 'withdrawn', 'failed', 'refused', "
            "'countered', 'reinstated'))",
            name="completed_when_final",
        ),
        CheckConstraint("(extended_at IS NULL) = (first_due_at IS NULL)", name="extension_is_whole"),
        CheckConstraint("due_at >= first_due_at", name="extended_forward"),
        CheckConstraint("(state = 'on_hold') = (held_since IS NOT NULL)", name="held_since_when_on_hold"),
        CheckConstraint("(held_since IS NULL) = (hold_kind IS NULL)", name="hold_is_whole"),
        CheckConstraint("(held_since IS NULL) = (held_from IS NULL)", name="held_from_some_state"),
        CheckConstraint("state <> 'linked' OR duplicate_of_id IS NOT NULL", name="linked_to_something"),
        CheckConstraint("(kind = 'reinstate') = (original_id IS NOT NULL)", name="reinstates_something"),
        CheckConstraint(
            "state <> 'refused' OR refusal_reason IS NOT NULL OR refusal_reason_sealed IS NOT NULL "
            "OR content_removed_at IS NOT NULL",
            name="refused_with_a_reason_or_over",
        ),
        # Newest first, whole and per owner, model or state: every list and filter reads one of these.
        Index("ix_request_created_by_id", "created_by", "id"),
        Index("ix_request_served_model_id_state_id", "served_model_id", "state", "id"),
        Index("ix_request_state_id", "state", "id"),
        Index("ix_request_domain_id", "domain", "id"),
        Index("ix_request_regulation_id", "regulation", "id"),
        Index("ix_request_client_reference", "client_reference"),
        Index(
            "ix_request_open_due_at_id",
            "due_at",
            "id",
            postgresql_where="completed_at IS NULL AND held_since IS NULL",
        ),
        Index("ix_request_fingerprint", "created_by", "fingerprint", postgresql_where="completed_at IS NULL"),
        Index("ix_request_not_sealed", "id", postgresql_where=PLAIN_WORDS),
        Index("ix_request_duplicate_of_id", "duplicate_of_id", postgresql_where="duplicate_of_id IS NOT NULL"),
        Index(
            "ix_request_content_until",
            "content_until",
            "id",
            postgresql_where="content_until IS NOT NULL AND content_removed_at IS NULL",
        ),
        Index("ix_request_original_id", "original_id", postgresql_where="original_id IS NOT NULL"),
        Index(
            "ix_request_pending_in_order",
            "served_model_id",
            "due_at",
            "received_at",
            "id",
            postgresql_where="state IN ('received', 'queued')",
        ),
        Index(
            "ix_request_in_force",
            "served_model_id",
            "domain",
            "id",
            postgresql_where="state IN ('published', 'countered')",
        ),
        Index(
            "ix_request_apart_in_order",
            "served_model_id",
            "due_at",
            "received_at",
            "id",
            postgresql_where="state IN ('received', 'queued') AND (kind = 'reinstate' OR group_id IS NOT NULL)",
        ),
    )
