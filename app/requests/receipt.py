"""How a request begins: what sets its clock, since when it runs, and in which state it starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime

from app.errors import Unprocessable
from app.lifecycle import RequestEvent, RequestState, advance_request
from app.requests import clocks
from app.requests.clocks import Clock, Terms
from app.requests.schemas import RequestCreate
from app.served_models.schemas import Policy
from app.tables import Regulation, RequestDomain

FUTURE = "lies in the future: leave it away for a request that is received now"
TOO_OLD = "lies more than ten years back: check the year"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The first state of a request, and its clock."""

    state: RequestState
    regulation: Regulation
    clock: Clock


def receive(payload: RequestCreate, policy: Policy, now: datetime, due_days: int) -> Receipt:
    """How a request taken now begins. Raises Unprocessable for a receipt in the future, or too long ago.

    One without forget items protects from now on: nothing is left to compute, and its clock stops as it starts. A
    copyright request starts as a notice where the policy wants notices validated.
    """
    regulation = payload.regulation or clocks.default_regulation(payload.domain)
    terms = Terms(copyright_due_days=policy.copyright_due_days, due_days=due_days)
    clock = clocks.started(regulation, received_at(payload.received_at, now), terms)
    if not payload.forget:
        state = advance_request(RequestState.RECEIVED, RequestEvent.STAND)
        return Receipt(state, regulation, dataclasses.replace(clock, completed_at=now))
    if payload.domain is RequestDomain.COPYRIGHT and policy.validate_notices:
        return Receipt(advance_request(RequestState.RECEIVED, RequestEvent.NOTIFY), regulation, clock)
    return Receipt(RequestState.RECEIVED, regulation, clock)


def received_at(given: datetime | None, now: datetime) -> datetime:
    """When a request was received: as the caller says, else now. Raises Unprocessable."""
    if given is None:
        return now
    problem = FUTURE if given > now else TOO_OLD if given < now - clocks.OLDEST_RECEIPT else None
    if problem is not None:
        raise Unprocessable(f"received_at: {problem}", errors=[{"field": "received_at", "problem": problem}])
    return given
