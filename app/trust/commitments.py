"""Salted commitments: a leaf can hold one for a person or a work, and nobody can tell of whom without the salt.

HMAC-SHA256 under a salt of its own for each subject. Who holds salt and value can show what the leaf was about; once
the
salt is destroyed, not even trying all names in the world links the leaf to one of them, nor two leaves to each other.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

SALT_BYTES = 32
DOMAIN = b"grail.commitment/1"


def new_salt() -> bytes:
    """32 random bytes, for one subject alone."""
    return secrets.token_bytes(SALT_BYTES)


def commit(salt: bytes, kind: str, value: str) -> str:
    """The commitment to `value` as a `kind` (subject, content, ...), in hex. Raises ValueError for a salt of another
    size.

    Each part has its length in front, so that no two (kind, value) give the same bytes.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    mac = hmac.new(salt, digestmod=hashlib.sha256)
    for part in (DOMAIN, kind.encode(), value.encode()):
        mac.update(len(part).to_bytes(8, "big") + part)
    return mac.hexdigest()


def opens(commitment: str, salt: bytes, kind: str, value: str) -> bool:
    """Whether salt and value are what was committed to; compared in constant time."""
    return hmac.compare_digest(commit(salt, kind, value).encode(), commitment.encode())


def blinded(salt: bytes, kind: str, value: str) -> str:
    """A short id (16 hex digits) that is the same wherever salt, kind and value are: for scores in a bundle."""
    return commit(salt, kind, value)[:16]
