"""Every statement about requests and their items. Lists are read by keyset: newest first, from a cursor's id down."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import ARRAY, Select, String, any_, cast, exists, func, insert, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session, aliased

from app.ids import first_id
from app.lifecycle import RequestState
from app.requests.schemas import RequestFilter
from app.tables import BatchMember, Example, Job, Request, RequestKind, ServedModel
from grail.types import Role, Segment

INSERT_ROWS = 1000
"""Rows that one INSERT carries."""
MODELS = 7_311_003
"""Advisory locks on served models; those on their names are the number before."""
CLOCK_SLACK = timedelta(hours=1)
"""How far the time inside an id may lie from `received_at`: clocks of several servers, long transactions."""
WITHOUT_EFFECT = (RequestState.WITHDRAWN, RequestState.FAILED, RequestState.REFUSED)
"""States of requests that have changed no version."""
NOT_ACTIVE = (*WITHOUT_EFFECT, RequestState.REINSTATED)
"""States in which a request forgets nothing (any more)."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of one request by kind."""

    forget_items: int = 0
    retain_items: int = 0
    probes: int = 0


def model_named(session: Session, name: str) -> ServedModel | None:
    """The served model of that name."""
    return session.scalars(select(ServedModel).where(ServedModel.name == name)).one_or_none()


def model_names(session: Session, limit: int) -> list[str]:
    """Names of the served models in order, at most `limit`."""
    return list(session.scalars(select(ServedModel.name).order_by(ServedModel.name).limit(limit)))


def add(session: Session, requests: Sequence[Request], examples: Iterable[Mapping[str, Any]]) -> None:
    """Insert requests and their examples. An item comes before its probes, since they refer to it."""
    session.add_all(requests)
    session.flush()
    for rows in _chunks(examples, INSERT_ROWS):
        session.execute(insert(Example), rows)


def find(session: Session, request_id: uuid.UUID, *, owner: uuid.UUID | None) -> Request | None:
    """One request; with `owner` only if it is theirs."""
    statement = select(Request).where(Request.id == request_id)
    if owner is not None:
        statement = statement.where(Request.created_by == owner)
    return session.scalars(statement).one_or_none()


def state_now(session: Session, request_id: uuid.UUID) -> RequestState | None:
    """The state as it is committed now, whatever the session remembers."""
    return session.scalars(select(Request.state).where(Request.id == request_id)).one_or_none()


def locked(session: Session, request_id: uuid.UUID) -> Request:
    """A request that exists, read afresh and held until the transaction ends."""
    statement = select(Request).where(Request.id == request_id).with_for_update(key_share=True)
    return session.scalars(statement.execution_options(populate_existing=True)).one()


