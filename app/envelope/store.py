"""The key store: wrapped secrets of requests, outside of the database of their content.

It is any database that its URL names (`GRAIL_KEY_STORE_URL`): a second Postgres where there are several hosts, a file
of SQLite where there is one. Its backups are its own and short-lived. To destroy a key is to append it to the list of
destroyed keys (`app.envelope.tombstones`) and to carry that list out from where this store stands in it; to open a
store is to carry it out, too. So one that was restored from a backup destroys again what was destroyed meanwhile,
before it gives out any key.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app import private_files
from app.envelope import repository
from app.envelope.errors import KeyStoreAway, KeyStoreDamaged, NoKeyEncryptionKey, TombstonesDamaged
from app.envelope.kms import KeyManagement, Wrapped
from app.envelope.tombstones import Tombstone, TombstoneFile
from app.errors import ServiceError

AT_ONCE = 1000
SQLITE = "sqlite"


@dataclass(frozen=True, slots=True)
class Destroyed:
    """What an audit leaf says of a key that was destroyed. `kek_version` 0: there was no key."""

    key_id: uuid.UUID
    at_ms: int
    kek_version: int


class KeyStore:
    """Wrapped secrets and tombstones. Safe between threads, processes and hosts, and against death at any line."""

    def __init__(self, url: str, tombstones: TombstoneFile, *, timeout_seconds: int = 10, pool_size: int = 10) -> None:
        self.tombstones = tombstones
        self.engine = _engine(url, timeout_seconds, pool_size)

    def open(self) -> KeyStore:
        """Make the tables and carry out what the list names: to be called before anything else. Raises KeyStoreAway,
        TombstonesDamaged."""
        with self._transaction() as connection:
            repository.create_tables(connection)
        self.replay()
        return self

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def add(self, wrapped: Mapping[uuid.UUID, Wrapped], now_ms: int) -> set[uuid.UUID]:
        """Keep keys under ids that have none and never had one. Which were kept. Raises KeyStoreAway."""
        kept: set[uuid.UUID] = set()
        for ids in _chunks(wrapped):
            with self._transaction() as connection:
                kept |= repository.add(connection, {key_id: wrapped[key_id] for key_id in ids}, now_ms)
        return kept

    def get(self, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Wrapped | Tombstone]:
        """The key or the tombstone of each id that has one. Raises KeyStoreAway."""
        found: dict[uuid.UUID, Wrapped | Tombstone] = {}
        for chunk in _chunks(ids):
            with self._transaction() as connection:
                rows = repository.find(connection, chunk)
            for row in rows:
                is_there = row.wrapped is not None
                found[row.id] = (
                    Wrapped(row.kek_version, row.wrapped) if is_there else Tombstone(row.id, row.destroyed_ms)
                )
        return found

    def destroy(self, ids: Collection[uuid.UUID], now_ms: int) -> list[Destroyed]:
        """Destroy keys for good, each with a tombstone, also where there was no key. Those that were destroyed before
        keep their time. Raises KeyStoreAway; what was destroyed until then stays so."""
        found: list[Destroyed] = []
        for chunk in _chunks(sorted(set(ids))):
            known = self.get(chunk)
            new = [key_id for key_id in chunk if not isinstance(known.get(key_id), Tombstone)]
            self.tombstones.append([Tombstone(key_id, now_ms) for key_id in new])  # a promise, whoever keeps it
            self.replay()
            with self._transaction() as connection:
                rows = repository.find(connection, chunk)
            found += [Destroyed(row.id, row.destroyed_ms, row.kek_version) for row in rows]
        return found

    def replay(self) -> int:
        """Carry out what the list names and this store has not: after a restore, or after a process that died between
        the two. How many records were looked at. Raises KeyStoreAway, TombstonesDamaged."""
        with self._transaction() as connection:
            done, last = repository.mark(connection)
        if done and self.tombstones.record(done) != last.encode():
            raise TombstonesDamaged("it does not go on from what this store knows of it: it is older, or another's")
        looked_at = 0
        for tombstones in self.tombstones.read(done):
            looked_at += len(tombstones)
            with self._transaction() as connection:
                repository.destroy(connection, {one.key_id: one.at_ms for one in reversed(tombstones)})
                repository.set_mark(connection, done + looked_at, tombstones[-1].record().decode())
        if looked_at:
            self._forget_pages()
        return looked_at

    def export(self) -> int:
        """Write tombstones that the list lacks into it: where it was lost, into a new one. How many those were. Raises
        KeyStoreAway, TombstonesDamaged."""
        known = {one.key_id for tombstones in self.tombstones.read() for one in tombstones}
        after, count = None, 0
        while True:
            with self._transaction() as connection:
                rows = repository.destroyed(connection, after, AT_ONCE)
            if not rows:
                break
            after = rows[-1].id
            lacking = [Tombstone(row.id, row.destroyed_ms) for row in rows if row.id not in known]
            self.tombstones.append(lacking)
            count += len(lacking)
        with self._transaction() as connection:
            repository.set_mark(connection, 0, "", back=True)
        self.replay()
        return count

    def rewrap(self, keys: KeyManagement, at_once: int = 500) -> Iterator[int]:
        """Wrap every key anew that is not wrapped by the current version, without touching content: how many, chunk by
        chunk. Can be broken off and begun again at any time. Raises KeyStoreAway, NoKeyEncryptionKey (at once, if a
        version that is needed is missing), WrappedUnreadable."""
        missing = self.versions().keys() - set(keys.versions)
        if missing:
            raise NoKeyEncryptionKey(f"version {min(missing)} wraps keys of content and is not set")
        after: tuple[int, uuid.UUID] | None = None
        while True:
            with self._transaction() as connection:
                rows = repository.wrapped_otherwise(connection, keys.current, after, at_once)
            if not rows:
                return
            after = rows[-1].kek_version, rows[-1].id
            secrets = keys.unwrap([(Wrapped(row.kek_version, row.wrapped), row.id.bytes) for row in rows])
            wrapped = keys.wrap([(secret, row.id.bytes) for secret, row in zip(secrets, rows, strict=True)])
            with self._transaction() as connection:
                changed = repository.replace(connection, list(zip(rows, wrapped, strict=True)))
            yield changed

    def versions(self) -> dict[int, int]:
        """How many keys each version wraps: one that wraps none may be taken out. Raises KeyStoreAway."""
        with self._transaction() as connection:
            return repository.versions(connection)

    def _forget_pages(self) -> None:
        """SQLite: what was overwritten leaves the log of changes as well. Another's open transaction may prevent it."""
        if self.engine.dialect.name == SQLITE:
            with self._transaction() as connection:
                connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except (OperationalError, InterfaceError, PoolTimeout):
            raise KeyStoreAway("the key store does not answer") from None
        except sqlite3.DatabaseError as error:  # while a connection is made
            raise _what_is_wrong(error) from None
        except DatabaseError as error:
            if type(error.orig) is not sqlite3.DatabaseError:
                raise
            raise _what_is_wrong(error.orig) from None


