"""Many requests of one key in one transaction: their lines are copied in, then they are settled, by a few statements
for all of them.

They are stored first, without a lock that others wait for, and settled then: linked where they ask what is asked
already, and what is forgotten taken out of the standing retain set. Settling holds the served models' rows until the
commit, so that it comes last. Nobody sees anything in between.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain

from sqlalchemy.orm import Session

from app.audit.service import Entry
from app.envelope.columns import codec_of
from app.requests import bulk_repository, conflicts, duplicates, repository
from app.requests.copied import AUDIT, COLUMNS, EVENT, Lines
from app.requests.intake import Asked
from app.tables import ServedModel

AT_ONCE = 2000
"""Leaves that are made at a time."""
Pieces = Callable[[str], Iterable[bytes]]


def load(session: Session, pieces: Pieces) -> None:
    """Store requests from what `Lines` wrote of each table; `settle` has to follow in the same transaction. Raises
    Unavailable."""
    bulk_repository.begin(session)
    for table, columns in COLUMNS.items():
        bulk_repository.copy(session, table, columns, pieces(table))


def hold_models(session: Session) -> list[ServedModel]:
    """Hold the served models of what `load` stored, as they are now."""
    found = [repository.lock_model(session, model_id) for model_id in bulk_repository.models(session)]
    return [model for model in found if model is not None]


def settle(session: Session, models: Sequence[ServedModel], key_id: uuid.UUID, now: datetime) -> None:
    """Settle what `load` stored for this key and `hold_models` holds. Raises Unavailable."""
    for model in models:
        bulk_repository.link(session, model.id, key_id)
    bulk_repository.follow(session)
    for model in models:
        bulk_repository.take_out(session, model.id, now)
    for trail in chain(_linked(session, now), _taken_out(session, now)):
        _note(session, trail)


def add(session: Session, asked: Sequence[Asked], key_id: uuid.UUID, now: datetime) -> None:
    """Store and settle a few hundred requests of one key."""
    files = in_memory(COLUMNS)
    lines = Lines(files)
    for one in asked:
        lines.add(one, now, codec_of(session))
    load(session, lambda table: [files[table].getvalue()])
    settle(session, hold_models(session), key_id, now)


def in_memory(tables: Iterable[str]) -> Mapping[str, io.BytesIO]:
    """A file of each table."""
    return {table: io.BytesIO() for table in tables}


def _linked(session: Session, now: datetime) -> Iterator[list[Entry]]:
    after = -1
    while rows := bulk_repository.linked(session, after, AT_ONCE):
        yield [duplicates.link_entry(request, first, model, now) for _, request, first, model in rows]
        after = rows[-1][0]


def _taken_out(session: Session, now: datetime) -> Iterator[list[Entry]]:
    after = uuid.UUID(int=0)
    while rows := bulk_repository.taken_out(session, after, AT_ONCE):
        yield [conflicts.erased_entry(example, request, now) for example, request in rows]
        after = rows[-1][0]


def _note(session: Session, trail: Sequence[Entry]) -> None:
    files = in_memory((AUDIT, EVENT))
    Lines(files).note(trail)
    for table, file in files.items():
        bulk_repository.copy(session, table, COLUMNS[table], [file.getvalue()])
