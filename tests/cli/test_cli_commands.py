"""Models, requests, jobs and adapters from the command line, over real HTTP on a real database."""

from __future__ import annotations

import io
import json
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.adapters.files import tar_stream
from app.config import Settings
from app.db import Database, transaction
from app.imports import run as imports
from app.jobs import leases, results
from app.jobs import service as jobs
from app.jobs.failures import Failure, FailureKind
from app.reports import service as reports
from app.storage import FileStore
from cli import adapters as adapter_commands
from tests.cli.conftest import Grail
from tests.conftest import Keys
from tests.fixtures.served import question

DOCUMENT = Path(__file__).resolve().parents[1] / "fixtures" / "report_document.json"
NO_JOB = "01936f20-11aa-7c02-8f10-0a1b2c3d4e5f"


@pytest.fixture(autouse=True)
def key(keys: Keys, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands use an administrator's key on a running API unless they name another."""
    monkeypatch.setenv("GRAIL_KEY", keys.admin)


@pytest.fixture
def request_id(grail: Grail, people: str, tmp_path: Path) -> str:
    body = {"forget": [question(1), question(2)], "retain": [question(3)], "client_reference": "ticket-1"}
    (tmp_path / "body.json").write_text(json.dumps(body))
    said = grail("requests", "submit", tmp_path / "body.json", "--model", people, "--domain", "privacy")
    assert "received" in said.err and "due" in said.err
    return said.out.strip()


def evaluated(db: Database, settings: Settings, job_id: str, *, ok: bool) -> None:
    """What a worker writes at the end of a job."""
    document = json.loads(DOCUMENT.read_text())
    check = {"name": "min_cus", "scope": "privacy", "value": 91.25, "bound": 85.0, "comparison": ">=", "ok": ok, "n": 2}
    now = datetime.now(UTC)
    with transaction(db) as session:
        job = leases.claim(session, uuid.UUID(job_id), "worker", now, 60)
        assert job is not None
        stored = reports.store(document, FileStore(settings.artifacts_dir))
        results.evaluated(
            session, job.id, job.fencing_token, {"ok": ok, "checks": [check]}, None, stored, {}, {}, now=now
        )
    with transaction(db) as session:
        jobs.conclude(session, uuid.UUID(job_id), now)


def test_a_model_is_registered_with_paths_as_seen_from_here(
    grail: Grail, model_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.json").write_text('{"window_seconds": 60}')
    added = grail("models", "add", "people", "--base", "base", "--adapter", "./adapter", "--policy", "policy.json")
    assert "people-v000001-" in added.out and "window_seconds" in added.out
    assert grail("models", "show", "people", "--json").json["base_model_path"] == str(tmp_path / "base")
    assert "people" in grail("models", "list").out
    again = grail("models", "add", "people", "--base", "base", "--adapter", "adapter", expect=1)
    assert "people is taken" in again.err and "How to mend it: Choose another name" in again.err


def test_what_is_refused_is_said_with_the_way_out(grail: Grail, model_files: tuple[Path, Path], keys: Keys) -> None:
    base, adapter = model_files
    (adapter / "adapter_config.json").unlink()
    said = grail("models", "add", "people", "--base", base, "--adapter", adapter, expect=1)
    assert "adapter_config.json" in said.err and "save_pretrained" in said.err
    said = grail("models", "add", "people", "--base", base, "--adapter", adapter, "--key", keys.requester, expect=1)
    assert "needs one of the roles operator, admin" in said.err
    assert "valid API key" in grail("models", "list", "--key", "grail_no_key", expect=1).err
    assert "no model" in grail("models", "list").err.lower()


def test_a_policy_changes_where_it_is_told_to(grail: Grail, people: str) -> None:
    before = grail("models", "policy", people).json
    after = grail("models", "policy", people, "--set", "gate.min_rs=91", "--set", "require_approval=true").json
    assert after == {**before, "require_approval": True, "gate": {**before["gate"], "min_rs": 91.0}}
    assert "min_sr" in grail("models", "policy", people, "--set", "gate.min_sr=91", expect=1).err
    assert grail("models", "policy", people).json == after


def test_a_retain_set_is_replaced_from_a_file_and_counted(grail: Grail, people: str, tmp_path: Path) -> None:
    items = [{"domain": "privacy", "subject": f"s{n}", **question(n)} for n in range(3)]
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    put = grail("models", "retain-set", people, tmp_path / "items.jsonl")
    assert "added" in put.out and " 3" in put.out
    assert '"privacy": 3' in grail("models", "retain-set", people).out


def test_decisions_about_a_request_move_its_clock(grail: Grail, request_id: str, keys: Keys) -> None:
    why = ("--reason", "The name does not match the account's.")
    held = grail("requests", "hold", request_id, "--kind", "identity", *why)
    assert "on_hold" in held.err and "days left" in held.err and held.out == ""
    legal = ("requests", "hold", request_id, "--kind", "legal", *why)
    assert "Only an officer" in grail(*legal, "--key", keys.operator, expect=1).err
    assert grail(*legal, "--json", "--key", keys.officer).json["hold"]["kind"] == "legal"
    assert "no such request" in grail("requests", "list", "--due-within", "60").err
    assert "queued" in grail("requests", "resume", request_id).err
    extended = grail("requests", "extend", request_id, *why, "--json").json
    assert extended["extension"]["first_due_at"] < extended["due_at"]
    assert "extended before" in grail("requests", "extend", request_id, *why, expect=1).err
    listed = grail("requests", "list", "--due-within", "100", "--regulation", "gdpr", "--kind", "erase")
    assert request_id in listed.out and extended["due_at"][:10] in listed.out
    assert "no such request" in grail("requests", "list", "--overdue").err
    assert "refused" in grail("requests", "refuse", request_id, *why).err
    assert "The name does not match" in grail("requests", "show", request_id).out


def test_a_work_goes_and_comes_back(
    grail: Grail, people: str, tmp_path: Path, db: Database, settings: Settings
) -> None:
    grail("models", "policy", people, "--set", "validate_notices=true")
    body = {"forget": [question(1)], "retain": [question(3)]}
    (tmp_path / "body.json").write_text(json.dumps(body))
    submitted = ("requests", "submit", tmp_path / "body.json", "--model", people, "--domain", "copyright")
    notice, other = grail(*submitted).out.strip(), grail(*submitted).out.strip()
    assert notice in grail("requests", "list", "--state", "notice").out
    assert other in grail("requests", "list", "--state", "linked").out
    assert grail("requests", "validate", notice, "--json").json["state"] == "queued"
    grail("requests", "withdraw", other)
    evaluated(db, settings, grail("jobs", "run", people).out.strip(), ok=True)
    why = ("--reason", "It is in the public domain.")
    assert "countered" in grail("requests", "counter", notice, *why).err
    assert "published" in grail("requests", "dismiss", notice).err
    grail("requests", "counter", notice, *why)
    (tmp_path / "items.json").write_text(json.dumps({"items": [question(2)]}))
    said = grail("requests", "reinstate", notice, "--items", tmp_path / "items.json", expect=1)
    assert "items.0" in said.err
    made = grail("requests", "reinstate", notice)
    assert "queued" in made.err
    assert grail("requests", "show", made.out.strip(), "--json").json["original_id"] == notice


def test_a_request_is_submitted_shown_listed_and_withdrawn(grail: Grail, request_id: str, keys: Keys) -> None:
    shown = grail("requests", "show", request_id)
    assert "received" in shown.out and "ticket-1" in shown.out and "thing 1" not in shown.out.lower()
    assert grail("requests", "show", request_id, "--items").json["contents"]["forget"][0]["prompt"]
    assert request_id in grail("requests", "list", "--reference", "ticket-1", "--state", "received").out
    assert "no such request" in grail("requests", "list", "--domain", "copyright").err
    assert "no such request" in grail("requests", "list", "--key", keys.requester).err
    assert "withdrawn" in grail("requests", "withdraw", request_id).err
    assert "withdrawn" in grail("requests", "withdraw", request_id, expect=1).err


def test_a_request_may_come_from_standard_input(grail: Grail, people: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"served_model": people, "domain": "copyright", "retain": [{"passage": "All was quiet on the quay."}]}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(body).encode())))
    assert grail("requests", "submit", "-", "--json").json["state"] == "standing"


