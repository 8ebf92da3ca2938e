"""Every statement about batches: pending requests, standing rows, and who is at work."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, Select, exists, func, insert, literal, select, true, union, union_all, update
from sqlalchemy.orm import Session

from app.envelope.columns import warm
from app.lifecycle import OPEN_JOBS, PENDING, JobState, RequestEvent, RequestState, advance_request
from app.tables import (
    Adapter,
    Batch,
    BatchExample,
    BatchMember,
    Example,
    ExampleDomain,
    Job,
    Request,
    RequestDomain,
    RequestKind,
    ServedModel,
)
from grail.types import Role, Segment

IN_FORCE = (RequestState.PUBLISHED, RequestState.COUNTERED)
"""States in which what a request had erased is to stay gone."""
APART_AT_ONCE = 1000
"""Requests to reinstate, and halves of failed batches, that one pass of the planner looks at."""
LATE_JOBS = 5
"""Last jobs by which the next one's duration is foretold."""
STREAM_ROWS = 500
"""Rows of text in memory at a time."""
DRAWN_FROM = 8
"""Standing rows that are looked at for each one that is drawn: the cost of drawing does not grow with the set."""
LONGEST_ROWS = 8
"""Texts with the most characters, among which the one with the most tokens is taken to be."""


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """Items of some requests in one domain."""

    forget: int = 0
    retain: int = 0


def models_with_pending(session: Session) -> list[uuid.UUID]:
    """Served models that have a pending request, in id order (the order in which planners lock them)."""
    waits = exists().where(Request.served_model_id == ServedModel.id, Request.state.in_(PENDING))
    return list(session.scalars(select(ServedModel.id).where(waits).order_by(ServedModel.id)))


