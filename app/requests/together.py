"""Requests that come while others are being stored are stored together, in one statement and one commit, and each is
answered after the commit that holds it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from fastapi.concurrency import run_in_threadpool

from app.db import Database, at_once
from app.gathering import Gathering
from app.requests import intake
from app.requests import intake_repository as repository
from app.requests.intake import Asked, Rows
from app.requests.intake_repository import Asker

MOST = 32
"""Requests in one transaction: a limit for how long one waits for those before it, and for locks held at once."""
Line = tuple[uuid.UUID, str]
"""A served model and its terms: whom requests are stored together with. Other models do not wait for this one's."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked and sealed, and is not stored yet."""

    asked: Asked
    asker: Asker
    rows: Rows


class Together:
    """The lines of one process."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._lines: dict[Line, Gathering[Prepared, str | None]] = {}

    async def store(self, line: Line, prepared: Prepared) -> str | None:
        """The revision under which it is stored; None, with nothing stored, where something has to be decided.

        Raises Unavailable, as for every one that was stored with it: it may then be there.
        """
        found = self._lines.get(line)
        if found is None:
            found = self._lines[line] = Gathering(lambda some: self._store(line, some), most=MOST)
        try:
            return await found.answer(prepared)
        finally:
            if found.idle and self._lines.get(line) is found:  # another may have begun in its place
                del self._lines[line]

    async def _store(self, line: Line, some: Sequence[Prepared]) -> list[str | None]:
        revisions = await run_in_threadpool(_store, self.db, line, some)
        return [revisions.get(one.asker.id) for one in some]


def _store(db: Database, line: Line, some: Sequence[Prepared]) -> dict[uuid.UUID, str]:
    """Revisions by id of those that are stored. Raises Unavailable."""
    rows = intake.as_json(*(one.rows for one in some))
    with at_once(db, changes=True) as connection:
        try:
            return repository.receive(connection, *line, [one.asker for one in some], rows)
        except psycopg.Error as error:
            if error.sqlstate is None:  # the connection broke
                raise
            return {}  # the database refused one of them, and stored none: each by itself is told why
