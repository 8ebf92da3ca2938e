"""Every statement about requests for the same, and about the contents of many requests at once."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session, aliased

from app.lifecycle import RequestState
from app.tables import Example, Request
from grail.types import Role, Segment


def linked_to(session: Session, request_id: uuid.UUID) -> list[Request]:
    """Requests that wait for the end of this one, held until the transaction ends, oldest first."""
    statement = (
        select(Request)
        .where(Request.duplicate_of_id == request_id, Request.state == RequestState.LINKED)
        .order_by(Request.received_at, Request.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def resting_items(session: Session, request_id: uuid.UUID) -> dict[str, uuid.UUID]:
    """Retain items of a request that neither stand nor were taken out: content digest and id."""
    statement = select(Example.content_digest, Example.id).where(
        Example.request_id == request_id,
        Example.segment == Segment.RETAIN,
        Example.role == Role.ITEM,
        Example.standing.is_(False),
        Example.removed_at.is_(None),
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def keep_out(session: Session, example_ids: Sequence[uuid.UUID], *, by: uuid.UUID, now: datetime) -> None:
    """These items do not stand, because of a request that forgets the same."""
    values = {"standing": False, "removed_at": now, "erased_by_request_id": by}
    statement = update(Example).where(Example.id.in_(example_ids)).values(**values)
    session.execute(statement, execution_options={"synchronize_session": False})


def copy_outcomes(session: Session, of: uuid.UUID, to: Sequence[uuid.UUID]) -> None:
    """What became of the items of one request became of the same items of those that share its end."""
    first = aliased(Example)
    statement = (
        update(Example)
        .where(
            Example.request_id.in_(to),
            first.request_id == of,
            first.segment == Example.segment,
            first.content_digest == Example.content_digest,
            first.role == Role.ITEM,
            Example.role == Role.ITEM,
        )
        .values(outcome=first.outcome)
    )
    session.execute(statement, execution_options={"synchronize_session": False})
