"""Signed checkpoints: issued on a schedule, and whenever somebody needs one (reports).

Nothing is signed that does not continue what was signed before: the database's own nodes have to prove it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from app.audit_log import keys, repository
from app.audit_log.errors import LogForked, NoCheckpointYet, NoSigningKey, OtherOrigin
from app.audit_log.nodes import Nodes
from app.audit_log.repository import Reading
from app.audit_log.sequencing import number_all
from app.audit_log.signing import load_signers
from app.config import Settings
from app.db import Database, clock, transaction
from app.trust.checkpoint import sign_checkpoint, sign_next
from app.trust.keys import Signer
from app.trust.merkle import consistency_proof, root
from app.trust.verify import UNSAFE, Head, Rejected, parse_head, parse_note

log = structlog.get_logger(__name__)

SIGNED_ANEW_AFTER = timedelta(days=1)
"""A log that does not grow is signed again, so that its last checkpoint says that it is watched."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A checkpoint: a C2SP signed note about the first `size` leaves. `fresh` when it was signed by this very call."""

    size: int
    root: bytes
    note: bytes
    created_at: datetime
    fresh: bool = False


def last(reading: Reading) -> Issued:
    """The newest checkpoint. Raises NoCheckpointYet."""
    found = repository.last_checkpoint(reading)
    if found is None:
        raise NoCheckpointYet
    return Issued(found.size, found.root, found.note, found.created_at)


def issue_checkpoint(session: Session, signers: Sequence[Signer], now: datetime) -> Issued:
    """A checkpoint over every leaf that has a number: the last one if it still says so, is younger than a day and of
    these very keys, else a new one.

    Commit before you hand it on. Raises NoSigningKey, OtherOrigin, LogForked, NoCheckpointYet (an empty log), and
    whatever a service of keys raises.
    """
    repository.wait_for_signer_lock(session)
    signers = keys.that_count(session, signers, now)
    size, before = repository.size(session), repository.last_checkpoint(session)
    if size == 0:
        raise NoCheckpointYet("the log is empty")
    if before is not None and before.size == size and not _stale(before.note, before.created_at, signers, now):
        return Issued(before.size, before.root, before.note, before.created_at)
    nodes = Nodes(session)
    head = Head(signers[0].name, size, root(nodes, size))
    note = sign_checkpoint(head, signers) if before is None else _continue(head, _head_of(before.note), nodes, signers)
    repository.add_checkpoint(session, size, head.root, note, now)
    return Issued(size, head.root, note, now, fresh=True)


def seal(db: Database, settings: Settings) -> Issued:
    """Number what is committed, then issue a checkpoint over it, each in transactions of its own. See
    `issue_checkpoint`; raises Unavailable, too."""
    number_all(db)
    return issue(db, settings)


def issue(db: Database, settings: Settings) -> Issued:
    """Issue a checkpoint with the keys of the settings. See `issue_checkpoint`."""
    signers = load_signers(settings)
    with transaction(db) as session:
        return issue_checkpoint(session, signers, clock(session))


def issue_when_due(db: Database, settings: Settings) -> Issued | None:
    """The same on a schedule: None while the log is empty. Where nothing can be signed a line of the log says so, as do
    `grail doctor` and /readyz; leaves get their numbers and wait. Raises Unavailable."""
    try:
        return issue(db, settings)
    except NoCheckpointYet:
        return None
    except (NoSigningKey, OtherOrigin, LogForked) as error:
        log.error("log_not_signed", kind=error.type, detail=error.detail, mend=error.how_to_mend)
        return None


def _stale(note: bytes, created_at: datetime, signers: Sequence[Signer], now: datetime) -> bool:
    """Whether a checkpoint is to be signed anew although the log did not grow."""
    who = {name for name, _ in parse_note(note)[1]}
    return who != {f"{signer.name}+{signer.key_id}" for signer in signers} or now - created_at >= SIGNED_ANEW_AFTER


def _head_of(note: bytes) -> Head:
    return parse_head(parse_note(note)[0])


def _continue(head: Head, before: Head, nodes: Nodes, signers: Sequence[Signer]) -> bytes:
    if before.origin != head.origin:
        if not before.origin.startswith(UNSAFE):
            raise OtherOrigin(f"the last checkpoint is of {before.origin}")
        before = before._replace(origin=head.origin)  # what development signed goes on under a name that counts
    if head.size < before.size:
        raise LogForked(f"the log has {head.size} leaves, and {before.size} were signed")
    try:
        return sign_next(head, before, consistency_proof(nodes, before.size, head.size), signers)
    except Rejected as error:
        raise LogForked(str(error)) from None