def test_a_list_is_newest_first_and_bounded(grail: Grail, people: str, url: str, keys: Keys) -> None:
    made = []
    for number in range(4):
        body = {"served_model": people, "domain": "privacy", "forget": [question(number)]}
        answer = httpx.post(f"{url}/v1/requests", json=body, headers=keys.header("admin"), trust_env=False)
        made.append(answer.json()["id"])
    listed = [r["id"] for r in grail("requests", "list", "--limit", 3, "--json").json]
    assert listed == made[:0:-1]


def test_pages_are_followed_until_there_are_enough(monkeypatch: pytest.MonkeyPatch, url: str, keys: Keys) -> None:
    from cli.remote import Remote

    asked: list[tuple[int, str | None]] = []

    def get(_: Remote, path: str, *, limit: int, cursor: str | None, **__: Any) -> dict[str, Any]:
        asked.append((limit, cursor))
        return {"items": [{}] * min(limit, 200), "next_cursor": str(len(asked))}

    monkeypatch.setattr(Remote, "get", get)
    assert len(Remote(url, "k").pages("/v1/requests", 450)) == 450
    assert asked == [(200, None), (200, "1"), (50, "2")]


def test_a_dry_run_writes_nothing_and_a_run_queues_a_job(grail: Grail, people: str, request_id: str) -> None:
    preview = grail("jobs", "run", people, "--dry-run").out
    assert request_id in preview and "forget items" in preview
    assert grail("jobs", "list", "--json").json == []
    job_id = grail("jobs", "run", people).out.strip()
    assert job_id in grail("jobs", "list", "--model", people, "--state", "queued").out
    assert request_id in grail("jobs", "show", job_id).out
    assert "the job is queued" in grail("jobs", "report", job_id, expect=1).err
    assert "cancelled" in grail("jobs", "cancel", job_id).err
    assert "cancelled" in grail("jobs", "watch", job_id, expect=1).out
    assert grail("requests", "show", request_id, "--json").json["state"] == "needs_attention"
    assert grail("jobs", "run", people, "--include-attention").out.strip() != job_id


