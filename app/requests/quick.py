"""The usual request, received in one round trip: it only forgets, nobody asked for the same, nothing of it stands, and
the served model is as it was when it was last looked at. All of that the database says itself while it stores
(`receive_request_1`); whatever is otherwise is left to `app.requests.intake`, which does the same in more statements.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.auth import Principal
from app.db import Database, at_once, reading
from app.errors import ServiceError
from app.requests import intake
from app.requests import intake_repository as repository
from app.requests.intake_repository import Target
from app.requests.schemas import RequestCreate, RequestView
from app.requests.views import view_of_new
from app.served_models.schemas import Policy
from app.telemetry.context import note

KNOWN_MOST = 1000


@dataclass(frozen=True, slots=True)
class Known:
    """A served model with its policy; `terms` is a digest of all of it, which the database compares."""

    target: Target
    policy: Policy
    terms: str


class KnownModels:
    """Served models of a process by name, as they were when they were last looked at. Bounded."""

    def __init__(self) -> None:
        self._found: dict[str, Known] = {}

    def get(self, db: Database, name: str) -> Known | None:
        """The model of that name; None where there is none. Raises Unavailable."""
        known = self._found.get(name)
        if known is None:
            with reading(db) as connection:
                found = repository.target_and_terms(connection, name)
            if found is None:
                return None
            known = Known(found[0], Policy.model_validate(found[0].policy), found[1])
            if len(self._found) >= KNOWN_MOST:
                self._found.clear()
            self._found[name] = known
        return known

    def drop(self, name: str) -> None:
        """It may have changed: look anew."""
        self._found.pop(name, None)


def submit(
    db: Database, models: KnownModels, payload: RequestCreate, who: Principal, now: datetime, *, due_days: int
) -> RequestView | None:
    """Store a request; None, with nothing stored, where more has to be decided, or where it is to be refused: in which
    order and words is for `intake.submit` to say. Raises Unavailable."""
    if payload.retain or not payload.forget:
        return None
    known = models.get(db, payload.served_model)
    if known is None:
        return None
    try:
        asked = intake.prepare(
            payload, known.target, who, now, db.codec(), due_days=due_days, policy=known.policy
        )
    except ServiceError:
        return None
    assert asked.held and asked.request.fingerprint  # noqa: S101 - something is to be forgotten
    note(request_id=asked.request.id, model=payload.served_model)
    with at_once(db, changes=True) as connection:
        revision = repository.receive(
            connection, who.shown, known.target.id, known.terms, asked.held, asked.request.fingerprint,
            intake.forgotten(asked.entries), intake.as_json(intake.rows_of(asked, {}, now, db.codec())),
        )  # fmt: skip
    if revision is None:
        models.drop(payload.served_model)
        return None
    asked.request.xmin = revision
    return view_of_new(asked.request, payload.served_model, intake.counts(asked.entries), now)
