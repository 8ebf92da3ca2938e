"""Sealing one value: AES-256-GCM (NIST SP 800-38D), bound to its place. Pure: bytes in, bytes or an error out.

    1 byte     the form, 1
    12 bytes   a random nonce
    n bytes    ciphertext, as long as what was sealed
    16 bytes   the tag

Table, row, field and key id are authenticated with it and not stored: whoever opens it has to know them, so a value
that was moved to another row or field does not open, nor does one whose row was given to another request.

Two equal nonces under one key would break it. They are random, so of n values under one key two collide with a chance
below n^2 / 2^97; NIST's bound is n <= 2^32. A request has one key and at most 500 items of 21 texts with 4 fields each
under the service's own bounds: 42,000 values, a chance below 2^-66.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import uuid
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.envelope.errors import Malformed, WrongKeyOrPlace

FORM = b"\x01"
NONCE_BYTES, TAG_BYTES, SECRET_BYTES = 12, 16, 32
OVERHEAD_BYTES = len(FORM) + NONCE_BYTES + TAG_BYTES
MAX_CONTENT_BYTES = 8 * 1024 * 1024
MAX_VALUES_PER_KEY = 2**32


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: what is authenticated beside the value itself."""

    table: str
    row: uuid.UUID
    field: str


@dataclass(frozen=True, slots=True)
class DataKey:
    """The two keys that come of a request's secret: one seals, the other is the salt of commitments. They are derived
    (HKDF-Expand, RFC 5869, one block), so that both are gone when the one secret is."""

    id: uuid.UUID
    cipher: AESGCM = field(repr=False)
    salt: bytes = field(repr=False)

    @classmethod
    def of(cls, key_id: uuid.UUID, secret: bytes) -> DataKey:
        """The keys of a secret of 32 bytes. Raises ValueError for another length."""
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes")
        return cls(key_id, AESGCM(_expand(secret, b"seal")), _expand(secret, b"commitment"))

    def commitment(self, value: bytes) -> bytes:
        """HMAC-SHA256 of `value` under the salt: 32 bytes that tell nothing of it once the salt is gone."""
        return hmac.digest(self.salt, value, hashlib.sha256)


def nonces(count: int) -> list[bytes]:
    """So many random nonces; the system is asked once."""
    drawn = os.urandom(NONCE_BYTES * count)
    return [drawn[at : at + NONCE_BYTES] for at in range(0, len(drawn), NONCE_BYTES)]


def seal(key: DataKey, place: Place, content: bytes, nonce: bytes | None = None) -> bytes:
    """`content` sealed for `place`, under a nonce of `nonces` that nothing else was sealed under. Raises ValueError for
    more than MAX_CONTENT_BYTES."""
    if len(content) > MAX_CONTENT_BYTES:
        raise ValueError(f"more than {MAX_CONTENT_BYTES} bytes can not be sealed at once")
    nonce = nonce or os.urandom(NONCE_BYTES)
    return FORM + nonce + key.cipher.encrypt(nonce, content, _associated(key.id, place))


def open_sealed(key: DataKey, place: Place, sealed: bytes) -> bytes:
    """What was sealed for `place` under `key`. Raises Malformed, WrongKeyOrPlace."""
    check_form(sealed)
    nonce = sealed[1 : 1 + NONCE_BYTES]
    try:
        return key.cipher.decrypt(nonce, sealed[1 + NONCE_BYTES :], _associated(key.id, place))
    except InvalidTag:
        raise WrongKeyOrPlace(f"the field {place.field} of a row of {place.table} does not open") from None


def check_form(sealed: bytes) -> None:
    """Raises Malformed for what can not be sealed content, so that nothing else is ever stored in its place."""
    if len(sealed) < OVERHEAD_BYTES:
        raise Malformed("too short for sealed content")
    if len(sealed) > OVERHEAD_BYTES + MAX_CONTENT_BYTES:
        raise Malformed("too long for sealed content")
    if sealed[:1] != FORM:
        raise Malformed("not in a form of sealed content that this version knows")


def _associated(key_id: uuid.UUID, place: Place) -> bytes:
    """Each name with its length in front, and ids of one length: no two places run together."""
    return b"".join((_named(place.table, place.field), key_id.bytes, place.row.bytes))


@lru_cache(maxsize=256)
def _named(table: str, field: str) -> bytes:
    parts = (b"grail sealed", FORM, table.encode(), field.encode())
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _expand(secret: bytes, purpose: bytes) -> bytes:
    return hmac.digest(secret, b"grail " + purpose + b"\x01", hashlib.sha256)