def queue_received(session: Session, served_model_id: uuid.UUID, limit: int) -> list[uuid.UUID]:
    """Move at most `limit` received requests to queued. Their ids; those that another transaction holds are left."""
    seen = (
        select(Request.id)
        .where(Request.served_model_id == served_model_id, Request.state == RequestState.RECEIVED)
        .order_by(Request.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    queued = advance_request(RequestState.RECEIVED, RequestEvent.QUEUE)
    statement = update(Request).where(Request.id.in_(seen.scalar_subquery())).values(state=queued).returning(Request.id)
    return list(session.scalars(statement, execution_options={"synchronize_session": False}))


def pending(session: Session, served_model_id: uuid.UUID, limit: int, *, lock: bool) -> list[Request]:
    """Pending requests: the `limit` most urgent of those that anybody may join, and the `APART_AT_ONCE` most urgent of
    those that are batched apart. With `lock` they are held, and those held by others are left out."""
    apart = (Request.kind == RequestKind.REINSTATE) | Request.group_id.is_not(None)
    found: list[Request] = []
    for condition, amount in ((~apart, limit), (apart, max(limit, APART_AT_ONCE))):
        statement = (
            select(Request)
            .where(Request.served_model_id == served_model_id, Request.state.in_(PENDING), condition)
            .order_by(Request.due_at, Request.received_at, Request.id)
            .limit(amount)
            .execution_options(populate_existing=True)
        )
        if lock:
            statement = statement.with_for_update(skip_locked=True, key_share=True)
        found += session.scalars(statement)
    return found


def longest_of_late(session: Session, served_model_id: uuid.UUID) -> timedelta:
    """The longest time that one of a model's last jobs took from its making to its publication; none without any."""
    last = (
        select((Job.finished_at - Job.created_at).label("took"))
        .where(Job.served_model_id == served_model_id, Job.state == JobState.PUBLISHED)
        .order_by(Job.id.desc())
        .limit(LATE_JOBS)
        .subquery()
    )
    return max(session.scalar(select(func.max(last.c.took))) or timedelta(0), timedelta(0))


def in_attention(session: Session, served_model_id: uuid.UUID, limit: int) -> list[Request]:
    """Requests of a model that wait for a person, held until the transaction ends."""
    statement = (
        select(Request)
        .where(Request.served_model_id == served_model_id, Request.state == RequestState.NEEDS_ATTENTION)
        .order_by(Request.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def open_job(session: Session, served_model_id: uuid.UUID) -> Job | None:
    """The job of a model that is queued or at work."""
    statement = select(Job).where(Job.served_model_id == served_model_id, Job.state.in_(OPEN_JOBS)).limit(1)
    return session.scalars(statement).one_or_none()


def items_by_domain(session: Session, request_ids: Collection[uuid.UUID]) -> dict[ExampleDomain, ItemCounts]:
    """Items that a batch of these requests would use: not `in_base`, not contradicted by somebody's erasure."""
    statement = (
        select(
            Example.domain,
            func.count().filter(Example.segment == Segment.FORGET),
            func.count().filter(Example.segment == Segment.RETAIN),
        )
        .where(_used(request_ids), Example.role == Role.ITEM)
        .group_by(Example.domain)
    )
    return {row[0]: ItemCounts(row[1], row[2]) for row in session.execute(statement)}


def add_batch(session: Session, batch: Batch, request_ids: Sequence[uuid.UUID]) -> None:
    """Insert a batch and its members."""
    session.add(batch)
    session.flush()
    session.execute(insert(BatchMember), [{"batch_id": batch.id, "request_id": member} for member in request_ids])


def add_job(session: Session, job: Job) -> None:
    """Insert a job."""
    session.add(job)
    session.flush()


def members(session: Session, batch_id: uuid.UUID) -> list[Request]:
    """The requests of a batch, held until the transaction ends, in id order."""
    statement = (
        select(Request)
        .join(BatchMember, BatchMember.request_id == Request.id)
        .where(BatchMember.batch_id == batch_id)
        .order_by(Request.id)
        .with_for_update(of=Request, key_share=True)
        .execution_options(populate_existing=True)
    )
    return list(session.scalars(statement))


def job_of_request(session: Session, request_id: uuid.UUID) -> Job | None:
    """The job of the last batch of a request, held until the transaction ends."""
    statement = (
        select(Job)
        .join(BatchMember, BatchMember.batch_id == Job.batch_id)
        .where(BatchMember.request_id == request_id)
        .order_by(BatchMember.batch_id.desc())
        .limit(1)
        .with_for_update(of=Job)
        .execution_options(populate_existing=True)
    )
    return session.scalars(statement).one_or_none()


def batch(session: Session, batch_id: uuid.UUID) -> Batch:
    """A batch by id."""
    return session.get_one(Batch, batch_id)


def adapter(session: Session, adapter_id: uuid.UUID) -> Adapter:
    """An adapter version by id."""
    return session.get_one(Adapter, adapter_id)


def standing_rows(
    served_model_id: uuid.UUID, domain: ExampleDomain, request_ids: Collection[uuid.UUID], amount: int
) -> Select[uuid.UUID]:
    """Ids of at most `amount` standing rows of a domain: those about the requests' forget subjects first.

    Then round-robin over subjects (one row of each, then a second of each ...), within a subject by content digest: a
    fixed order that spreads over subjects. Of those subjects that the requests do not name, the rows with the
    `DRAWN_FROM * amount` smallest digests are looked at, which is a sample that does not depend on what they say. Rows
    of the requests themselves are left out, since they come with them.
    """
    subjects = (
        select(Example.subject_index)
        .where(Example.request_id.in_(request_ids), Example.segment == Segment.FORGET, Example.domain == domain)
        .distinct()
        .cte("subjects")
    )

    def standing(most: int) -> Select[uuid.UUID, str | None, str]:
        return (
            select(Example.id, Example.subject_index, Example.content_digest)
            .where(
                Example.served_model_id == served_model_id,
                Example.domain == domain,
                Example.standing,
                Example.role == Role.ITEM,
                Example.request_id.is_(None) | Example.request_id.not_in(request_ids),
            )
            .order_by(Example.content_digest, Example.id)
            .limit(most)
        )

    near = standing(amount).where(Example.subject_index == subjects.c.subject_index).correlate(subjects).lateral("near")
    sample = standing(DRAWN_FROM * amount).subquery("sample")
    found = union(
        select(near.c.id, near.c.subject_index, near.c.content_digest).select_from(subjects.join(near, true())),
        select(sample.c.id, sample.c.subject_index, sample.c.content_digest),
    ).subquery("found")
    turn = func.row_number().over(partition_by=found.c.subject_index, order_by=(found.c.content_digest, found.c.id))
    named = found.c.subject_index.in_(select(subjects.c.subject_index))
    return select(found.c.id).order_by(named.desc(), turn, found.c.content_digest, found.c.id).limit(amount)


def erased_rows(
    served_model_id: uuid.UUID, domain: RequestDomain, request_ids: Collection[uuid.UUID], amount: int
) -> Select[uuid.UUID]:
    """Ids of at most `amount` forget items of a domain that the newest earlier requests had erased, and whose erasure
    is in force: each request in turn, the newest first. What the requests reinstate, and its duplicates, is left
    out."""
    reinstated = select(Request.original_id).where(Request.id.in_(request_ids), Request.original_id.is_not(None))
    newest = (
        select(Request.id)
        .where(
            Request.served_model_id == served_model_id,
            Request.state.in_(IN_FORCE),
            Request.domain == domain,
            Request.id.not_in(reinstated),
            Request.duplicate_of_id.is_(None) | Request.duplicate_of_id.not_in(reinstated),
        )
        .order_by(Request.id.desc())
        .limit(amount)
    )
    turn = func.row_number().over(partition_by=Example.request_id, order_by=(Example.position, Example.id))
    return (
        select(Example.id)
        .where(
            Example.request_id.in_(newest.scalar_subquery()),
            Example.segment == Segment.FORGET,
            Example.role == Role.ITEM,
            Example.removed_at.is_(None),
        )
        .order_by(turn, Example.request_id.desc())
        .limit(amount)
    )


def draw(session: Session, batch_id: uuid.UUID, rows: Select[uuid.UUID]) -> int:
    """Note `rows` as drawn into a batch, inside the database. How many there are."""
    chosen = rows.subquery()
    source = select(literal(batch_id), chosen.c.id)
    statement = insert(BatchExample).from_select(["batch_id", "example_id"], source)
    return sum(1 for _ in session.scalars(statement.returning(BatchExample.example_id)))


def stands_any(session: Session, served_model_id: uuid.UUID, domains: Collection[ExampleDomain]) -> bool:
    """Whether any standing retain row exists in these domains."""
    statement = select(Example.id).where(
        Example.served_model_id == served_model_id, Example.domain.in_(domains), Example.standing
    )
    return session.scalars(statement.limit(1)).first() is not None


def texts(
    session: Session, request_ids: Collection[uuid.UUID], drawn: Sequence[Select[uuid.UUID]]
) -> Iterator[Sequence[tuple[Role, str, str]]]:
    """(role, prompt, completion) of the requests' items and probes and of the `drawn` rows, `STREAM_ROWS` at a time."""
    wanted: list[ColumnElement[bool]] = [_used(request_ids)]
    for rows in drawn:
        ids = rows.scalar_subquery()
        wanted += [Example.id.in_(ids), Example.parent_id.in_(ids)]
    for condition in wanted:
        result = session.scalars(select(Example).where(condition), execution_options={"yield_per": STREAM_ROWS})
        for part in result.partitions():
            yield [(row.role, *pair) for row, pair in _opened(session, part)]


def longest_texts(session: Session, request_ids: Collection[uuid.UUID], batch_id: uuid.UUID) -> list[tuple[str, str]]:
    """(prompt, completion) of the longest rows, in bytes, that a batch of these requests holds."""
    drawn = select(BatchExample.example_id).where(BatchExample.batch_id == batch_id)
    plain = func.octet_length(Example.plain_prompt) + func.octet_length(Example.plain_completion)
    size = func.coalesce(func.octet_length(Example.content_sealed), plain).label("size")
    parts = [  # one by one, since each is served by an index and all of them together by none
        select(Example.id, size).where(condition).order_by(size.desc(), Example.id).limit(LONGEST_ROWS).subquery()
        for condition in (_used(request_ids), Example.id.in_(drawn), Example.parent_id.in_(drawn))
    ]
    rows = union_all(*(select(part) for part in parts)).subquery()
    longest = select(rows.c.id).order_by(rows.c.size.desc(), rows.c.id).limit(LONGEST_ROWS)
    found = session.scalars(select(Example).where(Example.id.in_(session.scalars(longest).all()))).all()
    return [pair for _, pair in _opened(session, found)]


def _opened(session: Session, rows: Sequence[Example]) -> Iterator[tuple[Example, tuple[str, str]]]:
    """Rows with their prompt and completion, but for those whose content is gone."""
    warm(session, rows)
    for row in rows:
        content = row.content
        if content is not None:
            yield row, (content.prompt, content.completion)


def _used(request_ids: Collection[uuid.UUID]) -> ColumnElement[bool]:
    """Rows of requests that a batch of them uses."""
    return (
        Example.request_id.in_(request_ids)
        & Example.erased_by_request_id.is_(None)
        & (Example.outcome.is_(None) | (Example.outcome != "in_base"))
    )
