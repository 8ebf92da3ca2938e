"""Make, list and revoke API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import new_key
from app.errors import NotFound
from app.keys import repository
from app.tables.key import Key, KeyRole


def create_key(session: Session, name: str, role: KeyRole, expires_at: datetime | None = None) -> tuple[Key, str]:
    """The row and the plaintext, which is nowhere else and is shown once. Without a date it opens until revoked."""
    prefix, plaintext, hashed = new_key()
    row = Key(prefix=prefix, hash=hashed, name=name, role=role, expires_at=expires_at)
    session.add(row)
    session.flush()
    record(session, "key.created", subject_id=str(row.id), role=str(role))
    return row, plaintext


def revoke_key(session: Session, prefix: str, now: datetime | None = None) -> Key:
    """Revoke at once; the row stays, since requests refer to it. Raises NotFound."""
    row = repository.by_prefix(session, prefix)
    if row is None:
        raise NotFound("there is no key with this prefix", mend="`grail keys list` shows all prefixes.")
    if row.revoked_at is None:
        row.revoked_at = now or datetime.now(UTC)
        record(session, "key.revoked", subject_id=str(row.id))
    return row


def list_keys(session: Session) -> Sequence[Key]:
    """All keys, oldest first."""
    return repository.everything(session)
