"""`grail log`: keys, checkpoints, proofs and exports as an operator and an auditor use them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from app.audit_log.sequencing import number_all
from app.config import load_settings
from app.db import Database, transaction
from app.trust.verify import leaf_hash, open_checkpoint, parse_keys, verify_consistency, verify_inclusion
from tests.app.audit_log.oracle import ROOT, leaf
from tests.app.audit_log.test_sequencing import add
from tests.cli.conftest import Grail

ORIGIN = "log.example.com"


@pytest.fixture
def key(grail: Grail, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key that is set, and twenty changes."""
    path = tmp_path / "key.pem"
    grail("log", "key", "new", path, "--origin", ORIGIN)
    monkeypatch.setenv("GRAIL_SIGNING_KEY_FILE", str(path))
    monkeypatch.setenv("GRAIL_LOG_ORIGIN", ORIGIN)
    load_settings.cache_clear()
    add(db, *range(20))
    return path


def test_a_new_key_signs_and_its_verifier_key_is_what_was_printed(
    grail: Grail, key: Path, db: Database, tmp_path: Path
) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    printed = grail("log", "key", "public").out
    note = grail("log", "checkpoint", "--issue").out.encode()
    assert open_checkpoint(note, parse_keys(printed)).size == 20
    assert grail("log", "key", "list", "--ring").out == printed
    assert "there already" in grail("log", "key", "new", key, "--origin", ORIGIN, expect=1).err
    assert grail("log", "checkpoint").out.encode() == note


def test_without_a_key_the_way_out_is_said(grail: Grail, db: Database) -> None:
    add(db, 1)
    assert "grail log key new" in grail("log", "checkpoint", "--issue", expect=1).err
    assert "no signed checkpoint" in grail("log", "checkpoint", expect=1).err
    assert grail("log", "status", "--json").json["size"] == 1
    said = [line for line in grail("doctor", expect=1).out.splitlines() if "WRONG" in line]
    assert len(said) == 1 and "GRAIL_SIGNING_KEY_FILE" in said[0]


def test_a_rotation_goes_without_a_checkpoint_that_an_auditor_can_not_verify(
    grail: Grail, key: Path, db: Database
) -> None:
    old = parse_keys(grail("log", "key", "public").out)
    grail("log", "checkpoint", "--issue")
    new = parse_keys(grail("log", "key", "rotate", key).out)
    both = grail("log", "checkpoint", "--issue").out.encode()
    assert open_checkpoint(both, old) == open_checkpoint(both, new)
    grail("log", "key", "retire", old[0].id)
    add(db, 100)
    alone = grail("log", "checkpoint", "--issue").out.encode()
    assert alone.count(b"\xe2\x80\x94") == 1
    assert open_checkpoint(alone, new).size > 20
    rows = {row["id"]: row for row in grail("log", "key", "list", "--json").json}
    assert rows[old[0].id]["not-after"] and rows[new[0].id]["not-after"] is None
    assert grail("log", "verify", "--json").json["checkpoints"] == 3
    grail("log", "key", "revoke", old[0].id)
    grail("log", "checkpoint", "--issue")
    found = grail("log", "verify", "--json").json
    assert (found["ok"], found["checkpoints"]) == (True, 3), "that of the revoked key alone counts no more"
    assert grail("log", "key", "revoke", "00000000", expect=1).err


def test_proofs_of_the_command_line_verify(grail: Grail, key: Path, db: Database) -> None:
    keys = parse_keys(grail("log", "key", "public").out)
    first = open_checkpoint(grail("log", "checkpoint", "--issue").out.encode(), keys)
    for asked in (7, leaf_hash(leaf(7)).hex()):
        proof = grail("log", "prove", asked).json
        path = [bytes.fromhex(step) for step in proof["hashes"]]
        verify_inclusion(proof["position"], first.size, leaf_hash(leaf(7)), path, first.root)
    add(db, *range(100, 130))
    second = open_checkpoint(grail("log", "checkpoint", "--issue").out.encode(), keys)
    proof = grail("log", "prove", "--since", first.size).json
    path = [bytes.fromhex(step) for step in proof["hashes"]]
    verify_consistency(first.size, first.root, second.size, second.root, path)
    grail("log", "prove", expect=2)
    grail("log", "prove", "seven", expect=2)
    assert "at most" in grail("log", "prove", 7, "--size", 10_000, expect=1).err


def test_an_export_is_verified_without_a_database_and_a_changed_one_is_not(
    grail: Grail, key: Path, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grail("log", "checkpoint", "--issue")
    trusted = grail("log", "key", "list", "--ring").out.strip()
    place = tmp_path / "log.jsonl"
    grail("log", "export", "--into", place)
    monkeypatch.setenv("GRAIL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert grail("log", "verify", "--file", place, "--key", trusted).out.startswith("yes  20 leaves")
    lines = place.read_text(encoding="utf-8").splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "leaf": "{}"})
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert "leaf 2 was changed" in grail("log", "verify", "--file", place, "--key", trusted, expect=1).out
    place.write_text("nothing\n", encoding="utf-8")
    assert "JSON" in grail("log", "verify", "--file", place, expect=1).err


def test_a_log_that_was_changed_in_the_database_does_not_verify(grail: Grail, key: Path, db: Database) -> None:
    grail("log", "checkpoint", "--issue")
    number_all(db)
    with transaction(db) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE audit SET leaf = '{}' WHERE id = 3"))
    assert "was changed" in grail("log", "verify", expect=1).out


def test_an_export_goes_into_a_pipe(grail: Grail, key: Path, db: Database) -> None:
    grail("log", "checkpoint", "--issue")
    command = [sys.executable, "-c", "from cli.main import main; main()", "log", "export"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    assert len(out.splitlines()) == 22
