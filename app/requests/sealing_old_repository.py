"""Every statement about rows that stand there plain."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.tables import Example, Request
from app.tables.request import WORDS


def plain_requests(session: Session, limit: int) -> Sequence[Request]:
    """At most `limit` requests with words that are not sealed, held; whatever others hold is left."""
    plain = or_(*(getattr(Request, f"plain_{name}").is_not(None) for name in WORDS))
    statement = select(Request).where(plain).order_by(Request.id).limit(limit)
    return session.scalars(statement.with_for_update(skip_locked=True, key_share=True)).all()


def plain_examples(session: Session, limit: int) -> Sequence[Example]:
    """At most `limit` examples whose content is not sealed, held; whatever others hold is left."""
    statement = select(Example).where(Example.plain_completion.is_not(None)).order_by(Example.id).limit(limit)
    return session.scalars(statement.with_for_update(skip_locked=True, key_share=True)).all()


def requests_of(session: Session, rows: Sequence[Example]) -> dict[uuid.UUID, Request]:
    """The requests that rows belong to, held."""
    ids = {row.request_id for row in rows if row.request_id is not None}
    found = session.scalars(select(Request).where(Request.id.in_(ids)).with_for_update(key_share=True))
    return {request.id: request for request in found}
