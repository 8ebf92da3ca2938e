"""The keys of content, as settings name them; what is done with them on a schedule or by an operator."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from app.config import Settings, load_settings
from app.envelope.codec import Codec
from app.envelope.keyring import Keyring
from app.envelope.kms import load_keys
from app.envelope.store import AT_ONCE, Destroyed, KeyStore
from app.envelope.tombstones import TombstoneFile

_OPENED: dict[tuple[Any, ...], Codec] = {}
_OPENING = threading.Lock()
"""Connections and keys at hand are one process's, however many databases it opens."""


def open_store(settings: Settings) -> KeyStore:
    """The key store, with the list of destroyed keys carried out. Raises KeyStoreAway, TombstonesDamaged."""
    return unopened_store(settings).open()


def unopened_store(settings: Settings) -> KeyStore:
    """The key store as it is: for whoever has to write the list anew."""
    tombstones = TombstoneFile(settings.tombstones_file)
    return KeyStore(settings.keys_url, tombstones, timeout_seconds=settings.database_timeout_seconds)


def open_keyring(settings: Settings) -> Keyring:
    """The keys of content of this process. Raises NoKeyEncryptionKey, KeyStoreAway, TombstonesDamaged."""
    keys = load_keys(settings)
    return Keyring(
        open_store(settings), keys, capacity=settings.key_cache_keys, seconds=settings.key_cache_seconds
    )


def process_codec() -> Codec:
    """What seals and opens in this process, as its settings say; opened once. Raises what `open_keyring` does."""
    return codec_of(load_settings())


def codec_of(settings: Settings) -> Codec:
    """The same for given settings."""
    named = (
        settings.keys_url, settings.tombstones_file, settings.key_encryption_keys, settings.key_encryption_keys_file
    )
    with _OPENING:
        found = _OPENED.get(named)
        if found is None:
            found = _OPENED[named] = Codec(open_keyring(settings))
        return found


def shred(keyring: Keyring, due: Iterable[uuid.UUID], at_once: int = AT_ONCE) -> Iterator[list[Destroyed]]:
    """Destroy the keys and salts of requests whose content is to go, chunk by chunk: what was yielded is destroyed, and
    its leaf can be written. One that was destroyed before comes with its first time, so that a run that broke off
    before its leaf is repeated as a whole. Raises KeyStoreAway."""
    stream = iter(due)
    while chunk := list(islice(stream, at_once)):
        yield keyring.destroy(chunk)


def leaf_of(destroyed: Destroyed) -> dict[str, Any]:
    """What the audit log says of a destroyed key: ids, time and version, nothing of its content."""
    at = datetime.fromtimestamp(destroyed.at_ms / 1000, UTC)
    return {
        "key_id": str(destroyed.key_id),
        "destroyed_at": at.isoformat(timespec="milliseconds"),
        "kek_version": destroyed.kek_version,
    }