def page(session: Session, wanted: RequestFilter, *, before: uuid.UUID | None, limit: int) -> list[Request]:
    """At most `limit` requests with ids below `before`, newest first."""
    statement = _narrowed(select(Request), wanted).order_by(Request.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(Request.id < before)
    return list(session.scalars(statement))


def page_by_due_date(
    session: Session, wanted: RequestFilter, *, after: tuple[datetime, uuid.UUID] | None, limit: int
) -> list[Request]:
    """At most `limit` requests whose clock runs and that are due before `wanted.due_before`, the first due first, from
    the (due date, id) `after` on."""
    statement = (
        _narrowed(select(Request), wanted)
        .where(Request.completed_at.is_(None), Request.held_since.is_(None), Request.due_at < wanted.due_before)
        .order_by(Request.due_at, Request.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(Request.due_at, Request.id) > after)
    return list(session.scalars(statement))


def _narrowed(statement: Select[Request], wanted: RequestFilter) -> Select[Request]:
    """Narrowed to what `wanted` names, but for the due date."""
    conditions = {
        Request.created_by: wanted.owner,
        Request.state: wanted.state,
        Request.domain: wanted.domain,
        Request.client_reference: wanted.client_reference,
        Request.kind: wanted.kind,
        Request.regulation: wanted.regulation,
    }
    for column, value in conditions.items():
        if value is not None:
            statement = statement.where(column == value)
    if wanted.kind is RequestKind.REINSTATE:
        statement = statement.where(Request.original_id.is_not(None))  # the same, said so that an index serves it
    if wanted.served_model is not None:
        model_id = select(ServedModel.id).where(ServedModel.name == wanted.served_model).scalar_subquery()
        statement = statement.where(Request.served_model_id == model_id)
    if wanted.received_after is not None:
        statement = statement.where(Request.received_at > wanted.received_after)
        statement = statement.where(Request.id >= first_id(wanted.received_after, -CLOCK_SLACK))
    if wanted.received_before is not None:
        statement = statement.where(Request.received_at < wanted.received_before)
        statement = statement.where(Request.id < first_id(wanted.received_before, CLOCK_SLACK))
    return statement


def model_names_of(session: Session, model_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Name of each served model."""
    rows = session.execute(select(ServedModel.id, ServedModel.name).where(ServedModel.id.in_(set(model_ids))))
    return {row.id: row.name for row in rows}


def counts_of(session: Session, request_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Counts]:
    """Items and probes of each request."""
    item = Example.role == Role.ITEM
    statement = (
        select(
            Example.request_id,
            func.count().filter(item, Example.segment == Segment.FORGET),
            func.count().filter(item, Example.segment == Segment.RETAIN),
            func.count().filter(~item),
        )
        .where(Example.request_id.in_(request_ids))
        .group_by(Example.request_id)
    )
    return {row[0]: Counts(*row[1:]) for row in session.execute(statement) if row[0] is not None}


def last_jobs_of(session: Session, request_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, uuid.UUID]:
    """The job of the last batch that each request was a member of; ids of batches grow with time."""
    statement = (
        select(BatchMember.request_id, Job.id)
        .join(Job, Job.batch_id == BatchMember.batch_id)
        .where(BatchMember.request_id.in_(request_ids))
        .ext(distinct_on(BatchMember.request_id))
        .order_by(BatchMember.request_id, BatchMember.batch_id.desc())
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def items_of(session: Session, request_id: uuid.UUID) -> list[Example]:
    """Items and probes of one request in the order they came; a request is bounded, so this is."""
    return list(
        session.scalars(select(Example).where(Example.request_id == request_id).order_by(Example.position, Example.id))
    )


def lock_model(session: Session, served_model_id: uuid.UUID) -> ServedModel | None:
    """Hold a served model's row: what decides about its retain set, batches and alias happens one at a time.

    Rows that refer to the model can still be inserted by others (FOR NO KEY UPDATE). The advisory lock keeps out
    requests that are being received, which hold it together (`intake_repository`): unlike shared locks on the row, it
    lets whoever waits for it come before those that ask later.
    """
    statement = select(ServedModel, alone(ServedModel.id)).where(ServedModel.id == served_model_id)
    statement = statement.with_for_update(of=ServedModel, key_share=True).execution_options(populate_existing=True)
    return session.scalars(statement).one_or_none()


def alone(model_id: Any) -> Any:
    """An expression that holds a served model against requests that are being received, until the transaction ends."""
    return func.pg_advisory_xact_lock(MODELS, func.hashtext(cast(model_id, String)))


def forgotten_digests(session: Session, served_model_id: uuid.UUID, digests: Iterable[str]) -> dict[str, uuid.UUID]:
    """Which of `digests` an active request forgets, and the first request that does."""
    statement = (
        select(Example.content_digest, Example.request_id)
        .join(Request, Request.id == Example.request_id)
        .where(
            Example.served_model_id == served_model_id,
            Example.content_digest == _any_of(digests),
            Example.segment == Segment.FORGET,
            Example.role.in_((Role.ITEM, Role.PARAPHRASE)),
            Request.state.not_in(NOT_ACTIVE),
        )
        .ext(distinct_on(Example.content_digest))
        .order_by(Example.content_digest, Example.request_id)
    )
    return {row[0]: row[1] for row in session.execute(statement) if row[1] is not None}


def reinstatements_contested(session: Session, request_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
    """Which of these requests to reinstate would teach what another active request forgets: another than the one that
    it reinstates and its duplicates."""
    if not request_ids:
        return set()
    theirs, other = aliased(Example), aliased(Request)
    forgotten = exists().where(
        theirs.served_model_id == Example.served_model_id,
        theirs.content_digest == Example.content_digest,
        theirs.segment == Segment.FORGET,
        theirs.role.in_((Role.ITEM, Role.PARAPHRASE)),
        other.id == theirs.request_id,
        other.state.not_in(NOT_ACTIVE),
        other.id != Request.original_id,
        other.duplicate_of_id.is_distinct_from(Request.original_id),
    )
    statement = (
        select(Request.id)
        .join(Example, Example.request_id == Request.id)
        .where(Request.id.in_(request_ids), Example.role == Role.ITEM, forgotten)
    )
    return set(session.scalars(statement))


def open_reinstatement(session: Session, original_id: uuid.UUID) -> uuid.UUID | None:
    """The request that is to reinstate this one and is not done."""
    statement = select(Request.id).where(Request.original_id == original_id, Request.completed_at.is_(None))
    return session.scalars(statement.limit(1)).first()


def duplicates(session: Session, request_id: uuid.UUID, state: RequestState) -> list[Request]:
    """Requests in a state that share the end of another one, held until the transaction ends, in id order."""
    statement = (
        select(Request)
        .where(Request.duplicate_of_id == request_id, Request.state == state)
        .order_by(Request.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def stand_unless_forgotten(session: Session, request: Request) -> list[uuid.UUID]:
    """Let a request's retain items stand, but for contents that an active request forgets. Ids of those that do."""
    mine = select(Example.content_digest).where(Example.request_id == request.id, Example.role == Role.ITEM)
    forgotten = forgotten_digests(session, request.served_model_id, session.scalars(mine))
    statement = (
        update(Example)
        .where(
            Example.request_id == request.id,
            Example.segment == Segment.RETAIN,
            Example.role == Role.ITEM,
            Example.content_digest.not_in(forgotten),
        )
        .values(standing=True)
        .returning(Example.id)
    )
    return list(session.scalars(statement, execution_options={"synchronize_session": False}))


def take_out(
    session: Session, served_model_id: uuid.UUID, digests: Iterable[str], *, by: uuid.UUID, now: datetime
) -> list[uuid.UUID]:
    """Take rows of these contents out of the standing set, marked with the request that erases them. Their ids."""
    statement = (
        update(Example)
        .where(
            Example.served_model_id == served_model_id,
            Example.content_digest == _any_of(digests),
            Example.standing,
        )
        .values(standing=False, removed_at=now, erased_by_request_id=by)
        .returning(Example.id)
    )
    return list(session.scalars(statement, execution_options={"synchronize_session": False}))


def taken_out_by(session: Session, served_model_id: uuid.UUID, request_id: uuid.UUID) -> list[Any]:
    """Rows (id, content_digest) that a request keeps out of the standing set, found by the contents that it forgets."""
    forgets = (
        select(Example.content_digest)
        .where(Example.request_id == request_id, Example.segment == Segment.FORGET)
        .scalar_subquery()
    )
    statement = select(Example.id, Example.content_digest).where(
        Example.served_model_id == served_model_id,
        Example.content_digest.in_(forgets),
        Example.erased_by_request_id == request_id,
    )
    return list(session.execute(statement))


def put_back(session: Session, example_ids: Sequence[uuid.UUID]) -> None:
    """Let rows stand again."""
    _set(session, example_ids, standing=True, removed_at=None, erased_by_request_id=None)


def hand_over(session: Session, example_ids: Sequence[uuid.UUID], *, to: uuid.UUID) -> None:
    """Rows stay out, now because of another request."""
    _set(session, example_ids, erased_by_request_id=to)


def retire_retain_items(session: Session, request_id: uuid.UUID, now: datetime) -> list[uuid.UUID]:
    """The retain items of a request leave the standing set for good. Ids of those that were in it or kept out of it."""
    statement = (
        update(Example)
        .where(
            Example.request_id == request_id,
            Example.standing | Example.erased_by_request_id.is_not(None),
        )
        .values(standing=False, removed_at=now, erased_by_request_id=None)
        .returning(Example.id)
    )
    return list(session.scalars(statement, execution_options={"synchronize_session": False}))


def _set(session: Session, example_ids: Sequence[uuid.UUID], **values: Any) -> None:
    """Set columns of examples by id."""
    statement = update(Example).where(Example.id.in_(example_ids)).values(**values)
    session.execute(statement, execution_options={"synchronize_session": False})


def _any_of(digests: Iterable[str]) -> Any:
    """`= ANY(array)`: one parameter however many digests."""
    return any_(literal(sorted(set(digests)), ARRAY(String)))


def _chunks(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """`rows` in lists of at most `size`."""
    stream = iter(rows)
    while chunk := [dict(row) for row in islice(stream, size)]:
        yield chunk
