"""A concluded job's report becomes a bundle that the auditor's program accepts, once and for ever, whatever dies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from app.audit_log.checkpoints import issue
from app.audit_log.sequencing import number_all
from app.backup import service as backup
from app.bundles import sealing, service
from app.bundles.held import held_out_of
from app.config import Settings
from app.db import Database, transaction
from app.orphans import service as orphans
from app.reports.service import LATE
from app.tables import Bundle, Report
from app.trust import verify as standalone
from app.trust.bundle import archive
from app.trust.keys import Ed25519Signer
from app.trust.verify import CODES, parse_log, read_bundle, verify
from grail.config import UnlearnConfig
from grail.run import held_out
from tests.app.bundles.concluded import ORIGIN, SIGNER, concluded, document_for, evaluated, examples_of, signing
from tests.app.service import Floor, slug
from tests.fixtures.deaths import killed_at, places, step_of

VERIFIER = Path(standalone.__file__)
QUESTIONS = ["archive", "signature", "figures", "adapter", "log", "since"]


def drive(floor: Floor, settings: Settings | None = None) -> None:
    """Two rings: one signs and puts together; the next does what the first had to leave."""
    for _ in range(2):
        service.drive(floor.db, settings or signing(floor.settings), retry_seconds=0.0)


def fetched(floor: Floor, job_id: uuid.UUID, role: str = "officer", **more: Any) -> bytes:
    answer = floor.caller.send(role, "GET", f"/v1/jobs/{job_id}/report.zip", **more)
    assert answer.status_code == 200, answer.text[:1000]
    return answer.content


def checkpoint(floor: Floor) -> bytes:
    """What an auditor keeps, before anything else happens."""
    number_all(floor.db)
    return issue(floor.db, signing(floor.settings)).note


def directory_of(floor: Floor, version: int = 2) -> Path:
    (found,) = floor.settings.adapters_dir.glob(f"people-v{version:06d}-*")
    return found


def seals(db: Database) -> int:
    with db.session_factory() as session:
        found: int = session.execute(text("SELECT count(*) FROM audit WHERE event = 'report.sealed'")).scalar_one()
    return found


def test_every_question_about_a_published_job_is_answered_with_yes(floor: Floor) -> None:
    kept = checkpoint(floor)
    job_id = concluded(floor)
    drive(floor)
    bundle = fetched(floor, job_id)
    answers = verify(bundle, SIGNER.vkey, directory_of(floor), kept)
    assert [(one.question, one.ok) for one in answers] == [(name, True) for name in QUESTIONS], answers
    files = read_bundle(bundle)
    assert set(files) == {
        "report.json", "report.pdf", "report.html", "scores.json", "events.jsonl", "adapter/new.json",
        "adapter/old.json", "statement.json", "checkpoint", "log.json",
    }  # fmt: skip
    issued = floor.caller.send("officer", "GET", f"/v1/jobs/{job_id}/report").json()
    for name in LATE:
        issued.pop(name)
    shown = json.loads(files["report.json"])
    assert {**shown, "examples": None} == {**issued, "examples": None}
    assert files["report.pdf"].startswith(b"%PDF-") and b"<!doctype html>" in files["report.html"][:50]
    events = [json.loads(line) for line in files["events.jsonl"].splitlines()]
    names = {event["event"] for event in events}
    assert {"request.received", "job.evaluated", "job.published", "adapter.published", "report.issued"} <= names
    about = {event["subject_id"] for event in events}
    assert {str(job_id), *(request["id"] for request in issued["requests"])} <= about


def test_neither_ids_nor_order_lead_from_a_bundle_to_the_rows(floor: Floor) -> None:
    job_id = concluded(floor)
    drive(floor)
    files = read_bundle(fetched(floor, job_id))
    issued = floor.caller.send("officer", "GET", f"/v1/jobs/{job_id}/report").json()["examples"]
    shown, scores = json.loads(files["report.json"])["examples"], json.loads(files["scores.json"])["items"]
    told = b"".join(files[name] for name in ("report.json", "scores.json", "report.html"))
    assert not [value for one in issued for value in (one["id"], one["subject_id"]) if f'"{value}"'.encode() in told]
    assert not [one["id"] for one in issued if f">{one['id']}<".encode() in files["report.html"]]
    assert {one["id"] for one in shown} == {one["id"] for one in scores}, "the same items, under the same ids"

    def measured(items: list[Any]) -> list[Any]:
        return [[one[when] for when in ("before", "after", "reference")] for one in items]

    def ordered(items: list[Any]) -> list[str]:
        return sorted(map(str, measured(items)))

    assert ordered(shown) == ordered(scores) == ordered(issued)
    assert measured(shown) != measured(issued), "in an order of their own"
    assert [one["id"] for one in shown] != [one["id"] for one in scores]


def test_the_stand_alone_file_verifies_it_and_finds_every_flipped_byte(floor: Floor, tmp_path: Path) -> None:
    kept = checkpoint(floor)
    job_id = concluded(floor)
    drive(floor)
    place = tmp_path / "auditor"
    place.mkdir()
    shutil.copy(VERIFIER, place / "verify.py")
    shutil.copytree(directory_of(floor), place / "adapter")
    (place / "kept").write_bytes(kept)
    (place / "keys").write_text(SIGNER.vkey + "\n", encoding="ascii")
    bundle = fetched(floor, job_id)

    def answered(raw: bytes) -> Any:
        (place / "report.zip").write_bytes(raw)
        command = [sys.executable, "-I", "verify.py", "report.zip", "--key", "keys", "--adapter", "adapter",
                   "--since", "kept", "--json"]  # fmt: skip
        return json.loads(subprocess.run(command, cwd=place, capture_output=True, text=True, check=False).stdout)

    found = answered(bundle)
    assert found["ok"] and [one["ok"] for one in found["answers"]] == [True] * 6, found
    for at in (len(bundle) // 3, len(bundle) - 30):
        assert answered(bundle[:at] + bytes([bundle[at] ^ 1]) + bundle[at + 1 :])["code"] in {11, 12}
    step = max(len(bundle) // 400, 1)
    for at in range(0, len(bundle), step):
        flipped = bundle[:at] + bytes([bundle[at] ^ 0x10]) + bundle[at + 1 :]
        assert not verify(flipped, SIGNER.vkey, None, None)[0].ok, at


def test_files_changed_in_a_sound_archive_are_named(floor: Floor) -> None:
    job_id = concluded(floor)
    drive(floor)
    files = read_bundle(fetched(floor, job_id))
    for name in sorted(set(files) - {"statement.json", "checkpoint", "log.json"}):
        changed = archive({**files, name: files[name][:-1] + bytes([files[name][-1] ^ 1])})
        wrong = [one for one in verify(changed, SIGNER.vkey, None, None) if one.ok is False]
        assert [one.kind for one in wrong] == ["content-changed"] and name in wrong[0].said
    (path := directory_of(floor) / "adapter_model.safetensors").write_bytes(path.read_bytes() + b"x")
    assert "adapter-differs" in {one.kind for one in verify(archive(files), SIGNER.vkey, path.parent, None)}


def test_a_rejected_candidate_has_its_bundle_too(floor: Floor) -> None:
    job_id = concluded(floor, good=False)
    assert floor.job(job_id).state == "rejected"
    drive(floor)
    answers = verify(fetched(floor, job_id), SIGNER.vkey, directory_of(floor), None)
    assert [one.ok for one in answers] == [True] * 5 + [None]


def test_what_a_bundle_waits_for_is_said_step_by_step(floor: Floor) -> None:
    path = f"/v1/jobs/{floor.order() if floor.ask(9) else None}/report.zip"
    assert floor.caller.refused("officer", "GET", path) == (404, "no-report-yet")
    floor.caller.call("operator", "POST", path.replace("report.zip", "cancel"))
    job_id = evaluated(floor)
    path = f"/v1/jobs/{job_id}/report.zip"

    def waits() -> str:
        answer = floor.caller.send("officer", "GET", path)
        assert (answer.status_code, slug(answer)) == (409, "no-bundle-yet")
        return str(answer.json()["waits_for"])

    drive(floor)
    assert (waits(), seals(floor.db)) == ("conclusion", 0)
    floor.conclude(job_id)
    assert waits() == "seal"
    drive(floor, signing(floor.settings, None))
    assert waits() == "no-signing-key"
    warned = floor.caller.client.get("/readyz").json()["warnings"]["reports"]
    assert "1 (no-signing-key)" in warned and "GRAIL_SIGNING_KEY_FILE" in warned
    report = reports(floor.db)[job_id]
    assert sealing.seal(floor.db, signing(floor.settings), report) and not sealing.seal(
        floor.db, signing(floor.settings), report
    )
    assert waits() == "number"
    number_all(floor.db)
    assert waits() == "checkpoint"
    drive(floor)
    first = floor.caller.send("officer", "GET", path)
    assert first.status_code == 200 and first.headers["content-type"] == "application/zip"
    assert first.headers["etag"] == f'"{hashlib.sha256(first.content).hexdigest()}"'
    drive(floor)
    again = floor.caller.send("admin", "GET", path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert fetched(floor, job_id, "operator") == first.content, "it stays as it is"
    with floor.db.session_factory() as session:
        assert service.waiting(session) is None


def reports(db: Database) -> dict[uuid.UUID, uuid.UUID]:
    with db.session_factory() as session:
        return {row.job_id: row.id for row in session.scalars(select(Report))}


def test_requesters_get_none(floor: Floor) -> None:
    job_id = concluded(floor)
    drive(floor)
    for role in ("requester", "other"):
        assert floor.caller.refused(role, "GET", f"/v1/jobs/{job_id}/report.zip") == (403, "forbidden")
    assert floor.caller.refused("officer", "GET", f"/v1/jobs/{uuid.uuid4()}/report.zip") == (404, "not-found")


def test_another_size_gives_a_bundle_with_the_same_statement_and_one_proof_more(floor: Floor) -> None:
    kept: dict[int, bytes] = {}
    for _ in range(20):  # more checkpoints than a bundle has proofs from
        note = checkpoint(floor)
        kept[standalone.parse_head(standalone.parse_note(note)[0]).size] = note
        floor.ask(len(kept) + 100)
    job_id = concluded(floor)
    drive(floor)
    bundle = fetched(floor, job_id)
    proved = {one.number for one in parse_log(read_bundle(bundle)["log.json"])[2]}
    size, old = next((size, note) for size, note in sorted(kept.items())[1:] if size not in proved)
    assert {one.kind for one in verify(bundle, SIGNER.vkey, None, old)} == {None, "no-consistency-proof"}
    newer = fetched(floor, job_id, params={"since": size})
    assert [one.ok for one in verify(newer, SIGNER.vkey, None, old)] == [True, True, True, None, True, True]
    before, after = read_bundle(bundle), read_bundle(newer)
    assert {name for name in before if before[name] != after[name]} <= {"checkpoint", "log.json"}
    assert "log.json" in {name for name in before if before[name] != after[name]}
    same = fetched(floor, job_id, params={"since": min(proved)})
    assert same == bundle
    beyond = floor.caller.refused("officer", "GET", f"/v1/jobs/{job_id}/report.zip", params={"since": 10**6})
    assert beyond == (422, "outside-log")


def test_the_checkpoint_of_the_last_bundle_is_one_that_the_next_one_proves_from(floor: Floor) -> None:
    first = concluded(floor, 1)
    drive(floor)
    kept = read_bundle(fetched(floor, first))["checkpoint"]
    second = concluded(floor, 2)
    drive(floor)
    assert all(one.ok for one in verify(fetched(floor, second), SIGNER.vkey, directory_of(floor, 3), kept))


def test_a_report_whose_figures_do_not_hold_is_not_signed(floor: Floor) -> None:
    job_id = evaluated(floor)
    with transaction(floor.db) as session:
        report = session.scalars(select(Report)).one()
        blobs = sealing.FileStore(floor.settings.artifacts_dir)
        document = json.loads(blobs.get(report.digest))
        document["metrics"]["privacy"]["forget"]["success"]["after"]["value"] += 1.0
        report.digest = blobs.put(sealing.canonical(document))
    floor.conclude(job_id)
    drive(floor)
    answer = floor.caller.send("officer", "GET", f"/v1/jobs/{job_id}/report.zip").json()
    assert (answer["waits_for"], seals(floor.db)) == ("bundle-refused", 0)


def test_one_that_fails_for_good_holds_up_no_other(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "AT_ONCE", 1)
    lost, whole = concluded(floor, 1), concluded(floor, 2)
    with floor.db.session_factory() as session:
        digest = session.scalars(select(Report.digest).where(Report.job_id == lost)).one()
    sealing.FileStore(floor.settings.artifacts_dir).path(digest).unlink()
    for _ in range(3):
        service.drive(floor.db, signing(floor.settings))
    fetched(floor, whole)
    answer = floor.caller.send("officer", "GET", f"/v1/jobs/{lost}/report.zip").json()
    assert answer["waits_for"] == "report-damaged"


def test_lost_files_of_a_bundle_are_said_to_be_lost_and_others_are_left_alone(floor: Floor) -> None:
    job_id = concluded(floor)
    drive(floor)
    for path in floor.settings.artifacts_dir.rglob("*"):
        os.utime(path, (1, 1))
    with floor.db.session_factory() as session:
        digest = session.scalars(select(Bundle.contents_digest)).one()
    assert digest is not None
    path = sealing.FileStore(floor.settings.artifacts_dir).path(digest)
    orphans.remove(floor.db, floor.settings)
    assert path.is_file(), "a row names it"
    with floor.db.session_factory() as session:
        assert backup.check(session, floor.settings).orphans == []
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused = floor.caller.refused("officer", "GET", f"/v1/jobs/{job_id}/report.zip")
    assert refused == (500, "stored-bundle-damaged")
    with floor.db.session_factory() as session:
        assert backup.check(session, floor.settings).damaged == [f"document {digest}"]


def test_two_workers_seal_a_report_once(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = concluded(floor)
    make, settings = sealing._make, signing(floor.settings)
    report = reports(floor.db)[job_id]

    def overtaken(*given: Any) -> Any:
        made = make(*given)
        monkeypatch.setattr(sealing, "_make", make)
        assert sealing.seal(floor.db, settings, report)
        return made

    monkeypatch.setattr(sealing, "_make", overtaken)
    assert not sealing.seal(floor.db, settings, report)
    assert seals(floor.db) == 1


CHILD = """
import sys
from app.bundles import service
from app.config import load_settings
from app.db import Database
from app.storage import FileStore
from sqlalchemy.orm import Session
from tests.fixtures.deaths import dies_at

