"""A backup of a running service restored into an empty database and another directory: every version verifies, what is
missing or left over is told, nothing that is there is overwritten."""

from __future__ import annotations

import json
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.config import load_settings
from app.embedded.services import EmbeddedServices
from app.main import create_app
from tests.app.service import Caller, Floor
from tests.cli.conftest import Grail


@pytest.fixture
def floor(client: TestClient, settings: object, db: object, tmp_path: Path) -> Floor:
    made = Floor(Caller(client, db), load_settings(), tmp_path)  # type: ignore[arg-type]
    made.register()
    made.ask(1)
    made.work()
    return made


@pytest.fixture
def other(services: EmbeddedServices) -> Iterator[str]:
    """An empty database."""
    name = f"restored_{uuid.uuid4().hex[:12]}"
    services.postgres.create_database(name)
    yield services.postgres.url(name)
    services.postgres.drop_database(name)


def made(grail: Grail, tmp_path: Path) -> Path:
    return Path(grail("backup", "create", tmp_path / "backups").out.strip())


def to(monkeypatch: pytest.MonkeyPatch, url: str, data: Path) -> None:
    monkeypatch.setenv("GRAIL_DATABASE_URL", url)
    monkeypatch.setenv("GRAIL_DATA_DIR", str(data))
    load_settings.cache_clear()


def test_what_was_backed_up_serves_again_elsewhere(
    floor: Floor, grail: Grail, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = made(grail, tmp_path)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    later = floor.ask(2)
    floor.work()  # a version after the backup
    shutil.rmtree(floor.settings.data_dir)
    to(monkeypatch, other, tmp_path / "new")
    found = grail("backup", "restore", place, "--json").json
    assert (found["whole"], found["versions"], found["missing"], found["damaged"]) == (True, 2, [], [])
    with TestClient(create_app(load_settings())) as client:
        header = floor.caller.header("operator")
        versions = client.get("/v1/models/people/adapters", headers=header).json()["items"]
        assert [(v["version"], v["active"]) for v in versions] == [(2, True), (1, False)]
        answer = client.get("/v1/models/people/adapters/2/download", headers=header)
        assert answer.status_code == 200 and len(answer.content) > 1000
        assert client.get(f"/v1/requests/{later}", headers=header).status_code == 404, "younger than the backup"
    assert grail("backup", "verify", "--json").json["whole"] is True


def test_files_that_came_after_the_dump_are_told_and_do_no_harm(
    floor: Floor, grail: Grail, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that ends between the dump and the copy: its files are there, its rows are not."""
    from cli import backup_files

    run = backup_files.run

    def dump_then_work(*arguments: object) -> None:
        run(*arguments)  # type: ignore[arg-type]
        floor.ask(2)
        floor.work()

    with monkeypatch.context() as while_backing_up:
        while_backing_up.setattr(backup_files, "run", dump_then_work)
        place = made(grail, tmp_path)
    to(monkeypatch, other, tmp_path / "new")
    found = grail("backup", "restore", place, "--json").json
    assert (found["whole"], found["versions"]) == (True, 2)
    assert any(name.startswith("version people-v000003-") for name in found["orphans"])


def test_missing_and_damaged_files_are_told(floor: Floor, grail: Grail) -> None:
    first, second = sorted(floor.settings.adapters_dir.iterdir())
    shutil.rmtree(first)
    weights = second / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    found = grail("backup", "verify", "--json", expect=1).json
    assert found["missing"] == [f"version {first.name}"]
    assert found["damaged"] == [f"version {second.name}"]


def test_a_backup_that_is_not_whole_is_refused(
    floor: Floor, grail: Grail, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = made(grail, tmp_path)
    grail("backup", "verify", place)
    to(monkeypatch, other, tmp_path / "new")
    dump = place / "database.dump"
    whole = dump.read_bytes()
    dump.write_bytes(whole[:-1])
    assert "not what was backed up" in grail("backup", "restore", place, expect=1).err
    dump.unlink()
    assert "missing" in grail("backup", "restore", place, expect=1).err
    dump.write_bytes(whole)
    document = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**document, "schema": "9999"}))
    assert "does not know" in grail("backup", "restore", place, expect=1).err
    (place / "manifest.json").unlink()
    assert "no whole backup" in grail("backup", "restore", place, expect=1).err
    assert not (tmp_path / "new").exists()


def test_nothing_that_is_there_is_overwritten(
    floor: Floor, grail: Grail, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = made(grail, tmp_path)
    said = grail("backup", "restore", place, expect=1).err
    assert "holds files already" in said
    monkeypatch.setenv("GRAIL_DATA_DIR", str(tmp_path / "new"))
    load_settings.cache_clear()
    assert "not empty" in grail("backup", "restore", place, expect=1).err
    assert floor.versions() == [(2, "published", True), (1, "superseded", False)]


def test_a_backup_that_fails_leaves_nothing(
    floor: Floor, grail: Grail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAIL_DATABASE_URL", "postgresql://127.0.0.1:9/grail")
    assert "does not answer" in grail("backup", "create", tmp_path / "backups", expect=1).err
    from cli import backup_files

    monkeypatch.setenv("GRAIL_DATABASE_URL", floor.settings.database_url)
    monkeypatch.setattr(backup_files, "_copy", full)
    grail("backup", "create", tmp_path / "backups", expect=1)
    assert list((tmp_path / "backups").iterdir()) == []


def full(*_: object) -> str:
    raise OSError(28, "No space left on device")