def _what_is_wrong(error: sqlite3.DatabaseError) -> ServiceError:
    if isinstance(error, sqlite3.OperationalError):
        return KeyStoreAway("the key store does not answer")
    return KeyStoreDamaged("SQLite can not read it")


def _engine(url: str, timeout_seconds: int, pool_size: int) -> Engine:
    parsed = make_url(url.replace("postgresql://", "postgresql+psycopg://", 1))
    is_file = parsed.get_backend_name() == SQLITE
    if is_file:
        _make_private(Path(parsed.database or ""))
        arguments: dict[str, Any] = {"timeout": timeout_seconds}
    else:
        arguments = {"connect_timeout": timeout_seconds, "application_name": "grail keys"}
    engine = create_engine(
        parsed, pool_pre_ping=not is_file, pool_size=pool_size, max_overflow=pool_size, pool_timeout=timeout_seconds,
        hide_parameters=True, connect_args=arguments,
    )  # fmt: skip
    if is_file:
        event.listen(engine, "connect", _as_safe_as_it_can_be)
    return engine


def _make_private(path: Path) -> None:
    """SQLite would make the file readable for everybody.

    One that is there is not opened: to close it again would drop the locks that this process has on it by way of SQLite
    (POSIX; https://sqlite.org/howtocorrupt.html, 2.2). Another process then takes itself for the last one and removes
    the log of changes, with keys in it that somebody seals with.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    private_files.ensure(path, bytes)


def _as_safe_as_it_can_be(connection: Any, _: Any) -> None:
    """On the disk at each commit, and what is deleted is overwritten."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _chunks(ids: Iterable[uuid.UUID]) -> Iterator[Sequence[uuid.UUID]]:
    stream = iter(ids)
    while chunk := list(islice(stream, AT_ONCE)):
        yield chunk