dies_at(int(sys.argv[1]), (Session, "commit"), (FileStore, "_place"))
db = Database(load_settings().database_url)
service.drive(db, load_settings(), retry_seconds=0.0)
service.drive(db, load_settings(), retry_seconds=0.0)
"""


def test_a_process_killed_at_any_place_leaves_what_the_next_one_finishes(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each sixth place, the first among them; at all of them with GRAIL_FAULTS=all."""
    monkeypatch.setenv("GRAIL_SIGNING_KEY", SIGNER.pem().decode())
    monkeypatch.setenv("GRAIL_LOG_ORIGIN", ORIGIN)
    deaths = 0
    for place in places(60, by=6):
        job_id = concluded(floor, place)
        if not killed_at(place, CHILD):
            break
        deaths += 1
        drive(floor)
        assert seals(floor.db) == deaths, f"killed at {place}"
        answers = verify(fetched(floor, job_id), SIGNER.vkey, None, None)
        assert all(one.ok is not False for one in answers), (place, answers)
    assert deaths > 15 // step_of(6), "there are so many places at which it could die"


def test_held_out_items_follow_from_the_report(floor: Floor) -> None:
    floor.ask(1)
    job_id = floor.order()
    document = document_for(floor, job_id, None, subjects=9)
    requests = [request["id"] for request in document["requests"]]
    config = UnlearnConfig(holdout_share=0.4)
    items = [one for one in examples_of(requests, 9) if one.role == "item"]
    known = {one["id"] for one in document["examples"] if one["outcome"] == "in_base"}
    expected = held_out([one for one in items if one.id not in known], config)
    assert expected and held_out_of(document) == expected
    document["data"]["privacy"]["held_out"] += 1
    with pytest.raises(ValueError, match="held out"):
        held_out_of(document)


def test_another_keys_bundle_is_not_taken(floor: Floor) -> None:
    job_id = concluded(floor)
    drive(floor)
    other = Ed25519Signer.new(ORIGIN)
    assert CODES["unknown-key"] in {
        CODES[one.kind] for one in verify(fetched(floor, job_id), other.vkey, None, None) if one.kind
    }


def test_a_checkpoint_that_does_not_cover_the_seal_is_waited_past(floor: Floor) -> None:
    job_id = concluded(floor)
    checkpoint(floor)
    settings, report = signing(floor.settings), reports(floor.db)[job_id]
    assert sealing.seal(floor.db, settings, report)
    number_all(floor.db)
    with transaction(floor.db) as session:
        assert not sealing.assemble_sealed(session, settings, report)
    checkpoint(floor)
    with transaction(floor.db) as session:
        assert sealing.assemble_sealed(session, settings, report)
        assert not sealing.assemble_sealed(session, settings, report), "once"
    assert verify(fetched(floor, job_id), SIGNER.vkey, None, None)[4].ok
