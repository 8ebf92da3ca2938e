"""Make, list, rotate and revoke API keys. Keys of one holder are several ways to the same owner."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import new_key
from app.errors import Conflict, NotFound
from app.keys import repository
from app.tables.key import Key, KeyRole


class KeyEnded(Conflict):
    """A key that can not be followed by another."""

    type = "key-ended"
    title = "The key is revoked or has expired"
    mend = "Make a new one with `grail keys create`; it owns nothing of what the old one owned."


def create_key(
    session: Session, name: str, role: KeyRole, *, expires_at: datetime | None = None
) -> tuple[Key, str]:
    """The row and the plaintext, which is nowhere else and is shown once."""
    row, plaintext = _add(session, name, role, expires_at)
    record(session, "key.created", subject_id=str(row.id), role=str(role))
    return row, plaintext


def rotate_key(
    session: Session, prefix: str, now: datetime, *, overlap: timedelta, expires_at: datetime | None = None
) -> tuple[Key, str]:
    """A key of the same holder, with the same role, that sees and owns what the old one does; the old one is valid for
    `overlap` still, so that callers change theirs without a pause. Raises NotFound, KeyEnded."""
    old = _named(session, prefix)
    if not old.opens(now):
        raise KeyEnded(f"the key {old.prefix} is no longer valid")
    row, plaintext = _add(session, old.name, old.role, expires_at)
    row.holder_id = old.owner_id
    old.expires_at = min(now + overlap, old.expires_at or now + overlap)
    session.flush()
    record(session, "key.rotated", subject_id=str(old.id), at=now, by=str(row.id), until=old.expires_at.isoformat())
    return row, plaintext


def revoke_key(session: Session, prefix: str, now: datetime | None = None) -> Key:
    """Revoke at once; the row stays, since requests refer to it. Its holder's other keys stay valid. Raises NotFound.
    """
    row = _named(session, prefix)
    if row.revoked_at is None:
        row.revoked_at = now or datetime.now(UTC)
        record(session, "key.revoked", subject_id=str(row.id))
    return row


def list_keys(session: Session) -> Sequence[Key]:
    """All keys, oldest first."""
    return repository.everything(session)


def _named(session: Session, prefix: str) -> Key:
    row = repository.by_prefix(session, prefix, lock=True)
    if row is None:
        raise NotFound("there is no key with this prefix", mend="`grail keys list` shows all prefixes.")
    return row


def _add(session: Session, name: str, role: KeyRole, expires_at: datetime | None) -> tuple[Key, str]:
    prefix, plaintext, hashed = new_key()
    row = Key(prefix=prefix, hash=hashed, name=name, role=role, expires_at=expires_at)
    session.add(row)
    session.flush()
    return row, plaintext
