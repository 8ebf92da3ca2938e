"""Checkpoints are signed notes that any of their readers can verify; none is signed that does not continue the last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from app.audit_log import checkpoints, keys, signing
from app.audit_log.checkpoints import Issued, issue_checkpoint
from app.audit_log.errors import LogForked, NoCheckpointYet, NoSigningKey, OtherOrigin
from app.audit_log.keys import NoSuchLogKey
from app.audit_log.sequencing import number_all
from app.config import Settings
from app.db import Database, transaction
from app.trust.checkpoint import open_checkpoint
from app.trust.keys import Ed25519Signer, Signer, UnsafeKey
from app.trust.verify import Head, Rejected
from tests.app.audit_log.oracle import numbered, tree_hash
from tests.app.audit_log.test_sequencing import add

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
ORIGIN = "log.example.com/erasures"
OLD, NEW = Ed25519Signer.new(ORIGIN), Ed25519Signer.new(ORIGIN)


def issue(db: Database, *signers: Signer, now: datetime = NOW) -> Issued:
    number_all(db)
    with transaction(db) as session:
        return issue_checkpoint(session, signers or (OLD,), now)


def opened(db: Database, found: Issued) -> Head:
    """As an auditor with the ring does it."""
    with db.session_factory() as session:
        return open_checkpoint(found.note, keys.ring(session).keys)


def test_a_checkpoint_is_of_the_tree_over_all_that_has_a_number(db: Database) -> None:
    add(db, *range(21))
    found = issue(db)
    leaves = [leaf for _, _, leaf in numbered(db)]
    assert opened(db, found) == Head(ORIGIN, 21, tree_hash(leaves))
    with db.session_factory() as session:
        stored = checkpoints.last(session)
    assert (stored.size, stored.root, stored.note) == (21, tree_hash(leaves), found.note)


def test_an_empty_log_is_not_signed(db: Database) -> None:
    with pytest.raises(NoCheckpointYet), transaction(db) as session:
        issue_checkpoint(session, [OLD], NOW)


def test_it_is_signed_anew_when_it_grew_after_a_day_or_by_other_keys_and_else_not(db: Database) -> None:
    add(db, 1)
    first = issue(db)
    number_all(db)  # the leaf about the key
    grown = issue(db)
    assert (first.size, grown.size, grown.fresh) == (1, 2, True)
    again = issue(db, now=NOW + timedelta(hours=23))
    assert (again.note, again.fresh) == (grown.note, False)
    later = issue(db, now=NOW + timedelta(days=1))
    assert (later.size, later.fresh) == (2, True)
    both = issue(db, OLD, NEW, now=NOW + timedelta(days=1))
    assert (both.size, both.fresh) == (2, True)


def test_during_a_rotation_both_keys_sign_and_either_verifies(db: Database) -> None:
    add(db, 1)
    issue(db)
    found = issue(db, OLD, NEW)
    with db.session_factory() as session:
        ring = keys.ring(session).keys
    assert len(ring) == 2
    assert {open_checkpoint(found.note, [key]) for key in ring} == {opened(db, found)}


def test_what_a_retired_key_signed_goes_on_to_count_and_it_signs_no_more(db: Database) -> None:
    add(db, 1)
    found = issue(db)
    with transaction(db) as session:
        keys.end(session, OLD.key_id, NOW, revoked=False)
    assert opened(db, found).size == 1
    with pytest.raises(NoSigningKey, match="retired or revoked"):
        issue(db)
    assert issue(db, OLD, NEW).note.count(b"\xe2\x80\x94") == 1


def test_nothing_that_a_revoked_key_signed_counts_and_the_next_key_signs_the_same_log(db: Database) -> None:
    add(db, 1)
    found = issue(db)
    with transaction(db) as session:
        keys.end(session, OLD.key_id, NOW, revoked=True)
    with pytest.raises(Rejected, match="revoked"):
        opened(db, found)
    with pytest.raises(NoSigningKey, match="retired or revoked"):
        issue(db)
    assert opened(db, issue(db, NEW)).size == 3  # what happened, the key that was added, its revocation
    with db.session_factory() as session:
        events = session.scalars(text("SELECT event FROM audit WHERE event LIKE 'log_key.%' ORDER BY id")).all()
    assert events == ["log_key.added", "log_key.revoked", "log_key.added"]


def test_a_key_that_is_not_there_is_not_ended(db: Database) -> None:
    with pytest.raises(NoSuchLogKey), transaction(db) as session:
        keys.end(session, "00000000", NOW, revoked=True)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log_leaf SET hash = sha256('other') WHERE position = 3",
        "DELETE FROM log_leaf WHERE position = 20",
        "UPDATE log_node SET hash = sha256('other') WHERE level = 4",
    ],
)
def test_a_log_whose_past_was_changed_is_not_signed(db: Database, statement: str) -> None:
    add(db, *range(21))
    issue(db)
    if "log_leaf SET" in statement:  # leaves below a stored node are looked at by `verify`, not here
        statement += " OR position = 20"
    with transaction(db) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("DELETE FROM audit_pending"))
        session.execute(text(statement))
    with pytest.raises(LogForked), transaction(db) as session:
        issue_checkpoint(session, [OLD, NEW], NOW)


def test_a_log_keeps_its_name(db: Database) -> None:
    add(db, 1)
    issue(db)
    with pytest.raises(OtherOrigin, match=ORIGIN):
        issue(db, Ed25519Signer.new("another.example.com"))


def test_a_log_of_development_gets_a_name_that_counts_once(db: Database) -> None:
    add(db, 1)
    with pytest.warns(UnsafeKey):
        unsafe = signing.load_signers(Settings(signing_unsafe=True))
    found = issue(db, *unsafe)
    assert opened(db, found).origin == f"unsafe-{signing.DEVELOPMENT_ORIGIN}"
    add(db, 2)
    assert opened(db, issue(db)).origin == ORIGIN


def pem_file(path: Path, *signers: Ed25519Signer, mode: int = 0o600) -> Path:
    signing.write_key(path, signers)
    path.chmod(mode)
    return path


def test_keys_come_from_a_file_or_the_environment_in_their_order(tmp_path: Path) -> None:
    path = pem_file(tmp_path / "key.pem", OLD, NEW)
    by_file = signing.load_signers(Settings(log_origin=ORIGIN, signing_key_file=path))
    by_text = signing.load_signers(
        Settings(log_origin=ORIGIN, signing_key=path.read_text(encoding="ascii").replace("\n", "\\n"))
    )
    for found in (by_file, by_text):
        assert [signer.public for signer in found] == [OLD.public, NEW.public]
        assert {signer.name for signer in found} == {ORIGIN}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "neither"),
        ({"signing_key": OLD.pem().decode()}, "GRAIL_LOG_ORIGIN is not set"),
        ({"signing_key": "nothing", "log_origin": ORIGIN}, "holds 0 keys"),
        ({"signing_key": OLD.pem().decode() * 2, "log_origin": ORIGIN}, "twice"),
        ({"signing_key": OLD.pem().decode() * 17, "log_origin": ORIGIN}, "holds 17 keys"),
        ({"signing_key": OLD.pem().decode(), "log_origin": "two words"}, "name has no space"),
        ({"signing_key_file": Path("nowhere"), "log_origin": ORIGIN}, "can not be read"),
    ],
)
def test_what_can_not_sign_is_refused_without_a_part_of_it(more: dict[str, object], said: str) -> None:
    with pytest.raises(NoSigningKey, match=said) as caught:
        signing.load_signers(Settings(**more))  # type: ignore[arg-type]
    assert caught.value.how_to_mend
    assert "MC4CAQ" not in str(caught.value.problem())


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = pem_file(tmp_path / "key.pem", OLD, mode=mode)
    with pytest.raises(NoSigningKey, match="others may read or change it"):
        signing.load_signers(Settings(log_origin=ORIGIN, signing_key_file=path))


def test_an_embedded_service_makes_its_key_once(tmp_path: Path) -> None:
    path = signing.ensure_file(tmp_path)
    made = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing.ensure_file(tmp_path).read_bytes() == made
    assert [entry.name for entry in tmp_path.iterdir()] == [signing.FILE]
    assert len(signing.load_signers(Settings(log_origin=ORIGIN, signing_key_file=path))) == 1
