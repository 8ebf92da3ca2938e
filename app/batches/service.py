"""From pending requests to a batch and its queued job, in one transaction.

The served model's row is held while a batch is made, so that two planners make one batch and no retain item slips in
or out half-way. Locks are taken in one order everywhere: served model, job, requests.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from app.apart import Apart, together
from app.audit.service import record, record_all
from app.auth import Principal
from app.batches import repository
from app.batches.cost import cost, least_bytes
from app.batches.errors import BreakerOpen, JobAtWork, NoActiveAdapter, NoRetainData, NothingPending
from app.batches.grouping import IMMEDIATE, BatchPlan, PendingRequest, group, merge_settings
from app.batches.repository import ItemCounts
from app.batches.schemas import BatchPreview, CostEstimate
from app.db import Database, clock, transaction
from app.errors import ServiceError
from app.ids import new_id
from app.lifecycle import JobEvent, JobState, RequestEvent, RequestState, advance_job, advance_request
from app.queue import enqueue
from app.requests.known import known_model
from app.requests.repository import lock_model, reinstatements_contested
from app.served_models import breaker
from app.served_models.schemas import Policy
from app.tables import (
    Batch,
    BatchReason,
    ExampleDomain,
    Job,
    JobKind,
    Request,
    RequestDomain,
    RequestKind,
    ServedModel,
)
from app.telemetry.tracing import span, traceparent
from app.tokens import TokeniserMissing, count_tokens, load_tokeniser
from grail.config import GENERAL, NothingNamed, UnlearnConfig
from grail.plan import Workload
from grail.types import Role

__all__ = [
    "BatchPlan", "PendingRequest", "Remainder", "batch_again", "group", "hold_job", "leave", "plan", "plan_model",
    "preview", "run_now",
]  # fmt: skip

QUEUE_AT_ONCE = 500
"""Received requests of one model that one pass of the planner acknowledges."""
RUN_JOB = "grail.run_job"

log = structlog.get_logger(__name__)
CountsByDomain = Mapping[ExampleDomain, ItemCounts]


@dataclass(frozen=True, slots=True)
class Remainder:
    """What is left of a batch that a member has left: queued requests that are to be batched at once."""

    served_model_id: uuid.UUID
    requests: Sequence[Request]
    reason: BatchReason


def plan(
    db: Database,
    *,
    time_of: Callable[[Session], datetime] = clock,
    apart: Apart = together,
) -> list[uuid.UUID]:
    """Make the batches that are due, one per served model without a job. Ids of the jobs made.

    Each model is planned in a transaction of its own, so that none waits for another; with `apart` around it, none
    fails with another.
    """
    with transaction(db) as session:
        models = repository.models_with_pending(session)
    made = []
    for model_id in models:
        with apart(served_model_id=str(model_id)), transaction(db) as session:
            made.append(plan_model(session, model_id, time_of(session)))
    return [job.id for job in made if job is not None]


def run_now(
    session: Session, served_model: str, principal: Principal, now: datetime, *, include_attention: bool = False
) -> Job:
    """Make a batch of what is pending, whatever the policy's window. `include_attention` queues again, with all its
    tries, what waits for a person's attention. Raises UnknownServedModel, JobAtWork, BreakerOpen, NothingPending,
    NoActiveAdapter and NoRetainData."""
    model = lock_model(session, known_model(session, served_model).id)
    assert model is not None  # noqa: S101 - served models are never deleted
    policy = Policy.model_validate(model.policy)
    if include_attention:
        _queue_again(session, model)
    pending = repository.pending(session, model.id, policy.max_requests_per_batch, lock=True)
    requests, _ = _chosen(_uncontested(session, pending), policy, now, closed_by=BatchReason.MANUAL)
    counts = repository.items_by_domain(session, _ids(requests))
    obstacle = _obstacle(session, model, policy, requests, counts, now)
    if obstacle is not None:
        raise obstacle
    record(session, "batch.ordered", subject_id=str(model.id), key_id=str(principal.key_id))
    return _make(session, model, policy, requests, counts, BatchReason.MANUAL)


def preview(
    session: Session, served_model: str, now: datetime, *, flop_per_second: float | None = None
) -> BatchPreview:
    """What `run_now` would do and cost. Takes no locks and writes nothing. Raises UnknownServedModel."""
    model = known_model(session, served_model)
    policy = Policy.model_validate(model.policy)
    pending = repository.pending(session, model.id, policy.max_requests_per_batch, lock=False)
    contested = reinstatements_contested(session, _reinstatements(pending))
    pending = [request for request in pending if request.id not in contested]
    requests, _ = _chosen(pending, policy, now, closed_by=BatchReason.MANUAL)
    _, due_to_close = _chosen(pending, policy, now, expected=repository.longest_of_late(session, model.id))
    counts = repository.items_by_domain(session, _ids(requests))
    obstacle = _obstacle(session, model, policy, requests, counts, now)
    load = _workload(session, model, policy, requests, counts)
    forget = sum(count.forget for count in counts.values())
    return BatchPreview(
        served_model=model.name,
        would_batch=_ids(requests),
        forget_items=forget,
        retain_items=load.items - forget,
        tokens=load.scored_tokens,
        estimate=_estimate(session, model, load, _config(policy, requests), flop_per_second),
        reason=BatchReason.MANUAL if requests else None,
        due_to_close=due_to_close,
        obstacle=f"{obstacle.detail}. {obstacle.how_to_mend}" if obstacle else _passed_over(policy, counts),
    )


def hold_job(session: Session, request_id: uuid.UUID) -> None:
    """Hold the job of a batched request, before the request itself is held."""
    repository.job_of_request(session, request_id)


def leave(session: Session, request_id: uuid.UUID, now: datetime) -> Remainder | None:
    """Let a batched request go whose job has not started: the job is cancelled, the other members are queued again.

    The caller holds the served model's row, and calls `batch_again` with what is returned once the request and its
    retain items are gone. None, and nothing done, when the job is at work: the request's own state then says so.
    """
    job = repository.job_of_request(session, request_id)
    if job is None or job.state is not JobState.QUEUED:
        return None
    batch = repository.batch(session, job.batch_id)
    members = repository.members(session, batch.id)
    job.state, job.finished_at = advance_job(job.state, JobEvent.CANCEL), now
    record(session, "job.cancelled", subject_id=str(job.id), state=str(job.state), request_id=str(request_id))
    others = [member for member in members if member.id != request_id]
    for member in others:
        _move(session, member, RequestEvent.RETRY)
    session.flush()
    return Remainder(batch.served_model_id, others, batch.reason)


def batch_again(session: Session, left: Remainder, now: datetime) -> None:
    """A batch of what is left of one, with retain data drawn anew, unless nothing is left or could be retained, or the
    model is to be left alone."""
    model = lock_model(session, left.served_model_id)
    if model is None:
        return
    policy = Policy.model_validate(model.policy)
    counts = repository.items_by_domain(session, _ids(left.requests))
    if _obstacle(session, model, policy, left.requests, counts, now) is None:
        _make(session, model, policy, left.requests, counts, left.reason)


def plan_model(session: Session, served_model_id: uuid.UUID, now: datetime) -> Job | None:
    """Acknowledge what was received; make a batch if one is due and can be made."""
    model = lock_model(session, served_model_id)
    if model is None:
        return None
    arrived = repository.queue_received(session, model.id, QUEUE_AT_ONCE)
    record_all(
        session, "request.queued", arrived, model.id, state=str(RequestState.QUEUED), served_model_id=str(model.id)
    )
    policy = Policy.model_validate(model.policy)
    expected = repository.longest_of_late(session, model.id)
    pending = _uncontested(session, repository.pending(session, model.id, policy.max_requests_per_batch, lock=True))
    while True:
        requests, reason = _chosen(pending, policy, now, expected=expected)
        if reason is None:
            return None
        counts = repository.items_by_domain(session, _ids(requests))
        obstacle = _obstacle(session, model, policy, requests, counts, now)
        if obstacle is None:
            return _make(session, model, policy, requests, counts, reason)
        if not isinstance(obstacle, NoRetainData):
            return None
        _wait_for_retain_data(session, model, requests, now, log_it=bool(arrived))
        waiting = set(_ids(requests))
        pending = [request for request in pending if request.id not in waiting]  # others need not wait with them


def _chosen(
    pending: Sequence[Request],
    policy: Policy,
    now: datetime,
    *,
    closed_by: BatchReason | None = None,
    expected: timedelta = IMMEDIATE,
) -> tuple[list[Request], BatchReason | None]:
    """The requests of the batch to make now, in its order, and what closes it; none and None where none closes."""
    made = group([_pending(request) for request in pending], policy, now, closed_by=closed_by, expected=expected)
    if made is None:
        return [], None
    rows = {request.id: request for request in pending}
    return [rows[request_id] for request_id in made.request_ids], made.reason


def _uncontested(session: Session, pending: Sequence[Request]) -> list[Request]:
    """`pending` without requests to reinstate what somebody else wants erased: erasure wins, and a person looks."""
    contested = reinstatements_contested(session, _reinstatements(pending))
    for request in pending:
        if request.id in contested:
            _give_up(session, request)
    return [request for request in pending if request.id not in contested]


def _reinstatements(requests: Sequence[Request]) -> list[uuid.UUID]:
    """Ids of those that ask to reinstate."""
    return [request.id for request in requests if request.kind is RequestKind.REINSTATE]


def _make(
    session: Session,
    model: ServedModel,
    policy: Policy,
    requests: Sequence[Request],
    counts: CountsByDomain,
    reason: BatchReason,
) -> Job:
    """Batch, members, drawn retain rows and queued job; the doorbell rings after the commit."""
    first = min(requests, key=lambda request: request.due_at)
    others = [request.traceparent for request in requests if request is not first]
    batch = Batch(id=new_id(), served_model_id=model.id, reason=reason)
    repository.add_batch(session, batch, _ids(requests))
    drawn = sum(
        repository.draw(session, batch.id, repository.standing_rows(model.id, domain, _ids(requests), amount))
        for domain, amount in _wanted(policy, requests, counts).items()
    )
    for domain in RequestDomain:
        earlier = repository.erased_rows(model.id, domain, _ids(requests), policy.earlier_items)
        drawn += repository.draw(session, batch.id, earlier)
    job = Job(
        id=new_id(),
        served_model_id=model.id,
        batch_id=batch.id,
        state=JobState.QUEUED,
        settings={"unlearn": _config(policy, requests).as_dict(), "tries": max(request.tries for request in requests)},
        gate=policy.gate.as_dict(),
        start_adapter_id=model.active_adapter_id,
        kind=JobKind.REINSTATE if _reinstatements(requests) else JobKind.UNLEARN,
        due_at=min(request.due_at for request in requests),
        needed_bytes=_needed_bytes(session, model, policy, requests, counts, batch.id),
    )
    with span("batch made", parent=first.traceparent, links=others, job_id=job.id, model=model.name):
        job.traceparent = traceparent()
    repository.add_job(session, job)
    record(
        session,
        "batch.made",
        subject_id=str(batch.id),
        job_id=str(job.id),
        served_model_id=str(model.id),
        reason=str(reason),
        requests=len(requests),
        drawn=drawn,
    )
    for request in requests:
        request.state = advance_request(request.state, RequestEvent.BATCH)
    record_all(
        session, "request.batched", _ids(requests), model.id, state=str(RequestState.BATCHED), batch_id=str(batch.id)
    )  # fmt: skip
    enqueue(session, RUN_JOB, job.id)
    return job


def _obstacle(
    session: Session,
    model: ServedModel,
    policy: Policy,
    requests: Sequence[Request],
    counts: CountsByDomain,
    now: datetime,
) -> ServiceError | None:
    """Why no batch can be made of these requests now, or None."""
    obstacle = _obstacle_of_model(session, model, now) or (None if requests else NothingPending(model.name))
    if obstacle is not None:
        return obstacle
    return None if _reinstatements(requests) else _lack_of_retain_data(session, model, policy, requests, counts)


def _lack_of_retain_data(
    session: Session, model: ServedModel, policy: Policy, requests: Sequence[Request], counts: CountsByDomain
) -> NoRetainData | None:
    """Unlearning without anything to retain wrecks the adapter; teaching brings what is to be retained itself."""
    general = _retains_general(policy)
    if not general and any(count.retain for count in counts.values()):
        return None
    domains = {ExampleDomain.GENERAL} if general else {ExampleDomain(request.domain) for request in requests}
    if repository.stands_any(session, model.id, domains):
        return None
    return NoRetainData(model.name, sorted(domains), policy.unlearn.method)


def _obstacle_of_model(session: Session, model: ServedModel, now: datetime) -> ServiceError | None:
    """Why no batch of this model can be made now, whatever is pending, or None."""
    job = repository.open_job(session, model.id)
    if job is not None:
        return JobAtWork(model.name, job.id, str(job.state))
    if breaker.blocks(model, now):
        return BreakerOpen(model.name, breaker.tries_again_at(model), model.breaker_error)
    return NoActiveAdapter(model.name) if model.active_adapter_id is None else None


def _passed_over(policy: Policy, counts: CountsByDomain) -> str | None:
    """What a job would fail with at once, where the strategy names no domain that something is to be forgotten in."""
    asked = [domain for domain, count in counts.items() if count.forget]
    try:
        if asked:
            policy.unlearn.legs(asked)
    except NothingNamed as error:
        return f"{error}. Name one in the policy's strategy, or set it to combined."
    return None


def _wait_for_retain_data(
    session: Session, model: ServedModel, requests: Sequence[Request], now: datetime, *, log_it: bool
) -> None:
    """Requests wait in `queued` for retain data to appear; those past their due date are shown to a person instead.
    Logged when something arrived to wait, not at each pass."""
    if log_it:
        log.warning("batch_waits_for_retain_data", served_model_id=str(model.id), requests=len(requests))
    for request in requests:
        if request.due_at <= now:
            _give_up(session, request)


def _give_up(session: Session, request: Request) -> None:
    """No batch can hold it: it is taken up and given up in one move, both of them legal."""
    request.state = advance_request(request.state, RequestEvent.BATCH)
    _move(session, request, RequestEvent.GIVE_UP)


def _queue_again(session: Session, model: ServedModel) -> None:
    """A person looked: what needed attention is queued with all its tries."""
    for request in repository.in_attention(session, model.id, QUEUE_AT_ONCE):
        request.tries = 0
        _move(session, request, RequestEvent.QUEUE)
    session.flush()


def _move(session: Session, request: Request, event: RequestEvent) -> None:
    """One legal move of a request, audited."""
    request.state = advance_request(request.state, event)
    record(session, f"request.{request.state}", subject_id=str(request.id), state=str(request.state))


def _retains_general(policy: Policy) -> bool:
    """Whether general data is retained in the place of what stands beside the requests."""
    return policy.unlearn.retain_source == GENERAL


def _wanted(policy: Policy, requests: Sequence[Request], counts: CountsByDomain) -> dict[ExampleDomain, int]:
    """Standing retain rows to draw per domain: what the requests' own retain items miss of `retain_per_forget` for each
    forget item, and at least one for a domain to which its requests bring none.

    Where general data is retained only that is drawn, `retain_per_forget` for each forget item: the requests' own
    retain items are scored, but not trained on. To reinstate, `retain_per_forget` rows are drawn for each item that is
    taught, as far as there are any, so that teaching one work loses no other.
    """
    if _reinstatements(requests):
        return {domain: math.ceil(policy.retain_per_forget * count.retain) for domain, count in counts.items()}
    if _retains_general(policy):
        forget = sum(count.forget for count in counts.values())
        return {ExampleDomain.GENERAL: max(math.ceil(policy.retain_per_forget * forget), 1)}
    return {
        domain: max(math.ceil(policy.retain_per_forget * count.forget) - count.retain, 0 if count.retain else 1)
        for domain, count in counts.items()
    }


def _config(policy: Policy, requests: Sequence[Request]) -> UnlearnConfig:
    """The policy's settings with what the members' earlier tries changed."""
    return UnlearnConfig(**merge_settings(policy.unlearn.as_dict(), [request.settings for request in requests]))


def _workload(
    session: Session, model: ServedModel, policy: Policy, requests: Sequence[Request], counts: CountsByDomain
) -> Workload:
    """Count the tokens of what a batch would hold, a few hundred rows in memory at a time."""
    tokeniser = load_tokeniser(model.base_model_path)
    ids = _ids(requests)
    wanted = _wanted(policy, requests, counts)
    drawn = [repository.standing_rows(model.id, domain, ids, amount) for domain, amount in wanted.items()]
    items = item_tokens = scored = scored_tokens = longest = 0
    for rows in repository.texts(session, ids, drawn):
        pairs = [(prompt, completion) for _, prompt, completion in rows]
        lengths = count_tokens(tokeniser, model.prompt_template, pairs)
        own = [length for length, (role, _, _) in zip(lengths, rows, strict=True) if role is Role.ITEM]
        items, item_tokens = items + len(own), item_tokens + sum(own)
        scored, scored_tokens = scored + len(rows), scored_tokens + sum(lengths)
        longest = max(longest, *lengths)
    forget = tuple(count.forget for count in counts.values())
    return Workload(items, item_tokens, scored, scored_tokens, longest, forget)


def _needed_bytes(
    session: Session,
    model: ServedModel,
    policy: Policy,
    requests: Sequence[Request],
    counts: CountsByDomain,
    batch_id: uuid.UUID,
) -> int | None:
    """Memory that a job of this batch takes at least, or None where it can not be told: decided by its longest text."""
    if model.active_adapter_id is None:
        return None
    rows = repository.longest_texts(session, _ids(requests), batch_id)
    try:
        lengths = count_tokens(load_tokeniser(model.base_model_path), model.prompt_template, rows)
    except TokeniserMissing:
        return None
    longest = max(lengths, default=1)
    items = sum(count.forget + count.retain for count in counts.values())
    forget = tuple(count.forget for count in counts.values())
    load = Workload(items, items * longest, items, items * longest, longest, forget)
    directory = repository.adapter(session, model.active_adapter_id).directory
    return least_bytes(model.base_model_path, directory, load, _config(policy, requests))


def _estimate(
    session: Session, model: ServedModel, load: Workload, config: UnlearnConfig, flop_per_second: float | None
) -> CostEstimate | None:
    """What the work would cost on the active version."""
    if model.active_adapter_id is None or not load.items:
        return None
    directory = repository.adapter(session, model.active_adapter_id).directory
    return cost(model.base_model_path, directory, load, config, flop_per_second)


def _pending(request: Request) -> PendingRequest:
    """What grouping needs of a row."""
    return PendingRequest(request.id, request.received_at, request.due_at, request.kind, request.group_id)


def _ids(requests: Sequence[Request]) -> list[uuid.UUID]:
    """Ids in the order of the rows."""
    return [request.id for request in requests]
