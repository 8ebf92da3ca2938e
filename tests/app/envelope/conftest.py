"""Key stores of both kinds, and key-encryption keys of a test's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.embedded.services import EmbeddedServices
from app.envelope.keyring import Keyring
from app.envelope.kms import FileKeys
from app.envelope.store import KeyStore
from app.envelope.tombstones import TombstoneFile


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'keys' / 'keys.sqlite3'}"
        return
    services: EmbeddedServices = request.getfixturevalue("services")
    name = f"keys_{uuid.uuid4().hex[:12]}"
    services.postgres.create_database(name)
    yield services.postgres.url(name)
    services.postgres.drop_database(name)


@pytest.fixture
def tombstones(tmp_path: Path) -> TombstoneFile:
    return TombstoneFile(tmp_path / "elsewhere" / "tombstones")


@pytest.fixture
def open_store(tombstones: TombstoneFile) -> Iterator[Callable[[str], KeyStore]]:
    """Opens a store on a URL, as a process does; closed at the end."""
    opened: list[KeyStore] = []

    def opens(url: str) -> KeyStore:
        opened.append(KeyStore(url, tombstones, pool_size=2))
        return opened[-1].open()

    yield opens
    for store in opened:
        store.dispose()


@pytest.fixture
def store(store_url: str, open_store: Callable[[str], KeyStore]) -> KeyStore:
    return open_store(store_url)


@pytest.fixture
def keys() -> FileKeys:
    return FileKeys({1: b"k" * 32})


@pytest.fixture
def keyring(store: KeyStore, keys: FileKeys) -> Keyring:
    return Keyring(store, keys)
