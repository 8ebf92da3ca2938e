"""Blobs under their digest: whole or not at all, checked at every read, mended at the next write."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import NotFound, StorageFull
from app.storage import BlobDamaged, FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "blobs")


def files(store: FileStore) -> list[Path]:
    return sorted(path for path in store.root.rglob("*") if path.is_file())


@given(st.binary(max_size=200))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_put_is_got(store: FileStore, data: bytes) -> None:
    digest = store.put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert store.get(digest) == data
    assert store.put(data) == digest


def test_the_same_bytes_lie_there_once(store: FileStore) -> None:
    digest = store.put(b"one")
    store.put(b"one")
    assert files(store) == [store.root / digest[:2] / digest]


@pytest.mark.parametrize("harm", [b"", b"on", b"onf", b"one "])
def test_damage_is_found_at_reading_and_mended_by_the_next_write(store: FileStore, harm: bytes) -> None:
    digest = store.put(b"one")
    store.path(digest).write_bytes(harm)
    with pytest.raises(BlobDamaged):
        store.get(digest)
    assert store.put(b"one") == digest
    assert store.get(digest) == b"one"


def test_what_is_not_there_is_not_found(store: FileStore) -> None:
    with pytest.raises(NotFound):
        store.get("ab" * 32)


@pytest.mark.parametrize(
    "digest", ["", "ab", "AB" * 32, "../../etc/passwd", "a" * 63 + "/", "a" * 65, "g" * 64, "a" * 64 + "\n"]
)
def test_nothing_but_a_digest_names_a_blob(store: FileStore, digest: str) -> None:
    with pytest.raises(ValueError, match="digest"):
        store.get(digest)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_says_so_and_leaves_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    kept = store.put(b"kept")

    def full(*_: Any) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)
    with pytest.raises(StorageFull):
        store.put(b"new")
    monkeypatch.undo()
    assert files(store) == [store.path(kept)]


def test_another_error_of_the_disk_is_told_as_it_is(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        store.put(b"new")
    assert files(store) == []


def test_threads_that_put_the_same_at_the_same_time_all_get_it(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, sync = threading.Barrier(3), os.fsync
    once = threading.local()

    def in_step(handle: int) -> None:
        if not hasattr(once, "done"):
            once.done = True
            together.wait(timeout=60)  # all three are in the middle of writing
        sync(handle)

    monkeypatch.setattr(os, "fsync", in_step)
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(store.put(b"same" * 1000))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 3
    assert len(set(digests)) == 1
    assert store.get(digests[0]) == b"same" * 1000
    assert len(files(store)) == 1