def test_a_queued_job_says_what_it_waits_for(grail: Grail, people: str, request_id: str) -> None:
    grail("jobs", "run", people)
    listed = grail("jobs", "list").out
    assert "WAITS FOR" in listed and "a gpu worker" in listed


def test_an_open_breaker_is_told_with_its_reason_and_closed(
    grail: Grail, people: str, request_id: str, db: Database
) -> None:
    job_id = uuid.UUID(grail("jobs", "run", people).out.strip())
    words = {"type": "storage-full", "title": "There is no room", "detail": "d", "mend": "Free some space."}
    now = datetime.now(UTC)
    with transaction(db) as session:
        job = leases.claim(session, job_id, "worker", now, 60)
        assert job is not None
        results.fail(session, job_id, job.fencing_token, Failure(FailureKind.OPERATOR, words), now)
    for said in (grail("models", "list").err, grail("models", "show", people).err, grail("doctor", expect=1).out):
        assert "There is no room" in said and "Free some space." in said and "close-breaker people" in said
    assert "closed" in grail("models", "close-breaker", people).err
    assert "breaker of" not in grail("models", "list").err
    assert grail("models", "show", people, "--json").json["breaker"]["state"] == "closed"


def test_a_published_job_is_watched_to_its_end_and_its_report_is_fetched(
    grail: Grail, people: str, request_id: str, db: Database, settings: Settings, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job_id = grail("jobs", "run", people).out.strip()
    evaluated(db, settings, job_id, ok=True)
    watched = grail("jobs", "watch", job_id)
    assert "published" in watched.out and "min_cus" in watched.out and "91.25" in watched.out
    monkeypatch.chdir(tmp_path)
    assert grail("jobs", "report", job_id).json["schema"] == "grail.report/2"
    grail("jobs", "report", job_id, "--format", "json", "--out", "mine.json")
    assert json.loads((tmp_path / "mine.json").read_text())["schema"] == "grail.report/2"
    grail("jobs", "report", job_id, "--format", "html")
    assert (tmp_path / f"report-{job_id}.html").read_text().lstrip().lower().startswith("<!doctype html")


def test_a_rejected_job_is_watched_to_exit_code_1(
    grail: Grail, people: str, request_id: str, db: Database, settings: Settings
) -> None:
    job_id = grail("jobs", "run", people).out.strip()
    evaluated(db, settings, job_id, ok=False)
    assert "rejected" in grail("jobs", "watch", job_id, expect=1).out


def test_an_officer_decides_about_a_candidate(
    grail: Grail, people: str, request_id: str, db: Database, settings: Settings, keys: Keys
) -> None:
    grail("models", "policy", people, "--set", "require_approval=true")
    job_id = grail("jobs", "run", people).out.strip()
    evaluated(db, settings, job_id, ok=True)
    assert "awaiting_approval" in grail("jobs", "watch", job_id, expect=1).out
    reason = "The intervals are too wide to sign off."
    assert "officer" in grail("jobs", "refuse", job_id, "--reason", reason, "--key", keys.operator, expect=1).err
    assert "rejected" in grail("jobs", "refuse", job_id, "--reason", reason, "--key", keys.officer).err
    assert "rejected" in grail("jobs", "approve", job_id, "--key", keys.officer, expect=1).err


def test_an_adapter_is_downloaded_checked_and_activated(grail: Grail, people: str, tmp_path: Path) -> None:
    listed = grail("adapters", "list", people)
    assert "people-v000001-" in listed.out and "published" in listed.out
    directory = Path(grail("adapters", "download", people, 1, "--out", tmp_path / "got").out.strip())
    assert directory.parent == tmp_path / "got"
    names = {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    assert {path.name for path in directory.iterdir()} == names
    assert [path.name for path in directory.parent.iterdir()] == [directory.name], "no leftovers"
    again = grail("adapters", "download", people, 1, "--out", tmp_path / "got", expect=1)
    assert "is there already" in again.err
    assert "alias revision" in grail("adapters", "activate", people, 1, "--reason", "after the night's checks").out
    assert "no such version" in grail("adapters", "download", people, 9, "--out", tmp_path, expect=1).err


class Answer:
    """A download that a network, or somebody on it, changed."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def iter_bytes(self) -> list[bytes]:
        return [self.data]


@pytest.mark.parametrize("harm", ["cut short", "changed", "outside", "empty"])
def test_a_damaged_download_is_not_kept(grail: Grail, people: str, tmp_path: Path, harm: str) -> None:
    directory = Path(grail("adapters", "download", people, 1, "--out", tmp_path).out.strip())
    data = b"".join(tar_stream(directory, directory.name))
    if harm == "cut short":
        data = data[:700]
    elif harm == "changed":
        place = data.index((directory / "adapter_model.safetensors").read_bytes()) + 200
        data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    elif harm == "outside":
        data = b"".join(tar_stream(directory, "../outside"))
    else:
        data = b""
    with pytest.raises(adapter_commands.CommandFailed, match=r"not a whole adapter version|not as the manifest has it"):
        adapter_commands._unpack(Answer(data), tmp_path / "partial", directory.name)  # type: ignore[arg-type]
    assert not (tmp_path / "outside").exists()


def test_ids_stay_whole_when_the_output_goes_to_a_file(grail: Grail, request_id: str) -> None:
    line = next(line for line in grail("requests", "list").out.splitlines() if "people" in line)
    assert request_id in line.split()


def test_an_unknown_id_is_said(grail: Grail) -> None:
    assert "no job" in grail("jobs", "show", NO_JOB, expect=1).err
    assert "no request" in grail("requests", "show", NO_JOB, expect=1).err
    assert "UUID" in grail("jobs", "show", "x", expect=1).err


def import_lines(*numbers: int, **more: Any) -> str:
    rows = [{"served_model": "people", "domain": "privacy", "forget": [question(n)], **more} for n in numbers]
    return "\n".join(json.dumps(row) for row in rows)


@pytest.fixture
def worked_on(db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports are worked on at the first look at them, as a worker would."""
    from cli import imports as command

    def follow(api: Any, import_id: str, then: Any = command._follow) -> Any:
        imports.run(db, settings, uuid.UUID(import_id))
        return then(api, import_id)

    monkeypatch.setattr(command, "_follow", follow)


@pytest.mark.usefixtures("worked_on")
def test_a_file_is_imported_and_its_faults_are_shown(grail: Grail, people: str, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text(import_lines(1, 2))
    assert "imported" in grail("requests", "import", file).out
    file.write_text(import_lines(3) + "\n{\n" + import_lines(4))
    said = grail("requests", "import", file, expect=1)
    assert "refused" in said.out and "not well-formed JSON" in said.out
    shown = grail("requests", "import", file, "--partial", "--json", expect=1).json
    assert (shown["imported"], shown["refused"]) == (2, 1)
    assert [fault["line"] for fault in shown["faults"]] == [2]
    assert len(grail("requests", "list", "--json").json) == 4
    sheet = tmp_path / "requests.txt"
    sheet.write_text("served_model,domain,segment,passage\npeople,privacy,forget,A passage.\n")
    assert "--form" in grail("requests", "import", sheet, expect=1).err
    assert grail("requests", "import", sheet, "--form", "csv", "--json").json["imported"] == 1
    assert "No such file" in grail("requests", "import", tmp_path / "none.csv", expect=1).err
