"""Signing keys, and the ring of verifier keys that auditors hold.

A `Signer` is whatever signs bytes under a name: a key from a file or the environment here, a key service elsewhere. A
`Ring` keeps old keys, so that what they signed stays verifiable; a revoked key verifies nothing any more. Its text is
what
`grail verify --key` reads: a line `name+hash+base64` (C2SP) a key, then perhaps `not-before=`, `not-after=`,
`revoked=`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from app.trust.verify import UNSAFE, Key, Rejected, base64_of, key_id, parse_key, parse_keys

__all__ = ["Ed25519Signer", "Key", "KeyUnusable", "Ring", "Signer", "UnsafeDevelopmentSigner", "UnsafeKey", "parse_key"]

MAX_KEY_BYTES = 65_536


class Signer(Protocol):
    """Signs bytes with Ed25519 under a C2SP key name. A key service implements these three and keeps the key."""

    @property
    def name(self) -> str:
        """Key name: the log's origin."""
        ...

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        ...

    @property
    def key_id(self) -> str:
        """Eight hex digits, from `verify.key_id`."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        ...


class KeyUnusable(ValueError):
    """A private key that can not be read, or not be signed with. The message never holds a part of it."""


class UnsafeKey(UserWarning):
    """Something is signed with a key that everybody has."""


def vkey(name: str, public: bytes) -> str:
    """The verifier key as text: `name+hash+base64`."""
    return f"{name}+{key_id(name, public)}+{base64_of(bytes([1]) + public)}"


class Ed25519Signer:
    """A key in this process's memory. Raises KeyUnusable for a name that C2SP does not allow."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key, self.name, self.public = key, name, key.public_key().public_bytes_raw()
        self.key_id = key_id(name, self.public)
        try:
            parse_key(self.vkey)
        except Rejected:
            raise KeyUnusable("a key's name has no space and no plus, and at most 200 characters") from None

    @property
    def vkey(self) -> str:
        """What auditors are given."""
        return vkey(self.name, self.public)

    def sign(self, message: bytes) -> bytes:
        """RFC 8032; deterministic."""
        return self._key.sign(message)

    def pem(self) -> bytes:
        """The private key, PKCS #8, not encrypted: for a file that its user alone may read."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @classmethod
    def new(cls, name: str) -> Ed25519Signer:
        """A new key."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, name: str, pem: bytes, password: bytes | None = None) -> Ed25519Signer:
        """PKCS #8, perhaps encrypted. Raises KeyUnusable."""
        try:
            key = load_pem_private_key(pem, password)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise KeyUnusable("not a private key in PEM, or the password is wrong or missing") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable("the private key is not of Ed25519: openssl genpkey -algorithm ed25519 makes one")
        return cls(name, key)

    @classmethod
    def from_file(cls, name: str, path: Path, password: bytes | None = None) -> Ed25519Signer:
        """A PEM file that nobody but its user may read or write. Raises KeyUnusable, OSError."""
        with path.open("rb") as file:
            if path.stat().st_mode & 0o077:
                raise KeyUnusable(f"others may read or write {path.name}: chmod 600")
            return cls.from_pem(name, file.read(MAX_KEY_BYTES), password)

    @classmethod
    def from_environment(cls, name: str, environment: Mapping[str, str], variable: str) -> Ed25519Signer:
        """A PEM in a variable, its newlines perhaps written as \\n. Raises KeyUnusable."""
        if not environment.get(variable):
            raise KeyUnusable(f"{variable} is not set")
        return cls.from_pem(name, environment[variable].replace("\\n", "\n").encode())


class UnsafeDevelopmentSigner(Ed25519Signer):
    """For development: the key follows from its name, so anybody can sign with it. Warns; verification refuses it
    unless it
    is told not to."""

    def __init__(self, name: str) -> None:
        warnings.warn(f"{UNSAFE}{name} is a development key: anybody can sign with it", UnsafeKey, stacklevel=2)
        seed = hashlib.sha256(b"grail development key, not a secret: " + name.encode()).digest()
        super().__init__(UNSAFE + name, Ed25519PrivateKey.from_private_bytes(seed))


@dataclass(frozen=True, slots=True)
class Ring:
    """Verifier keys, old ones included. Changes give a new ring; nothing is ever taken out."""

    keys: tuple[Key, ...] = ()

    @classmethod
    def parse(cls, text: str, *, unsafe: bool = False) -> Ring:
        """Raises Rejected: key-malformed, unsafe-key."""
        return cls(parse_keys(text, unsafe=unsafe))

    def text(self) -> str:
        """What `parse` reads, and what auditors are given."""
        return "".join(f"{_line(key)}\n" for key in self.keys)

    def add(self, text: str, *, not_before: datetime | None = None) -> Ring:
        """With another key (a vkey), whose signatures count from `not_before`. Raises Rejected, also for one twice."""
        key = parse_key(text)
        times = {**key.times, **({"not-before": not_before} if not_before else {})}
        return self._checked((*self.keys, key._replace(times=times)))

    def retire(self, name: str, key_id: str, at: datetime) -> Ring:
        """What this key signed until `at` goes on to count."""
        return self._changed(name, key_id, "not-after", at)

    def revoke(self, name: str, key_id: str, at: datetime) -> Ring:
        """Nothing that this key ever signed counts any more, since whoever stole it writes any date."""
        return self._changed(name, key_id, "revoked", at)

    def valid(self, at: datetime) -> tuple[Key, ...]:
        """Keys that may sign at that time, newest last."""
        return tuple(key for key in self.keys if key.counts(at))

    def _changed(self, name: str, key_id: str, word: str, at: datetime) -> Ring:
        if not any((key.name, key.id) == (name, key_id) for key in self.keys):
            raise KeyError(f"{name}+{key_id} is not in the ring")
        return self._checked(
            tuple(
                key._replace(times={**key.times, word: at}) if (key.name, key.id) == (name, key_id) else key
                for key in self.keys
            )
        )

    def _checked(self, keys: tuple[Key, ...]) -> Ring:
        ring = Ring(keys)
        parse_keys(ring.text(), unsafe=True)  # times without a zone, keys twice
        return ring


def _line(key: Key) -> str:
    return " ".join([vkey(key.name, key.public), *(f"{word}={at.isoformat()}" for word, at in key.times.items())])
