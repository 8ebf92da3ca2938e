"""`grail envelope`: rotation as an operator does it."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.config import load_settings
from app.envelope.errors import NoKeyEncryptionKey, TombstonesDamaged
from app.envelope.service import open_keyring
from cli.main import app

ONE, TWO = (f"{number}:{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRAIL_DATA_DIR", str(tmp_path))
    for name in ("GRAIL_KEY_ENCRYPTION_KEYS", "GRAIL_KEY_STORE_URL", "GRAIL_KEY_TOMBSTONES_FILE"):
        monkeypatch.delenv(name, raising=False)  # what other tests share is not to be broken
    load_settings.cache_clear()
    yield tmp_path
    load_settings.cache_clear()


def with_keys(place: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    file = place / f"keks-{len(list(place.iterdir()))}"
    file.write_text("\n".join(lines), encoding="ascii")
    file.chmod(0o400)
    monkeypatch.setenv("GRAIL_KEY_ENCRYPTION_KEYS_FILE", str(file))
    load_settings.cache_clear()


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["envelope", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_version_is_changed_and_the_old_one_taken_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys(place, monkeypatch, ONE)
    ring, ids = open_keyring(load_settings()), [uuid.uuid4() for _ in range(3)]
    salts = {key_id: key.salt for key_id, key in ring.create(ids).items()}
    ring.store.dispose()
    with_keys(place, monkeypatch, TWO, ONE)
    assert "version 1: 3 keys (to be rewrapped)" in run("status")
    assert "3 keys wrapped anew" in run("rewrap")
    assert "0 keys wrapped anew" in run("rewrap")
    found = json.loads(run("status", "--json"))
    assert (found["current"], found["wraps"]) == (2, {"2": 3})
    with_keys(place, monkeypatch, TWO)
    ring = open_keyring(load_settings())
    assert {key_id: key.salt for key_id, key in ring.get(ids).items()} == salts
    ring.destroy(ids[:1])
    ring.store.dispose()
    with_keys(place, monkeypatch, ONE)
    with pytest.raises(NoKeyEncryptionKey, match="version 2"):
        run("rewrap")


def test_a_lost_list_of_destroyed_keys_is_written_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys(place, monkeypatch, ONE)
    ring = open_keyring(load_settings())
    ring.destroy([uuid.uuid4()])
    ring.store.dispose()
    load_settings().tombstones_file.unlink()
    with pytest.raises(TombstonesDamaged):
        run("status")
    assert "1 records written" in run("export")
    assert "1 records in the list" in run("status")
