"""Is the process alive, and can it do its work? The only routes that need no key; they tell nothing but that: neither
names nor paths nor addresses."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from app import queue, schema
from app.audit_log import service as audit_log
from app.bundles import service as bundles
from app.certificates import service as certificates
from app.config import Settings
from app.db import Database
from app.errors import Unavailable
from app.served_models import service as served_models
from app.workers import service as workers

router = APIRouter(tags=["health"])

OK = "ok"
KEPT_SECONDS = 1.0


class Health(BaseModel):
    """Alive."""

    status: str = OK


class Readiness(BaseModel):
    """`checks` names what is missing and how to mend it; `warnings` what callers do not notice yet."""

    ready: bool
    checks: dict[str, str]
    warnings: dict[str, str]


class Kept:
    """What was found a moment ago. Of any number of callers one thread looks, and the others wait for it without one:
    they need no key, and must not become anybody's load."""

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._found: tuple[float, Readiness] | None = None
        self._looking: asyncio.Task[Readiness] | None = None

    async def get(self, look: Callable[[], Readiness]) -> Readiness:
        """What `look` finds, at most KEPT_SECONDS old."""
        if self._found is not None and time.monotonic() - self._found[0] < self._keeps():
            return self._found[1]
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(look))
        return await asyncio.shield(self._looking)

    def _keeps(self) -> float:
        return KEPT_SECONDS if self.seconds is None else self.seconds

    async def _look(self, look: Callable[[], Readiness]) -> Readiness:
        found = await run_in_threadpool(look)
        self._found = (time.monotonic(), found)
        return found


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready"}})
async def readyz(request: Request) -> Any:
    """Database, schema, broker and storage, one by one; served models' files and workers as warnings."""
    app: FastAPI = request.app
    found = await app.state.readiness.get(lambda: _look(app))
    return JSONResponse(found.model_dump(), status_code=200 if found.ready else 503)


def _look(app: FastAPI) -> Readiness:
    settings, db = app.state.settings, app.state.db
    checks, warnings = _database(db, settings)
    checks |= {"broker": _broker(settings), "storage": _storage(settings.data_dir)}
    uncounted = app.state.counting.warning()
    if uncounted:
        warnings["rates"] = uncounted
    return Readiness(ready=all(state == OK for state in checks.values()), checks=checks, warnings=warnings)


def _database(db: Database, settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    try:
        db.ping()
        at = schema.current(settings.database_url)
    except (Unavailable, SQLAlchemyError):
        away = "the database does not answer: check GRAIL_DATABASE_URL and the server"
        return {"database": away, "schema": "unknown"}, {}
    if schema.is_behind(at):
        behind = f"the database is at {at or 'no schema'}, this needs {schema.head()}: run `grail migrate`"
        return {"database": OK, "schema": behind}, {}
    warnings = {} if at == schema.head() else {"schema": "the database is newer than this process: upgrade it too"}
    return {"database": OK, "schema": OK}, {**warnings, **dict(_rows(db, settings))}


def _rows(db: Database, settings: Settings) -> Iterator[tuple[str, str]]:
    """What the rows say is missing."""
    try:
        with db.session_factory() as session:
            missing, registered = served_models.without_files(session)
            seen = workers.memories(session, datetime.now(UTC))
            unsigned = audit_log.unsigned(session, settings, datetime.now(UTC))
            unbundled, uncertified = bundles.waiting(session), certificates.waiting(session)
    except SQLAlchemyError:
        return
    if missing:
        yield "models", f"{len(missing)} of {registered} served models lack their base's files: see `grail doctor`"
    if unsigned:
        yield "log", f"{unsigned}; requests are taken, and what is not signed is signed then"
    if unbundled:
        yield "reports", unbundled
    if uncertified:
        yield "certificates", uncertified
    if not seen:
        yield "workers", "no gpu worker was seen lately: requests are taken, nothing is computed; `grail worker gpu`"


def _broker(settings: Settings) -> str:
    try:
        queue.ping(settings.broker_url, settings.broker_timeout_seconds)
    except Unavailable as error:
        return f"{error.detail}: requests are still taken, jobs start once it is back"
    return OK


def _storage(directory: Path) -> str:
    """Whether files can be made where reports and versions go, which is made by whoever comes first."""
    there = next((path for path in (directory, *directory.absolute().parents) if path.exists()), directory)
    if os.access(there, os.W_OK | os.X_OK):
        return OK
    return "GRAIL_DATA_DIR can not be written: mount it, or give its directory to the user that runs this"
