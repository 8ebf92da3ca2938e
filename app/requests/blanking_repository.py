"""Every statement about contents whose time is over."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from app.requests.repository import WITHOUT_EFFECT
from app.tables import Example, Request
from app.tables.request import WORDS
from grail.types import Segment


def over(session: Session, now: datetime, limit: int) -> list[Request]:
    """At most `limit` requests whose contents are to go, the longest due first, held; whatever others hold is left. One
    that is being reinstated waits for its end."""
    again = aliased(Request)
    statement = (
        select(Request)
        .where(
            Request.content_until.is_not(None),
            Request.content_removed_at.is_(None),
            Request.content_until < now,
            ~select(again.id).where(again.original_id == Request.id, again.completed_at.is_(None)).exists(),
        )
        .order_by(Request.content_until, Request.id)
        .limit(limit)
        .with_for_update(of=Request, skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def blank(session: Session, request: Request, now: datetime) -> tuple[int, set[uuid.UUID]]:
    """Take the texts out of the rows of what a request had erased, probes too, and of copies that were to be taught
    again and were not; all texts of one that came to nothing; and what was written about the request. How many rows,
    and the keys that they were sealed under. What an erasure retains stays: others' jobs are held to it."""
    for name in WORDS:
        setattr(request, name, None)
    if request.state in WITHOUT_EFFECT:
        return _blanked(session, [request.id], now, only_forgotten=False)
    copies = select(Request.id).where(Request.original_id == request.id, Request.state.in_(WITHOUT_EFFECT))
    erased, keys = _blanked(session, [request.id], now, only_forgotten=True)
    copied, their_keys = _blanked(session, session.scalars(copies).all(), now, only_forgotten=False)
    return erased + copied, keys | their_keys


def _blanked(
    session: Session, request_ids: Collection[uuid.UUID], now: datetime, *, only_forgotten: bool
) -> tuple[int, set[uuid.UUID]]:
    statement = (
        update(Example)
        .where(Example.request_id.in_(request_ids))
        .values(
            content_sealed=None, plain_subject=None, plain_prompt=None, plain_completion=None, plain_facts=None,
            subject_index=None, standing=False, erased_by_request_id=None,
            removed_at=func.coalesce(Example.removed_at, now),
        )
        .returning(Example.id, Example.key_id)
    )  # fmt: skip
    if only_forgotten:
        statement = statement.where(Example.segment == Segment.FORGET)
    rows = session.execute(statement, execution_options={"synchronize_session": False}).all()
    return len(rows), {row.key_id for row in rows if row.key_id is not None}
