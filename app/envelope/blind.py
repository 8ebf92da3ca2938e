"""Blind indexes: what a column is compared by once its text is sealed.

HMAC-SHA256 under a key of its own for each scope (a served model), which lies in the key store beside the others and
never in Postgres. Equal texts have equal indexes within a scope, so duplicates and contradictions are still found by
the database; whoever has the database alone can not test a guess, and can not compare scopes. Whoever has the key can:
it proves equality, so it is kept for as long as erasures have to win, longer than any text.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Iterable
from functools import lru_cache

from app.envelope.keyring import Keyring

NAMESPACE = uuid.UUID("5c1f5f0e-4f0a-5c7e-9d51-2f1b8f6c7a10")


@lru_cache(maxsize=1024)
def key_id_of(scope: uuid.UUID) -> uuid.UUID:
    """The id under which the key store has the key of a scope's blind indexes."""
    return uuid.uuid5(NAMESPACE, scope.hex)


def blind(keyring: Keyring, scope: uuid.UUID, field: str, values: Iterable[str]) -> list[str]:
    """The index of each value, 64 hex digits as a SHA-256 has: of `field`, so that columns can not be compared with
    each other. Normalise before. Raises what `Keyring.create` does."""
    key_id = key_id_of(scope)
    salt, name = keyring.create([key_id])[key_id].salt, field.encode() + b"\0"
    return [hmac.digest(salt, name + value.encode(), hashlib.sha256).hex() for value in values]
