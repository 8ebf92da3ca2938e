"""Examples: the items and probes of requests, and each served model's standing retain set.

A row belongs to a request, or (request_id null) to the retain set put by the operator. A retain row with `standing`
true serves every batch of its served model; erasure wins, so a forget
item sets `standing` false on the rows it contradicts. Rows of the domain `general` belong to no request: they are
instruction data that some methods retain instead of what stands beside the requests.

A row's texts are one sealed value under its request's key (`app.envelope`); what a request retains has a key apart,
since it is kept for longer; the operator's set has one for each time that it was put. `subject_index` is a blind index
of the subject, by which rows are grouped. Rows from before have plain texts, and no index, until the sweep seals
them.

A row whose text was destroyed has `removed_at` and no content; its digest stays, so that erasure goes on winning.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.envelope.columns import Sealed, SealedBytes
from app.tables.base import Base, Created, Id, enum_of
from app.tables.content import CONTENT, Content
from grail.config import GENERAL as GENERAL_DOMAIN
from grail.types import Role, Segment


class ExampleDomain(StrEnum):
    """The kinds of request, and general instruction data, which nobody asks to forget."""

    PRIVACY = "privacy"
    COPYRIGHT = "copyright"
    GENERAL = GENERAL_DOMAIN


class Example(Base):
    """`content_digest` is SHA-256 of the normalised prompt and completion: how contradictions are found."""

    __tablename__ = "example"

    id: Mapped[Id]
    served_model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("served_model.id"))
    request_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("request.id"))
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("example.id"))
    domain: Mapped[ExampleDomain] = mapped_column(enum_of(ExampleDomain, "example_domain"))
    segment: Mapped[Segment] = mapped_column(enum_of(Segment, "segment"))
    role: Mapped[Role] = mapped_column(enum_of(Role, "example_role"), default=Role.ITEM)
    position: Mapped[int] = mapped_column(Integer)
    key_id: Mapped[uuid.UUID | None]
    subject_index: Mapped[str | None] = mapped_column(String(64))
    content_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    content = Sealed(keys=("key_id",), kind=CONTENT, plain="plain_content")
    plain_subject: Mapped[str | None] = mapped_column("subject", String(200))
    plain_prompt: Mapped[str | None] = mapped_column("prompt", Text)
    plain_completion: Mapped[str | None] = mapped_column("completion", Text)
    plain_facts: Mapped[list[str] | None] = mapped_column("facts", JSONB(none_as_null=True))
    content_digest: Mapped[str] = mapped_column(String(64))
    standing: Mapped[bool] = mapped_column(default=False)
    erased_by_request_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("request.id"))
    outcome: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[Created]
    removed_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("(role = 'item') = (parent_id IS NULL)", name="probes_have_a_parent"),
        CheckConstraint("NOT standing OR segment = 'retain'", name="only_retain_stands"),
        CheckConstraint("request_id IS NOT NULL OR segment = 'retain'", name="forget_needs_a_request"),
        CheckConstraint(
            "outcome IN ('forgotten', 'in_base', 'not_forgotten', 'kept', 'lost')", name="outcome_is_known"
        ),
        CheckConstraint("domain <> 'general' OR request_id IS NULL", name="general_is_of_no_request"),
        CheckConstraint(
            "content_sealed IS NOT NULL OR length(completion) > 0 OR removed_at IS NOT NULL",
            name="content_is_there_or_removed",
        ),
        CheckConstraint("content_sealed IS NULL OR key_id IS NOT NULL", name="sealed_under_a_key"),
        CheckConstraint("content_sealed IS NULL OR completion IS NULL", name="sealed_or_plain"),
        Index("ix_example_request_id_position", "request_id", "position"),
        Index("ix_example_parent_id", "parent_id"),
        Index("ix_example_served_model_id_content_digest", "served_model_id", "content_digest"),
        Index(
            "ix_example_standing_subject",
            "served_model_id", "domain", "subject", "content_digest", "id",
            postgresql_where="standing",
        ),
        Index(
            "ix_example_standing_subject_index",
            "served_model_id", "domain", "subject_index", "content_digest", "id",
            postgresql_where="standing",
        ),
        Index("ix_example_not_sealed", "id", postgresql_where="completion IS NOT NULL"),
        Index(
            "ix_example_standing_digest",
            "served_model_id", "domain", "content_digest", "id",
            postgresql_where="standing",
        ),
    )

    @property
    def plain_content(self) -> Content | None:
        """What stands there unsealed."""
        if not self.plain_completion:
            return None
        facts = tuple(self.plain_facts or ())
        return Content(self.plain_subject or "", self.plain_prompt or "", self.plain_completion, facts)

    @plain_content.setter
    def plain_content(self, nothing: None) -> None:
        self.plain_subject = self.plain_prompt = self.plain_completion = self.plain_facts = nothing
