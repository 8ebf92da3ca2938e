"""Erasure wins: what an active request forgets does not stand in the retain set of its served model.

Contents are compared by digest after normalisation. Everything here holds the served model first, so that a
forget item and the retain item that it contradicts can not slip past each other in two transactions. Who asked for
what stays between each requester and the service: the audit names rows and requests by id, answers name neither.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from app.audit.service import Entry, entry, record
from app.requests import duplicates_repository, repository
from app.requests.draft import Draft
from app.tables import Request
from app.texts import normalise


def content_digest(prompt: str, completion: str) -> str:
    """SHA-256 of the normalised prompt and completion; the prompt's length in front keeps the two apart."""
    first, second = normalise(prompt), normalise(completion)
    return hashlib.sha256(f"{len(first)}\n{first}{second}".encode()).hexdigest()


def being_forgotten(session: Session, served_model_id: uuid.UUID, digests: Iterable[str]) -> dict[str, uuid.UUID]:
    """Those of `digests` that an active request (not withdrawn, refused, failed or reinstated) forgets, with that
    request's id."""
    repository.lock_model(session, served_model_id)
    return repository.forgotten_digests(session, served_model_id, digests)


def standing_allowed(session: Session, served_model_id: uuid.UUID, content_digests: Iterable[str]) -> set[str]:
    """Those of `content_digests` that are being forgotten: rows of these contents are stored, but must NOT stand.

    Give such a row `standing` false, `removed_at` and `erased_by_request_id` (see `being_forgotten`): it then comes to
    stand by itself when that request is withdrawn.
    """
    return set(being_forgotten(session, served_model_id, content_digests))


def erase_from_standing(session: Session, request: Draft, digests: Sequence[str], now: datetime) -> None:
    """Take what `request` forgets out of the standing retain set, each row audited. The caller holds the served model,
    alone or together with others that only forget: nothing comes to stand meanwhile."""
    for example_id in repository.take_out(session, request.served_model_id, digests, by=request.id, now=now):
        _audit(session, "retain.erased", example_id, request.id)


def erased_entry(example_id: uuid.UUID, request_id: uuid.UUID, now: datetime) -> Entry:
    """One leaf about a row that a request took out of the standing set, not stored yet."""
    return entry("retain.erased", str(example_id), now, request_id=str(request_id))


def let_stand(session: Session, request: Request, now: datetime) -> None:
    """The retain items of a request that rested come to stand, but for those that an active request forgets."""
    repository.lock_model(session, request.served_model_id)
    rows = duplicates_repository.resting_items(session, request.id)
    blocked = repository.forgotten_digests(session, request.served_model_id, rows)
    repository.put_back(session, [row_id for digest, row_id in rows.items() if digest not in blocked])
    for digest, eraser in sorted(blocked.items()):
        duplicates_repository.keep_out(session, [rows[digest]], by=eraser, now=now)
        _audit(session, "retain.erased", rows[digest], eraser)


def release(session: Session, request: Request, now: datetime) -> None:
    """Undo what a request meant for the standing set: for one that is withdrawn, refused or has failed, after its state
    moved.

    Rows that it kept out stand again unless another active request forgets the same; its own retain items leave.
    """
    repository.lock_model(session, request.served_model_id)
    session.flush()
    for example_id in repository.retire_retain_items(session, request.id, now):
        _audit(session, "retain.removed", example_id, request.id)
    give_back(session, request)


def give_back(session: Session, request: Request) -> None:
    """Rows that a request kept out of the standing set stand again unless another active request forgets the same."""
    repository.lock_model(session, request.served_model_id)
    session.flush()
    rows = repository.taken_out_by(session, request.served_model_id, request.id)
    others = repository.forgotten_digests(session, request.served_model_id, {row.content_digest for row in rows})
    repository.put_back(session, [row.id for row in rows if row.content_digest not in others])
    for row in rows:
        other = others.get(row.content_digest)
        if other is None:
            _audit(session, "retain.restored", row.id, request.id)
        else:
            repository.hand_over(session, [row.id], to=other)
            _audit(session, "retain.erased", row.id, other)


def _audit(session: Session, event: str, example_id: uuid.UUID, request_id: uuid.UUID) -> None:
    """One leaf about one row of the standing set."""
    record(session, event, subject_id=str(example_id), request_id=str(request_id))
