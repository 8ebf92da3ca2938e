"""API keys: shown once, kept as a hash, revoked for good."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.auth import FORM, Principal, Role, authenticate, hash_key, new_key
from app.errors import NotFound, Unauthorised
from app.ids import new_id
from app.keys.service import create_key, list_keys, revoke_key
from app.tables import Audit


def test_a_key_opens_and_its_holder_is_known(session: Session) -> None:
    row, plaintext = create_key(session, "case desk", Role.OFFICER)
    assert FORM.fullmatch(plaintext)
    assert plaintext.startswith(f"grail_{row.prefix}_")
    assert authenticate(session, plaintext) == Principal(row.id, "case desk", Role.OFFICER)


def test_the_database_holds_no_key(session: Session) -> None:
    row, plaintext = create_key(session, "n", Role.ADMIN)
    stored = str(session.execute(text("SELECT key::text FROM key")).all())
    secret = plaintext.split("_", 2)[2]
    assert secret not in stored
    assert row.hash == hashlib.sha256(plaintext.encode()).hexdigest() == hash_key(plaintext)
    leaf = session.scalars(select(Audit.leaf).where(Audit.event == "key.created")).one()
    assert secret.encode() not in leaf and row.prefix.encode() not in leaf


def test_keys_differ_and_are_long_enough_not_to_be_guessed() -> None:
    made = [new_key() for _ in range(200)]
    assert len({plaintext for _, plaintext, _ in made}) == 200
    assert all(len(plaintext.split("_", 2)[2]) >= 43 for _, plaintext, _ in made)


def test_a_revoked_key_opens_nothing_and_stays_listed(session: Session) -> None:
    row, plaintext = create_key(session, "leaver", Role.ADMIN)
    stays, other = create_key(session, "stays", Role.REQUESTER)
    at = datetime(2026, 11, 24, tzinfo=UTC)
    assert revoke_key(session, row.prefix, at).revoked_at == at
    with pytest.raises(Unauthorised):
        authenticate(session, plaintext)
    assert authenticate(session, other).key_id == stays.id
    assert [key.id for key in list_keys(session)] == [row.id, stays.id]


def test_revoking_again_changes_nothing(session: Session) -> None:
    row, _ = create_key(session, "leaver", Role.ADMIN)
    first = revoke_key(session, row.prefix).revoked_at
    assert revoke_key(session, row.prefix).revoked_at == first
    assert session.scalars(select(Audit.event).where(Audit.event == "key.revoked")).all() == ["key.revoked"]


def test_a_prefix_that_is_none_is_not_found(session: Session) -> None:
    with pytest.raises(NotFound, match="prefix"):
        revoke_key(session, "00000000")


@pytest.mark.parametrize(
    "plaintext", [None, "", "grail", "grail_", "grail__", "grail_0", "x_00000000_y", "_" * 9, "ä" * 99]
)
def test_what_is_no_key_is_refused(session: Session, plaintext: str | None) -> None:
    with pytest.raises(Unauthorised):
        authenticate(session, plaintext)


@pytest.mark.parametrize("role", list(Role))
def test_an_admin_is_everything_and_the_others_only_themselves(role: Role) -> None:
    who = Principal(new_id(), "n", role)
    for asked in Role:
        assert who.is_any_of(asked) == (role in {asked, Role.ADMIN})
