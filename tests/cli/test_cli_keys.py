"""Keys and migrations, straight on a real database."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import schema
from app.config import Settings
from app.embedded.services import EmbeddedServices
from cli.stack import STATE_FILE
from tests.cli.conftest import Grail


def test_a_key_is_alone_on_standard_output_and_opens_the_api(grail: Grail, client: TestClient) -> None:
    made = grail("keys", "create", "Case desk", "--role", "operator")
    key = made.out.strip()
    assert key.startswith("grail_") and "\n" not in key
    assert key not in made.err
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_list_shows_prefixes_and_no_secret(grail: Grail, settings: Settings) -> None:
    key = grail("keys", "create", "Case desk").out.strip()
    prefix, secret = key.split("_", 2)[1:]
    listed = grail("keys", "list")
    assert prefix in listed.out and "Case desk" in listed.out and "requester" in listed.out
    assert secret not in listed.out
    (row,) = grail("keys", "list", "--json").json
    assert row["prefix"] == prefix and row["revoked_at"] is None and "hash" not in row


@pytest.mark.parametrize("whole", [False, True], ids=["prefix", "whole key"])
def test_a_revoked_key_opens_nothing_any_more(grail: Grail, client: TestClient, whole: bool) -> None:
    key = grail("keys", "create", "Case desk").out.strip()
    grail("keys", "revoke", key if whole else key.split("_")[1])
    assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 401
    assert grail("keys", "list", "--json").json[0]["revoked_at"] is not None


def test_an_unknown_prefix_says_where_to_look(grail: Grail, settings: Settings) -> None:
    assert "grail keys list" in grail("keys", "revoke", "00000000", expect=1).err


def test_a_key_needs_a_name_that_its_column_can_hold(grail: Grail, settings: Settings) -> None:
    grail("keys", "create", "  ", expect=2)
    grail("keys", "create", "n" * 101, expect=2)
    assert "no key yet" in grail("keys", "list").err
    grail("keys", "create", "n" * 100)


@pytest.fixture
def empty_database(services: EmbeddedServices, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex[:12]}"
    services.postgres.create_database(name)
    monkeypatch.setenv("GRAIL_DATABASE_URL", services.postgres.url(name))
    yield services.postgres.url(name)
    services.postgres.drop_database(name)


def test_migrating_up_and_down_and_that_down_asks_twice(grail: Grail, empty_database: str) -> None:
    assert "grail migrate" in grail("keys", "list", expect=1).err
    grail("migrate")
    assert schema.current(empty_database) == schema.head()
    assert "no revision 'nonsense'" in grail("migrate", "--to", "nonsense", expect=2).err
    grail("keys", "create", "Case desk")
    assert "backup" in grail("migrate", "--down", "--to", "base", expect=2).err
    grail("migrate", "--down", "--yes", expect=2)
    assert schema.current(empty_database) == schema.head()
    grail("migrate", "--down", "--to", "base", "--yes")
    assert schema.current(empty_database) is None


def test_an_absent_database_is_said_plainly(grail: Grail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_DATABASE_URL", "postgresql://grail:hunter2@127.0.0.1:9/grail")
    for command in (["keys", "list"], ["migrate"]):
        said = grail(*command, expect=1)
        assert "the database does not answer" in said.err and "GRAIL_DATABASE_URL" in said.err
        assert "hunter2" not in said.err


def test_without_a_url_the_running_service_of_this_directory_is_used(
    grail: Grail, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAIL_DATABASE_URL", raising=False)
    monkeypatch.setenv("GRAIL_DATA_DIR", str(tmp_path))
    said = grail("keys", "create", "Case desk", expect=1)
    assert "no embedded service runs" in said.err and "grail serve --embedded" in said.err
    state = {"pid": os.getpid(), "base_url": "http://127.0.0.1:9", "database_url": database_url, "broker_url": "x"}
    (tmp_path / STATE_FILE).write_text(json.dumps(state))
    grail("keys", "create", "Case desk")
    assert "Case desk" in grail("keys", "list").out
    gone = {**state, "pid": 2**22 - 3}  # of a service that was killed
    (tmp_path / STATE_FILE).write_text(json.dumps(gone))
    assert "no embedded service runs" in grail("keys", "list", expect=1).err


def test_a_database_url_may_come_from_a_secret_file(
    grail: Grail, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(database_url + "\n")
    monkeypatch.setenv("GRAIL_DATABASE_URL_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("GRAIL_DATABASE_URL", "so that what the command puts there is taken away again")
    monkeypatch.delenv("GRAIL_DATABASE_URL")
    grail("keys", "create", "Case desk")
    assert "Case desk" in grail("keys", "list").out
