"""An old backup of the database beside an old backup of the key store: what was destroyed since stays unreadable."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.config import Settings, load_settings
from app.db import Database, transaction
from app.envelope.errors import ContentDestroyed
from app.main import create_app
from app.retention import service as retention
from app.tables import Example
from tests.app.service import Caller, Floor
from tests.cli.conftest import Grail
from tests.cli.test_cli_backup import other, to

__all__ = ["other"]


def opened(db: Database) -> dict[str, str | None]:
    """What rows that are to be forgotten say, by request: None where their key was destroyed."""
    found: dict[str, str | None] = {}
    with db.session_factory() as session:
        for row in session.query(Example).filter(Example.segment == "forget").all():
            try:
                found[str(row.request_id)] = row.content.completion
            except ContentDestroyed:
                found[str(row.request_id)] = None
    return found


def test_what_was_destroyed_stays_unreadable_when_both_come_back_from_before(
    settings: Settings, grail: Grail, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, old_keys, list_ = tmp_path / "keys.sqlite3", tmp_path / "old.sqlite3", tmp_path / "tombstones"
    monkeypatch.setenv("GRAIL_KEY_STORE_URL", f"sqlite:///{keys}")
    monkeypatch.setenv("GRAIL_KEY_TOMBSTONES_FILE", str(list_))
    load_settings.cache_clear()
    own = Database(load_settings().database_url)
    with TestClient(create_app(load_settings())) as calls:
        floor = Floor(Caller(calls, own), load_settings(), tmp_path)
        floor.register()
        gone, kept = floor.ask(1), floor.ask(2)
        assert all(opened(own).values())
        place = Path(grail("backup", "create", tmp_path / "backups").out.strip())
        with sqlite3.connect(keys) as store, sqlite3.connect(old_keys) as copy:
            store.backup(copy)

        floor.caller.call("requester", "DELETE", f"/v1/requests/{gone}")
        with transaction(own) as session:
            over = text("UPDATE request SET content_until = now() - interval '1 day' WHERE id = :id")
            session.execute(over, {"id": gone})
        assert retention.remove(own, floor.settings, "works") == 1

    new = tmp_path / "new.sqlite3"
    shutil.copy(old_keys, new)
    monkeypatch.setenv("GRAIL_KEY_STORE_URL", f"sqlite:///{new}")
    to(monkeypatch, other, tmp_path / "new")
    assert grail("backup", "restore", place, "--json").json["whole"]
    said = grail("envelope", "status", "--json").json
    assert said["destroyed"] >= 1, said
    restored = Database(load_settings().database_url)
    assert opened(restored) == {gone: None, kept: "Thing 2 is in place 2."}
    with transaction(restored) as session:
        sealed = session.execute(text("SELECT count(*) FROM example WHERE content_sealed IS NOT NULL")).scalar_one()
        assert sealed >= 2, "its bytes came back, and nothing opens them"
    restored.dispose()
    own.dispose()
