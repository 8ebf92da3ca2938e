"""Key-encryption keys: what wraps the secrets of requests. An interface, and its implementation by a file.

A service of keys (Vault's transit, a cloud's KMS) implements the same four names: it is asked for many secrets in one
call, since it is a network away, and gives back its own key's version with each. The context is authenticated, so that
a wrapped secret of one request is of no use as that of another.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app import private_files
from app.config import Settings
from app.envelope.errors import ContentUnreadable, NoKeyEncryptionKey
from app.envelope.sealing import NONCE_BYTES

KEY_BYTES = 32
FILE = "key-encryption-keys"
"""Name, below the data directory, of the keys that an embedded service makes for itself."""
MAX_VERSIONS = 64
MAX_FILE_BYTES = 16 * 1024
MAX_WRAPPED_BYTES = 4096
"""Room for what a service of keys makes of 32 bytes."""
ENTRY = re.compile(r"([1-9][0-9]{0,8}):([A-Za-z0-9+/=_-]{43,44})")


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A secret under the key-encryption key of that version."""

    version: int
    data: bytes = field(repr=False)


class WrappedUnreadable(ContentUnreadable):
    """A wrapped secret was changed, or is another request's."""

    title = "The key of this content can not be unwrapped"


class KeyManagement(Protocol):
    """What keeps key-encryption keys. Raises Unavailable while it is away."""

    @property
    def current(self) -> int:
        """The version that wraps."""
        ...

    @property
    def versions(self) -> Collection[int]:
        """Those that unwrap."""
        ...

    def wrap(self, secrets: Sequence[tuple[bytes, bytes]]) -> list[Wrapped]:
        """Each (secret, context) under the current version."""
        ...

    def unwrap(self, wrapped: Sequence[tuple[Wrapped, bytes]]) -> list[bytes]:
        """The secret of each (wrapped, context). Raises NoKeyEncryptionKey, WrappedUnreadable."""
        ...


class FileKeys:
    """Key-encryption keys in this process's memory, from a file or the environment. AES-256-GCM under random nonces:
    at most 2^32 secrets may be wrapped by one version. The first of `keys` wraps."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        if not keys:
            raise NoKeyEncryptionKey("none is set")
        self._ciphers = {version: AESGCM(key) for version, key in keys.items()}
        self.current = next(iter(keys))

    @property
    def versions(self) -> Collection[int]:
        """Those that unwrap."""
        return self._ciphers.keys()

    def wrap(self, secrets: Sequence[tuple[bytes, bytes]]) -> list[Wrapped]:
        """See KeyManagement."""
        cipher, found = self._ciphers[self.current], []
        for secret, context in secrets:
            nonce = os.urandom(NONCE_BYTES)
            sealed = cipher.encrypt(nonce, secret, _associated(self.current, context))
            found.append(Wrapped(self.current, nonce + sealed))
        return found

    def unwrap(self, wrapped: Sequence[tuple[Wrapped, bytes]]) -> list[bytes]:
        """See KeyManagement."""
        return [self._unwrapped(one, context) for one, context in wrapped]

    def _unwrapped(self, wrapped: Wrapped, context: bytes) -> bytes:
        cipher = self._ciphers.get(wrapped.version)
        if cipher is None:
            raise NoKeyEncryptionKey(
                f"version {wrapped.version} is not set, and keys of content are still wrapped by it",
                mend="Set that version again beside the others, run `grail envelope rewrap`, then take it out.",
            )
        nonce, sealed = wrapped.data[:NONCE_BYTES], wrapped.data[NONCE_BYTES:]
        try:
            return cipher.decrypt(nonce, sealed, _associated(wrapped.version, context))
        except (InvalidTag, ValueError):
            raise WrappedUnreadable(f"version {wrapped.version} does not unwrap it") from None


def parse_keys(text: str) -> dict[int, bytes]:
    """`VERSION:BASE64` of 32 bytes each, separated by commas or lines, in their order. Raises NoKeyEncryptionKey, which
    repeats nothing of it."""
    keys: dict[int, bytes] = {}
    entries = [part.strip() for part in re.split(r"[,\r\n]+", text) if part.strip()]
    if len(entries) > MAX_VERSIONS:
        raise NoKeyEncryptionKey(f"more than {MAX_VERSIONS} versions are set")
    for number, entry in enumerate(entries, 1):
        found = ENTRY.fullmatch(entry)
        key = _decoded(found[2]) if found else b""
        if found is None or len(key) != KEY_BYTES:
            raise NoKeyEncryptionKey(f"entry {number} is not VERSION:BASE64 of {KEY_BYTES} bytes")
        if int(found[1]) in keys or key in keys.values():
            raise NoKeyEncryptionKey(f"entry {number} has the version or the key of an earlier one")
        keys[int(found[1])] = key
    return keys


def read_keys_file(path: Path) -> str:
    """The file's text. Raises NoKeyEncryptionKey where it is missing, or where others may read or change it."""
    try:
        return private_files.read(path, MAX_FILE_BYTES)
    except private_files.OpenToOthers as error:
        mend = "Give it to the service's user with mode 0400 (or 0440), and make a new version if it was open long."
        raise NoKeyEncryptionKey(f"its file {error}", mend=mend) from None
    except private_files.NotPrivate as error:
        raise NoKeyEncryptionKey(f"its file {error}") from None


def load_keys(settings: Settings) -> FileKeys:
    """The key-encryption keys of GRAIL_KEY_ENCRYPTION_KEYS or of the file that GRAIL_KEY_ENCRYPTION_KEYS_FILE names.
    Raises NoKeyEncryptionKey."""
    text = settings.key_encryption_keys
    if not text and settings.key_encryption_keys_file is not None:
        text = read_keys_file(settings.key_encryption_keys_file)
    return FileKeys(parse_keys(text))


def new_keys() -> bytes:
    """A first key, as a file of keys holds it."""
    return b"1:" + base64.b64encode(os.urandom(KEY_BYTES)) + b"\n"


def ensure_file(directory: Path) -> Path:
    """The file in `directory` with a key of this service's own, made when it is not there. Raises OSError."""
    return private_files.ensure(directory / FILE, new_keys, mode=0o400)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        return b""


def _associated(version: int, context: bytes) -> bytes:
    return b"grail data key\x01" + version.to_bytes(4, "big") + context
