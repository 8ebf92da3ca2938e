"""Sealed columns on real tables: plain attributes for features, sealed bytes for whoever has the rows."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ForeignKey, MetaData, String, insert, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from app.db import Database
from app.envelope.codec import JSON, Codec
from app.envelope.columns import Sealed, SealedBytes, attach, codec_of, seal_rows, warm
from app.envelope.errors import ContentDestroyed, Malformed, WrongKeyOrPlace
from app.envelope.keyring import Keyring
from app.ids import new_id
from app.tables.base import Id

NAME = "Brandmayr"


class Base(DeclarativeBase):
    """Tables of this test alone."""

    metadata = MetaData()


class Case(Base):
    """A request, with a column of plain notes from before."""

    __tablename__ = "case"

    id: Mapped[Id]
    note_plain: Mapped[str | None] = mapped_column(String(2000))
    note_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    note = Sealed(keys=("id",), plain="note_plain")


class Line(Base):
    """One of its items; without a request it is under a key that it names."""

    __tablename__ = "line"

    id: Mapped[Id]
    case_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("case.id"))
    key_id: Mapped[uuid.UUID | None]
    prompt_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    facts_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
    prompt = Sealed(keys=("case_id", "key_id"))
    facts = Sealed(keys=("case_id", "key_id"), kind=JSON)


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """Of one kind: what differs between the two is tested beside the store."""
    return f"sqlite:///{tmp_path / 'keys.sqlite3'}"


@pytest.fixture
def sessions(db: Database, keyring: Keyring) -> Iterator[sessionmaker[Session]]:
    Base.metadata.create_all(db.engine)
    made = sessionmaker(db.engine, expire_on_commit=False)
    codec = Codec(keyring)
    attach(made, lambda: codec)
    yield made
    Base.metadata.drop_all(db.engine)


@pytest.fixture
def case(sessions: sessionmaker[Session]) -> uuid.UUID:
    """A case with a note and a line."""
    with sessions.begin() as session:
        made = Case(note=f"{NAME} called")
        session.add(made)
        session.flush()
        session.add(Line(case_id=made.id, prompt=f"Where does {NAME} live?", facts=[NAME, "é"]))
        return made.id


def dump(session: Session) -> str:
    """All that the tables hold, bytes in every way in which they could be read."""
    rows = [
        *session.execute(text('SELECT * FROM "case"')).all(),
        *session.execute(text("SELECT * FROM line")).all(),
    ]
    values = (value for row in rows for value in row)
    return " ".join(one.decode("latin-1") if isinstance(one, bytes) else str(one) for one in values)


def test_attributes_are_plain_and_columns_sealed(sessions: sessionmaker[Session], case: uuid.UUID) -> None:
    with sessions() as session:
        found, line = session.get_one(Case, case), session.scalars(select(Line)).one()
        assert found.note == f"{NAME} called"
        assert (line.prompt, line.facts) == (f"Where does {NAME} live?", [NAME, "é"])
        assert str(case) in dump(session)
        assert NAME not in dump(session)


def test_a_change_is_sealed_anew_and_none_stays_none(sessions: sessionmaker[Session], case: uuid.UUID) -> None:
    with sessions.begin() as session:
        session.get_one(Case, case).note = "changed"
        assert session.get_one(Case, case).note == "changed", "before the flush, too"
    with sessions.begin() as session:
        found = session.get_one(Case, case)
        assert found.note == "changed"
        found.note = None
    with sessions() as session:
        assert (session.get_one(Case, case).note, session.get_one(Case, case).note_sealed) == (None, None)


def test_a_plain_value_from_before_is_read_until_it_is_sealed(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        made = Case(note_plain="old")
        session.add(made)
    with sessions.begin() as session:
        found = session.get_one(Case, made.id)
        assert (found.note, found.note_sealed) == ("old", None)
        found.note = found.note
    with sessions() as session:
        found = session.get_one(Case, made.id)
        assert (found.note, found.note_plain) == ("old", None)


@pytest.mark.parametrize(
    "swap",
    [
        "UPDATE line SET prompt_sealed = (SELECT prompt_sealed FROM line WHERE id = :other) WHERE id = :mine",
        "UPDATE line SET prompt_sealed = facts_sealed WHERE id = :mine",
        "UPDATE line SET case_id = (SELECT case_id FROM line WHERE id = :other) WHERE id = :mine",
    ],
    ids=["another row's", "another field's", "another request's"],
)
def test_sealed_values_can_not_be_swapped(sessions: sessionmaker[Session], case: uuid.UUID, swap: str) -> None:
    with sessions.begin() as session:
        session.add(other_case := Case(note="n"))
        session.flush()
        session.add(other := Line(case_id=other_case.id, prompt="p", facts=["f"]))
        mine = session.scalars(select(Line.id).where(Line.case_id == case)).one()
    with sessions.begin() as session:
        session.execute(text(swap), {"mine": mine, "other": other.id})
    with sessions() as session, pytest.raises(WrongKeyOrPlace):
        _ = session.get_one(Line, mine).prompt


@pytest.mark.parametrize("value", [b"", NAME.encode() * 9, b"\x02" * 50])
def test_a_column_takes_nothing_plain(sessions: sessionmaker[Session], case: uuid.UUID, value: bytes) -> None:
    with sessions() as session, pytest.raises(StatementError) as refused:
        session.execute(insert(Line), [{"id": new_id(), "case_id": case, "prompt_sealed": value}])
    assert isinstance(refused.value.orig, Malformed)
    assert NAME not in str(refused.value)


def test_without_a_codec_nothing_is_read_or_written(
    db: Database, sessions: sessionmaker[Session], case: uuid.UUID
) -> None:
    plain = sessionmaker(db.engine)
    with plain() as session:
        with pytest.raises(RuntimeError, match="codec"):
            _ = session.get_one(Case, case).note
        session.add(Case(note=NAME))
        with pytest.raises(StatementError) as refused:
            session.flush()
    assert isinstance(refused.value.orig, Malformed)
    assert NAME not in str(refused.value)


def test_no_statement_can_look_at_a_sealed_attribute() -> None:
    for wrong in (lambda: Case.note == "x", lambda: select(Case).where(Case.note == "x"), lambda: select(Case.note)):  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="blind index"):
            wrong()


def test_a_row_that_names_no_key_gets_one_of_its_own(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        session.add_all(lines := [Line(prompt="p"), Line(prompt="p")])
        session.commit()
        assert {line.prompt for line in lines} == {"p"}
        assert len({line.key_id for line in lines} - {None}) == 2
    with pytest.raises(ValueError, match="names no key"):
        seal_rows(codec_of(session), Line, [{"id": new_id(), "prompt": "p"}])


def test_no_nonce_is_used_twice(keyring: Keyring) -> None:
    case = new_id()
    rows = [{"id": new_id(), "case_id": case, "prompt": "the same", "facts": ["the same"]} for _ in range(200)]
    sealed = [row[name] for row in seal_rows(Codec(keyring), Line, rows) for name in ("prompt_sealed", "facts_sealed")]
    assert len({value[1:13] for value in sealed}) == len(sealed) == 400


def rows_of(cases: list[uuid.UUID]) -> list[dict[str, Any]]:
    return [
        {"id": new_id(), "case_id": case, "prompt": f"{NAME} {number}", "facts": None if number else [NAME]}
        for case in cases
        for number in range(3)
    ]


def test_a_thousand_rows_ask_the_key_store_once_each_way(
    sessions: sessionmaker[Session], keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("get", "add"):
        real = getattr(keyring.store, name)
        monkeypatch.setattr(
            keyring.store, name, lambda *given, name=name, real=real: (asked.append(name), real(*given))[1]
        )
    cases = [new_id() for _ in range(300)]
    with sessions.begin() as session:
        session.execute(insert(Case), [{"id": case} for case in cases])
        session.execute(insert(Line), seal_rows(Codec(keyring), Line, rows_of(cases)))
    assert asked == ["add"]
    keyring.clear()
    with sessions() as session:
        found = session.scalars(select(Line).order_by(Line.id)).all()
        assert warm(session, found) == set(cases)
        assert {line.prompt for line in found} == {f"{NAME} {number}" for number in range(3)}
        assert sum(line.facts == [NAME] for line in found) == len(cases)
        assert NAME not in dump(session)
    assert asked == ["add", "get"]


def test_what_was_shredded_can_not_be_read_and_the_rest_can(
    sessions: sessionmaker[Session], keyring: Keyring, case: uuid.UUID
) -> None:
    with sessions.begin() as session:
        session.add(kept := Case(note="stays"))
    keyring.destroy([case])
    with sessions() as session:
        found = session.scalars(select(Case)).all()
        assert warm(session, found) == {kept.id}
        assert session.get_one(Case, kept.id).note == "stays"
        with pytest.raises(ContentDestroyed):
            _ = session.get_one(Case, case).note
        with pytest.raises(ContentDestroyed):
            session.get_one(Case, case).note = "again"
            session.flush()


def test_what_was_rolled_back_leaves_neither_value_nor_fault(sessions: sessionmaker[Session], case: uuid.UUID) -> None:
    with sessions() as session:
        found = session.get_one(Case, case)
        found.note = "never"
        session.flush()
        session.rollback()
        assert found.note == f"{NAME} called"
        found.note = "never flushed"
        session.rollback()
        assert found.note == f"{NAME} called"
