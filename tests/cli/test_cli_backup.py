"""A backup of a running service restored into an empty database and another directory: every version verifies, what is
missing or left over is told, nothing that is there is overwritten."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app import schema
from app.backup import repository
from app.config import load_settings
from app.db import Database
from app.embedded.services import EmbeddedServices
from app.main import create_app
from cli import backup_files
from cli.failures import CommandFailed
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


def test_a_backup_goes_where_the_setting_says_and_without_one_a_place_is_asked_for(
    floor: Floor, grail: Grail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAIL_BACKUP_DIR", raising=False)
    assert "GRAIL_BACKUP_DIR" in grail("backup", "create", expect=2).err
    monkeypatch.setenv("GRAIL_BACKUP_DIR", str(tmp_path / "watched"))
    load_settings.cache_clear()
    place = Path(grail("backup", "create").out.strip())
    assert place.parent == tmp_path / "watched"
    document = json.loads((place / "manifest.json").read_text())
    there = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert set(document["files"]) == there - {"manifest.json"}
    monkeypatch.setenv("GRAIL_SIGNING_UNSAFE", "true")
    monkeypatch.setenv("GRAIL_LOG_ORIGIN", "log.example")
    load_settings.cache_clear()
    (backups,) = [line for line in grail("doctor", "--json").json if line["check"] == "backups"]
    assert backups["state"] == "ok"


def test_a_row_without_its_files_is_told_with_exit_code_1_and_the_rest_is_restored(
    floor: Floor, grail: Grail, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = sorted(floor.settings.adapters_dir.iterdir())[0]
    shutil.rmtree(gone)
    place = made(grail, tmp_path)
    to(monkeypatch, other, tmp_path / "new")
    found = grail("backup", "restore", place, "--json", expect=1).json
    assert (found["whole"], found["versions"], found["missing"]) == (False, 2, [f"version {gone.name}"])
    db = Database(other)
    with db.session_factory() as session:
        kept = {row.name: Path(row.directory) for row in repository.versions(session)}
    db.dispose()
    assert {path.parent for path in kept.values()} == {tmp_path / "new" / "adapters"}
    assert sum(path.is_dir() for path in kept.values()) == 1


@pytest.fixture
def older(services: EmbeddedServices, tmp_path: Path) -> Iterator[str]:
    """A database with the schema of an earlier version, and one key in it."""
    name = f"older_{uuid.uuid4().hex[:12]}"
    services.postgres.create_database(name)
    url = services.postgres.url(name)
    schema.upgrade(url, OLDER)
    db = Database(url)
    with db.engine.begin() as connection:
        connection.execute(text(A_KEY))
    db.dispose()
    yield url
    services.postgres.drop_database(name)


OLDER = "0009"
A_KEY = """
INSERT INTO key (id, prefix, hash, name, role)
VALUES (gen_random_uuid(), 'abcdef01', repeat('ab', 32), 'of old', 'admin')
"""


def test_a_backup_of_an_older_schema_is_migrated(
    grail: Grail, older: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to(monkeypatch, older, tmp_path / "old")
    place = made(grail, tmp_path)
    assert json.loads((place / "manifest.json").read_text())["schema"] == OLDER
    to(monkeypatch, other, tmp_path / "new")
    grail("backup", "restore", place)
    assert schema.current(other) == schema.head()
    assert [row["name"] for row in grail("keys", "list", "--json").json] == ["of old"]
    assert schema.current(older) == OLDER


def test_a_database_without_a_schema_is_nothing_to_back_up(
    grail: Grail, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to(monkeypatch, other, tmp_path / "data")
    assert "nothing to back up" in grail("backup", "create", tmp_path / "backups", expect=1).err
    assert not (tmp_path / "backups").exists()


def test_a_manifest_that_names_a_file_outside_of_the_backup_is_refused(
    floor: Floor, grail: Grail, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = made(grail, tmp_path)
    outside = tmp_path / "outside"
    outside.write_text("of somebody else")
    manifest = place / "manifest.json"
    document = json.loads(manifest.read_text())
    to(monkeypatch, other, tmp_path / "new")
    for name in ("../../outside", str(outside), "adapters/../../../outside"):
        files = {**document["files"], name: hashlib.sha256(outside.read_bytes()).hexdigest()}
        manifest.write_text(json.dumps({**document, "files": files}))
        assert "missing" in grail("backup", "restore", place, expect=1).err
    for files in ([], {}, None, {"database.dump": 5}):
        manifest.write_text(json.dumps({**document, "files": files}))
        said = grail("backup", "restore", place, expect=1).err
        assert "no whole backup" in said or "not what was backed up" in said
    assert not (tmp_path / "new").exists() and schema.current(other) is None


PROGRAM = """#!/bin/sh
test "$1" = --version && echo "pg_dump (PostgreSQL) {major}.4" && exit 0
echo "$@" > {told}; echo "password: $PGPASSWORD" >> {told}; exit {code}
"""


def program(directory: Path, major: int, told: Path, code: int = 0) -> Path:
    """A client program of that version, which writes down how it was called."""
    directory.mkdir(parents=True)
    made = directory / "pg_dump"
    made.write_text(PROGRAM.format(major=major, told=told, code=code))
    made.chmod(0o755)
    return made


def test_the_servers_own_version_of_a_client_program_is_taken_and_an_older_one_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = backup_files.client_program("pg_dump", 15)
    bundled = backup_files._major(ours)
    for major, wanted, taken in (
        (bundled - 1, bundled - 1, True), (bundled - 1, bundled, False), (bundled + 1, bundled + 1, True),
    ):  # fmt: skip
        place = tmp_path / f"{major}-{wanted}"
        there = program(place, major, tmp_path / "told")
        monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
        found = backup_files.client_program("pg_dump", wanted)
        assert (found == there) is taken
        assert backup_files._major(found) >= wanted
    with pytest.raises(CommandFailed, match="no pg_dump of Postgres 97 or newer"):
        backup_files.client_program("pg_dump", 97)


@pytest.fixture
def with_password(services: EmbeddedServices) -> Iterator[str]:
    """The address of a database of whose user the server wants a password."""
    name, password = f"locked_{uuid.uuid4().hex[:12]}", "it's 100% : / @ secret"
    services.postgres.create_database(name)
    db = Database(services.postgres.url(name))
    quoted = password.replace("'", "''")
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{quoted.replace('%', '%%')}'")
        rules = Path(connection.exec_driver_sql("SHOW hba_file").scalar_one())
        before = rules.read_text()
        rules.write_text(f"local all {name} scram-sha-256\n{before}")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield make_url(services.postgres.url(name)).set(username=name, password=password).render_as_string(False)
        rules.write_text(before)
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    db.dispose()
    services.postgres.drop_database(name)
    with services.postgres._connect() as server:
        server.execute(f"DROP ROLE {name}")


def test_a_database_behind_a_password_is_backed_up_and_restored(
    with_password: str, grail: Grail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.upgrade(with_password)
    to(monkeypatch, with_password, tmp_path / "data")
    key = grail("keys", "create", "of the locked one").out.strip()
    place = made(grail, tmp_path)
    schema.downgrade(with_password)
    db = Database(with_password)
    with db.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    db.dispose()
    grail("backup", "restore", place)
    assert [row["prefix"] for row in grail("keys", "list", "--json").json] == [key.split("_")[1]]
    wrong = make_url(with_password).set(password="wrong").render_as_string(False)
    monkeypatch.setenv("GRAIL_DATABASE_URL", wrong)
    assert "does not answer" in grail("backup", "create", tmp_path / "backups", expect=1).err


def test_a_password_goes_by_the_environment_and_stays_out_of_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    program(tmp_path / "bin", 98, told, code=1)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(CommandFailed) as caught:
        backup_files.run("pg_dump", 98, "postgresql+psycopg://grail:hunter2@db.example/grail", "--format=custom")
    arguments, password = told.read_text().splitlines()
    assert "hunter2" not in arguments and "grail@db.example" in arguments and "--format=custom" in arguments
    assert password == "password: hunter2"
    assert "hunter2" not in caught.value.detail + caught.value.mend
