"""The usual request: it only forgets, nobody asked for the same, nothing of it stands, and the served model is as it
was when it was last looked at. All of that the database says itself while it stores (`receive_requests_1`), for all
that came while others were being stored (`together`); whatever is otherwise is left to `app.requests.intake`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fastapi.concurrency import run_in_threadpool
from tokenizers import Tokenizer

from app.auth import Principal
from app.db import Database, reading
from app.envelope.codec import Codec
from app.envelope.errors import NotAtHand
from app.errors import ServiceError
from app.requests import intake
from app.requests import intake_repository as repository
from app.requests.checks import check_lengths
from app.requests.entries import Entry
from app.requests.intake_repository import Asker, Target
from app.requests.schemas import RequestCreate, RequestView
from app.requests.together import Line, Prepared, Together
from app.requests.views import view_of_new
from app.served_models.schemas import Policy
from app.tables import ServedModel
from app.telemetry.context import note
from app.tokens import load_tokeniser, surely_fit

KNOWN_MOST = 1000
FEW_TEXTS = 8
"""A request of so many takes a millisecond to check and seal, which costs less than a thread."""


@dataclass(frozen=True, slots=True)
class Known:
    """A served model with its policy and tokenizer; `terms` is a digest of all that requests are checked against, which
    the database compares."""

    target: Target
    policy: Policy
    terms: str
    tokeniser: Tokenizer

    @property
    def line(self) -> Line:
        """Whom requests for it are stored together with."""
        return self.target.id, self.terms

    def check_surely(self, found: Sequence[Entry], model: ServedModel | Target) -> None:
        """Texts fit, without counting or reading a file. Raises NotAtHand where that has to be looked at."""
        pairs = [(entry.prompt, entry.completion) for entry in found]
        if not surely_fit(self.tokeniser, model.prompt_template, pairs, model.context_tokens):
            raise NotAtHand


class KnownModels:
    """Served models of a process by name, as they were when they were last looked at. Bounded."""

    def __init__(self) -> None:
        self._found: dict[str, Known] = {}

    def at_hand(self, name: str) -> Known:
        """The model of that name. Raises NotAtHand where the database has to be asked."""
        known = self._found.get(name)
        if known is None:
            raise NotAtHand
        return known

    def get(self, db: Database, name: str) -> Known | None:
        """The model of that name; None where there is none. Raises Unavailable, TokeniserMissing."""
        known = self._found.get(name)
        if known is None:
            with reading(db) as connection:
                found = repository.target_and_terms(connection, name)
            if found is None:
                return None
            target, terms = found
            known = Known(target, Policy.model_validate(target.policy), terms, load_tokeniser(target.base_model_path))
            if len(self._found) >= KNOWN_MOST:
                self._found.clear()
            self._found[name] = known
        return known

    def drop(self, name: str) -> None:
        """It may have changed: look anew."""
        self._found.pop(name, None)


async def submit(
    together: Together, models: KnownModels, payload: RequestCreate, who: Principal, now: datetime, *, due_days: int
) -> RequestView | None:
    """Store a request; None, with nothing stored, where more has to be decided, or where it is to be refused: in which
    order and words is for `intake.submit` to say. Raises Unavailable."""
    if payload.retain or not payload.forget:
        return None
    try:
        found = _at_hand(together.db, models, payload, who, now, due_days)
    except NotAtHand:
        found = await run_in_threadpool(prepare, together.db, models, payload, who, now, due_days)
    if found is None:
        return None
    known, prepared = found
    request = prepared.asked.request
    note(request_id=request.id, model=payload.served_model)
    revision = await together.store(known.line, prepared)
    if revision is None:
        models.drop(payload.served_model)
        return None
    request.xmin = revision
    return view_of_new(request, payload.served_model, intake.counts(prepared.asked.entries), now)


Found = tuple[Known, Prepared] | None


def _at_hand(
    db: Database, models: KnownModels, payload: RequestCreate, who: Principal, now: datetime, due_days: int
) -> Found:
    """What is needed is in memory, and it is little. Raises NotAtHand."""
    if len(payload.forget) + sum(len(item.probes) for item in payload.forget) > FEW_TEXTS:
        raise NotAtHand
    known = models.at_hand(payload.served_model)
    return _prepared(known, db.codec_at_hand(), payload, who, now, due_days, known.check_surely)


def prepare(
    db: Database, models: KnownModels, payload: RequestCreate, who: Principal, now: datetime, due_days: int
) -> Found:
    """A request that is checked and sealed, with whatever has to be asked for; None where more has to be decided, or
    where it is to be refused. Raises Unavailable."""
    known = models.get(db, payload.served_model)
    return None if known is None else _prepared(known, db.codec(), payload, who, now, due_days, check_lengths)


def _prepared(
    known: Known, codec: Codec, payload: RequestCreate, who: Principal, now: datetime, due_days: int,
    lengths: intake.Lengths,
) -> Found:  # fmt: skip
    """Checked and sealed; None where it is to be refused. Raises KeyStoreAway, NoKeyEncryptionKey."""
    try:
        asked = intake.prepare(
            payload, known.target, who, now, codec, due_days=due_days, policy=known.policy, lengths=lengths
        )
    except ServiceError:
        return None
    assert asked.held and asked.request.fingerprint  # noqa: S101 - something is to be forgotten
    gone = intake.forgotten(asked.entries)
    asker = Asker(asked.request.id, who.shown, asked.held, asked.request.fingerprint, gone)
    return known, Prepared(asked, asker, intake.rows_of(asked, {}, now, codec))
