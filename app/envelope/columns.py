"""Sealed columns: an attribute that reads and takes plain values, over a column of sealed bytes.

    class Note(Base):
        id: Mapped[Id]
        request_id: Mapped[uuid.UUID]
        text_sealed: Mapped[bytes | None] = mapped_column(SealedBytes)
        text = Sealed(keys=("request_id",))

`note.text = "..."` is sealed at the flush, `note.text` opened at each reading; the session needs a codec (`attach`).
Nothing but sealed bytes can reach the database: the column refuses anything else. Lists call `warm` first, rows that
are inserted as dictionaries go through `seal_rows`: each asks the key store once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from sqlalchemy import LargeBinary, event, inspect
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Session, object_session, sessionmaker
from sqlalchemy.types import TypeDecorator

from app.envelope.codec import TEXT, Codec, Kind, Spot, sealed
from app.envelope.sealing import DataKey, Place, check_form, nonces
from app.ids import new_id

CODEC = "envelope"
"""Name of the codec in a session's `info`."""
WAITING = b""
"""In the column while its value waits for the flush: no sealed bytes, so that the column would refuse it."""
PLAIN = "_waits_to_be_sealed"
KEY_ID = "key_id"
"""The attribute of rows that have no other's key."""


class SealedBytes(TypeDecorator[bytes]):
    """Bytes in the form of sealed content, and no others."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """Raises Malformed for what is not sealed."""
        if value is not None:
            check_form(value)
        return value


class Sealed:
    """A plain attribute over `<name>_sealed`. `keys` names the attributes that hold the id of the row's key: the first
    that is not None; a row whose `KEY_ID` is None gets a key of its own. `plain` names the attribute of plain values
    that is read where nothing was sealed yet."""

    def __init__(self, keys: Sequence[str], kind: Kind = TEXT, plain: str | None = None) -> None:
        self.keys, self.kind, self.plain = tuple(keys), kind, plain
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def column(self) -> str:
        """The attribute that holds the sealed bytes."""
        return f"{self.name}_sealed"

    def __get__(self, row: Any, of: type | None = None) -> Any:
        if row is None:
            return self
        value = getattr(row, self.column)
        if value == WAITING:
            return vars(row)[PLAIN][self.name]
        if value is None:
            return None if self.plain is None else getattr(row, self.plain)
        return codec_of(object_session(row)).open_one(self.spot(row), value, self.kind)

    def __set__(self, row: Any, value: Any) -> None:
        vars(row).setdefault(PLAIN, {})[self.name] = value
        setattr(row, self.column, None if value is None else WAITING)
        if self.plain is not None:
            setattr(row, self.plain, None)

    def spot(self, row: Any) -> Spot:
        """Where the row's value stands, and the id of its key. Raises ValueError for a row without a key's id."""
        return self._spot(type(row).__tablename__, row.id, (getattr(row, name) for name in self.keys))

    def spot_of(self, model: type[DeclarativeBase], row: Mapping[str, Any]) -> Spot:
        """The same of a row's columns."""
        return self._spot(model.__tablename__, row["id"], map(row.get, self.keys))

    def _spot(self, table: str, row_id: uuid.UUID, key_ids: Iterator[uuid.UUID | None]) -> Spot:
        for key_id in key_ids:
            if key_id is not None:
                return key_id, Place(table, row_id, self.name)
        raise ValueError(f"a row of {table} names no key: one of {', '.join(self.keys)} has to")

    def __clause_element__(self) -> NoReturn:
        raise TypeError(f"{self.name} is sealed: no statement can look at it; keep a blind index beside it")

    def __eq__(self, other: object) -> bool:
        return other is self or self.__clause_element__()

    __hash__ = object.__hash__


_FIELDS: dict[type, Mapping[str, Sealed]] = {}
"""Of each class that was asked for: to look through its attributes takes longer than to seal a row."""


def sealed_fields(model: type) -> Mapping[str, Sealed]:
    """The sealed attributes of a class of rows, by name."""
    found = _FIELDS.get(model)
    if found is None:
        found = {name: one for of in model.__mro__ for name, one in vars(of).items() if isinstance(one, Sealed)}
        _FIELDS[model] = found
    return found


def seal_rows(
    codec: Codec,
    model: type[DeclarativeBase],
    rows: Iterable[Mapping[str, Any]],
    held: Mapping[uuid.UUID, DataKey] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Rows for an INSERT: each sealed field replaced by its column. They need their ids already. `held` are keys that
    the caller has at hand, by their ids."""
    made, fields = [dict(row) for row in rows], sealed_fields(model).values()
    placed = [(row, one, one.spot_of(model, row)) for row in made for one in fields if one.name in row]
    lacking = {key_id for _, _, (key_id, _) in placed} - held.keys()
    keys = {**codec.keyring.create(lacking), **held} if lacking else held
    for (row, one, spot), nonce in zip(placed, nonces(len(placed)), strict=True):
        value = row.pop(one.name)
        row[one.column] = None if value is None else sealed(keys, spot, value, one.kind, nonce)
    return made


def warm(session: Session, rows: Collection[DeclarativeBase]) -> Collection[uuid.UUID]:
    """Fetch the keys of rows that are about to be read in one question; those that were not destroyed."""
    wanted = {
        field.spot(row)[0]
        for row in rows
        for field in sealed_fields(type(row)).values()
        if getattr(row, field.column) is not None
    }
    return codec_of(session).warm(wanted)


def attach(sessions: sessionmaker[Session], codec: Callable[[], Codec]) -> None:
    """Give every session of a factory the codec, which is asked for once something is to be sealed or opened, and seal
    what waits before it is flushed."""
    sessions.configure(info={**(sessions.kw.get("info") or {}), CODEC: codec})
    event.listen(sessions, "before_flush", _seal_what_waits)


def codec_of(session: Session | None) -> Codec:
    """The codec of a session. Raises RuntimeError without one: nothing is read or written plain instead."""
    found: Callable[[], Codec] | None = None if session is None else session.info.get(CODEC)
    if found is None:
        raise RuntimeError("sealed content needs a row in a session with a codec: app.envelope.columns.attach")
    return found()


def _seal_what_waits(session: Session, *_: Any) -> None:
    rows = [row for row in (*session.new, *session.dirty) if vars(row).get(PLAIN)]
    if not rows:
        return
    codec, fresh = codec_of(session), list[DataKey]()
    for row in rows:
        if row.id is None and inspect(row).transient | inspect(row).pending:
            row.id = new_id()
        if getattr(row, KEY_ID, row) is None:
            fresh.append(codec.keyring.fresh())
            row.key_id = fresh[-1].id
    spots = [
        (row, field, field.spot(row), value)
        for row in rows
        for name, value in vars(row)[PLAIN].items()
        for field in (sealed_fields(type(row))[name],)
        if getattr(row, field.column) == WAITING  # what was rolled back, or set to None since, does not wait
    ]
    held = {key.id: key for key in fresh}
    keys = {**codec.keyring.create({spot[0] for _, _, spot, _ in spots} - held.keys()), **held}
    for row, field, spot, value in spots:
        setattr(row, field.column, sealed(keys, spot, value, field.kind))
    for row in rows:
        del vars(row)[PLAIN]
