"""Every statement about requests for the same, and about the contents of many requests at once."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session, aliased

from app.lifecycle import RequestState
from app.tables import Example, Request, RequestKind
from grail.types import Role, Segment

FORGOTTEN_ROLES = (Role.ITEM, Role.PARAPHRASE)


@dataclass(frozen=True, slots=True)
class Content:
    """One item, or one paraphrase of an item, of a request."""

    request_id: uuid.UUID
    segment: Segment
    digest: str
    standing: bool


def open_firsts(session: Session, like: Request, fingerprints: Collection[str]) -> list[Request]:
    """Open requests of the owner and served model of `like` with one of these fingerprints, linked ones left out; held
    until the transaction ends, in id order."""
    statement = (
        select(Request)
        .where(
            Request.created_by == like.created_by,
            Request.fingerprint.in_(fingerprints),
            Request.served_model_id == like.served_model_id,
            Request.completed_at.is_(None),
            Request.state != RequestState.LINKED,
            Request.kind == RequestKind.ERASE,
        )
        .order_by(Request.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


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


def lay_to_rest(session: Session, request_ids: Sequence[uuid.UUID]) -> None:
    """The retain items of these requests do not stand for now."""
    statement = update(Example).where(Example.request_id.in_(request_ids), Example.standing).values(standing=False)
    session.execute(statement, execution_options={"synchronize_session": False})


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


def contents_of(session: Session, request_ids: Sequence[uuid.UUID]) -> list[Content]:
    """What these requests forget, paraphrases too, and what they retain, without its probes."""
    statement = select(Example.request_id, Example.segment, Example.content_digest, Example.standing).where(
        Example.request_id.in_(request_ids),
        (Example.role == Role.ITEM) | ((Example.segment == Segment.FORGET) & Example.role.in_(FORGOTTEN_ROLES)),
    )
    return [Content(row[0], *row[1:]) for row in session.execute(statement) if row[0] is not None]


def standing_among(session: Session, served_model_id: uuid.UUID, digests: Collection[str]) -> set[str]:
    """Those contents of which a row stands."""
    statement = select(Example.content_digest).where(
        Example.served_model_id == served_model_id, Example.content_digest.in_(digests), Example.standing
    )
    return set(session.scalars(statement))


def by_ids(session: Session, request_ids: Sequence[uuid.UUID]) -> list[Request]:
    """These requests, in id order."""
    return list(session.scalars(select(Request).where(Request.id.in_(request_ids)).order_by(Request.id)))
