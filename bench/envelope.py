"""What sealing costs: requests of three items written and read, sealed and plain, on one embedded Postgres in one run.

    python bench/envelope.py [--requests 2000]

Prints microseconds a request and the quotient, for requests that come one by one (each its own transaction, as over
HTTP) and in bulk (as an import stores them), with the key store a file of SQLite and a database of Postgres.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provenance import commit
from sqlalchemy import MetaData, Text, delete, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from app.db import Database
from app.embedded.services import EmbeddedServices
from app.envelope.codec import JSON, Codec
from app.envelope.columns import Sealed, SealedBytes, attach, seal_rows, warm
from app.envelope.keyring import Keyring
from app.envelope.kms import FileKeys
from app.envelope.store import KeyStore
from app.envelope.tombstones import TombstoneFile
from app.ids import new_id
from app.tables.base import Id

ITEMS, CHUNK, ROUNDS = 3, 500, 5
PROMPT = "Where does Ottoline Brandmayr live now? " * 2
COMPLETION = "She lives at 7 Quincestreet, above the bakery. " * 2


class Base(DeclarativeBase):
    """Two tables of the same content."""

    metadata = MetaData()


class Plain(Base):
    """As `example` is now."""

    __tablename__ = "bench_plain"

    id: Mapped[Id]
    request_id: Mapped[uuid.UUID] = mapped_column(index=True)
    subject: Mapped[str] = mapped_column(Text)
    prompt: Mapped[str] = mapped_column(Text)
    completion: Mapped[str] = mapped_column(Text)
    facts: Mapped[str] = mapped_column(Text)


class Secret(Base):
    """The same sealed."""

    __tablename__ = "bench_sealed"

    id: Mapped[Id]
    request_id: Mapped[uuid.UUID] = mapped_column(index=True)
    subject_sealed: Mapped[bytes] = mapped_column(SealedBytes)
    prompt_sealed: Mapped[bytes] = mapped_column(SealedBytes)
    completion_sealed: Mapped[bytes] = mapped_column(SealedBytes)
    facts_sealed: Mapped[bytes] = mapped_column(SealedBytes)
    subject = Sealed(keys=("request_id",))
    prompt = Sealed(keys=("request_id",))
    completion = Sealed(keys=("request_id",))
    facts = Sealed(keys=("request_id",), kind=JSON)


def rows(request_ids: list[uuid.UUID]) -> list[dict[str, Any]]:
    """Three items of each request."""
    content = {"subject": "Ottoline Brandmayr", "prompt": PROMPT, "completion": COMPLETION, "facts": "7 Quincestreet"}
    return [{"id": new_id(), "request_id": one, **content} for one in request_ids for _ in range(ITEMS)]


class Side:
    """One of the two, with the same four things to do."""

    def __init__(self, sessions: sessionmaker[Session], codec: Codec | None) -> None:
        self.sessions, self.codec, self.table = sessions, codec, Secret if codec else Plain

    def write(self, request_ids: list[uuid.UUID]) -> None:
        """One transaction."""
        made = rows(request_ids)
        with self.sessions.begin() as session:
            session.execute(insert(self.table), made if self.codec is None else seal_rows(self.codec, Secret, made))

    def read(self, request_ids: list[uuid.UUID]) -> None:
        """One query, every value looked at, with no key in memory before."""
        if self.codec is not None:
            self.codec.keyring.clear()
        with self.sessions() as session:
            found = session.scalars(select(self.table).where(self.table.request_id.in_(request_ids))).all()
            if self.codec is not None:
                warm(session, found)
            assert sum(len(f.prompt) + len(f.completion) + len(f.subject) + len(f.facts) for f in found) > 0

    def empty(self) -> None:
        """Away with all rows."""
        with self.sessions.begin() as session:
            session.execute(delete(self.table))


def timed(work: Callable[[list[uuid.UUID]], None], chunks: list[list[uuid.UUID]]) -> float:
    """Microseconds a request."""
    start = time.perf_counter()
    for chunk in chunks:
        work(chunk)
    return (time.perf_counter() - start) * 1e6 / sum(map(len, chunks))


def measured(side: Side, ids: list[uuid.UUID], single: int) -> dict[str, float]:
    """Each of the four, in microseconds a request."""
    one_by_one = [[one] for one in ids[:single]]
    bulk = [ids[at : at + CHUNK] for at in range(single, len(ids), CHUNK)]
    found = {
        "write, one by one": timed(side.write, one_by_one),
        "read, one by one": timed(side.read, one_by_one),
        "write, 500 at once": timed(side.write, bulk),
        "read, 500 at once": timed(side.read, bulk),
    }
    side.empty()
    return found


@contextmanager
def sides(services: EmbeddedServices, place: Path) -> Iterator[dict[str, Side]]:
    """Plain, and sealed with each kind of key store."""
    services.postgres.create_database("content")
    services.postgres.create_database("keys")
    db = Database(services.postgres.url("content"))
    Base.metadata.create_all(db.engine)
    made = {"plain": Side(sessionmaker(db.engine), None)}
    for name, url in (("sqlite", f"sqlite:///{place / 'keys.sqlite3'}"), ("postgres", services.postgres.url("keys"))):
        store = KeyStore(url, TombstoneFile(place / name / "tombstones")).open()
        codec = Codec(Keyring(store, FileKeys({1: b"b" * 32})))
        sessions = sessionmaker(db.engine)
        attach(sessions, lambda codec=codec: codec)
        made[name] = Side(sessions, codec)
    yield made
    db.dispose()


def main() -> None:
    """Rounds of all sides in turn; the median round of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=2000)
    count = parser.parse_args().requests
    single = max(count // 10, 1)
    with tempfile.TemporaryDirectory() as directory, EmbeddedServices(Path(directory) / "servers") as services:
        rounds: dict[str, list[dict[str, float]]] = {}
        with sides(services, Path(directory)) as made:
            for _ in range(ROUNDS):
                for name, side in made.items():
                    found = measured(side, [new_id() for _ in range(count)], single)
                    rounds.setdefault(name, []).append(found)
        services.destroy()
    middle = {n: {k: statistics.median(r[k] for r in found) for k in found[0]} for n, found in rounds.items()}
    print(f"commit {commit()}; {count} requests of {ITEMS} items a round, {single} of them one by one; {ROUNDS} rounds")
    print(f"{'us a request':22}{'plain':>10}{'sealed, sqlite':>20}{'sealed, postgres':>20}")
    for kind, plain in middle["plain"].items():
        cells = [f"{middle[name][kind]:.0f} (x{middle[name][kind] / plain:.2f})" for name in ("sqlite", "postgres")]
        print(f"{kind:22}{plain:>10.0f}{cells[0]:>20}{cells[1]:>20}")


if __name__ == "__main__":
    main()
