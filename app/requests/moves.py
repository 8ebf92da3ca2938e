"""What all decisions about a request have in common. Locks are taken in the order served model, job, requests."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy.orm import Session

from app.audit.service import LeafValue, record
from app.auth import Principal
from app.batches import service as batches
from app.batches.service import Remainder
from app.envelope.columns import codec_of
from app.errors import NotFound
from app.lifecycle import IllegalMove, RequestEvent, RequestState, advance_request
from app.requests import clocks, repository
from app.requests.errors import WrongState
from app.tables import Request


def found(session: Session, request_id: uuid.UUID) -> Request:
    """A request, for roles that see all of them. Raises NotFound."""
    request = repository.find(session, request_id, owner=None)
    if request is None:
        raise NotFound("there is no request with this id that this key may see")
    return request


def take_back(session: Session, request: Request, now: datetime) -> Remainder | None:
    """Hold a request's row, taken out of its batch if its job has not started; what is left of the batch.

    The caller moves the request, then lets `batches.batch_again` batch what is left. A job at work is not held up: the
    request's own state then says that it can not be moved.
    """
    repository.lock_model(session, request.served_model_id)
    batched = repository.state_now(session, request.id) is RequestState.BATCHED
    left = batches.leave(session, request.id, now) if batched else None
    repository.locked(session, request.id)
    return left


def move(request: Request, event: RequestEvent) -> None:
    """A person's legal move. Raises WrongState."""
    try:
        request.state = advance_request(request.state, event)
    except IllegalMove:
        raise WrongState(request.state, event) from None


def end_hold(request: Request, now: datetime) -> None:
    """The clock of a request that leaves its hold runs on, later by the time that it stood; any other's as it does."""
    clock = clocks.resume(clocks.clock_of(request), now)
    request.due_at, request.first_due_at, request.held_since = clock.due_at, clock.first_due_at, clock.held_since
    request.hold_kind = request.hold_reason = request.held_from = None


def note(
    session: Session,
    deed: str,
    request: Request,
    who: Principal,
    now: datetime,
    *,
    reason: str | None = None,
    **fields: LeafValue,
) -> None:
    """One leaf about what somebody decided. A reason is a person's text, which the request keeps sealed: the trail has
    a commitment to it, that tells nothing once the request's key is gone. Raises what `Keyring.create` does."""
    if reason is not None:
        fields["reason_commitment"] = _committed(session, request, reason)
    record(
        session,
        f"request.{deed}",
        subject_id=str(request.id),
        at=now,
        state=str(request.state),
        key_id=str(who.key_id),
        **fields,
    )


def _committed(session: Session, request: Request, reason: str) -> str:
    session.flush()  # a request without a key gets one as the reason is sealed
    assert request.key_id is not None  # noqa: S101 - what holds a reason has a key
    key = codec_of(session).keyring.create([request.key_id])[request.key_id]
    return key.commitment(reason.encode()).hex()
