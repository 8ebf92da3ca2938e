"""The ring of verifier keys: every key that ever signed the log, with what became of it.

A retired key counts for what it signed until then; a revoked one for nothing that it ever signed, and what it had
signed is signed anew by the keys that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from app.audit.service import record
from app.audit_log import keys_repository
from app.audit_log.errors import NoSigningKey
from app.audit_log.repository import Reading
from app.errors import NotFound
from app.tables import LogKey
from app.trust.keys import Key, Ring, Signer


class NoSuchLogKey(NotFound):
    """No key of the log has that id."""

    type, title = "no-such-log-key", "The audit log has no key of that id"
    mend = "`grail log key list` shows the ids: eight hex digits, the middle part of name+id+key."


def ring(reading: Reading) -> Ring:
    """All verifier keys, oldest first."""
    return Ring(tuple(_key(row) for row in keys_repository.listed(reading)))


def register(session: Session, name: str, public: bytes, key_id: str, now: datetime) -> bool:
    """Put a key into the ring, with a leaf that says so; False when it is there already."""
    added = keys_repository.add(session, name, key_id, public, now)
    if added:
        record(session, "log_key.added", subject_id=key_id, at=now, public=public.hex())
    return added


def end(session: Session, key_id: str, now: datetime, *, revoked: bool) -> LogKey:
    """Retire or revoke a key, with a leaf that says so. Raises NoSuchLogKey."""
    row = keys_repository.end(session, key_id, now, revoked=revoked)
    if row is None:
        raise NoSuchLogKey
    record(session, f"log_key.{'revoked' if revoked else 'retired'}", subject_id=key_id, at=now)
    return row


def that_count(session: Session, signers: Sequence[Signer], now: datetime) -> list[Signer]:
    """Those of the signers that are neither retired nor revoked; new ones are put into the ring. Raises NoSigningKey
    when none is left."""
    for signer in signers:
        register(session, signer.name, signer.public, signer.key_id, now)
    valid = {(key.name, key.id) for key in ring(session).keys if key.counts(None) and "not-after" not in key.times}
    left = [signer for signer in signers if (signer.name, signer.key_id) in valid]
    if not left:
        raise NoSigningKey(
            "every signing key that is set was retired or revoked",
            mend="`grail log key new FILE` makes another; set GRAIL_SIGNING_KEY_FILE to it and restart the worker.",
        )
    return left


def _key(row: LogKey) -> Key:
    times = {"not-after": row.retired_at, "revoked": row.revoked_at}
    return Key(row.name, row.key_id, row.public, {word: at for word, at in times.items() if at is not None})
