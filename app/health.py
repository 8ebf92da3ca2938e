"""Is the process alive, and can it do its work? The only routes that need no key; they tell nothing but that."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app import queue, schema
from app.errors import Unavailable

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """Alive."""

    status: str = "ok"


class Readiness(BaseModel):
    """`checks` names what is missing and how to mend it."""

    ready: bool
    checks: dict[str, str]


@router.get("/healthz")
def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready"}})
def readyz(request: Request) -> Any:
    """Database, schema and broker, one by one."""
    settings = request.app.state.settings
    checks = {"database": "ok", "schema": "ok", "broker": "ok"}
    try:
        request.app.state.db.ping()
        at, newest = schema.current(settings.database_url), schema.head()
        if at != newest:
            checks["schema"] = f"the database is at {at or 'no schema'}, this needs {newest}: run `grail migrate`"
    except Unavailable as error:
        checks["database"], checks["schema"] = f"{error.detail}: check GRAIL_DATABASE_URL and the server", "unknown"
    try:
        queue.ping(settings.broker_url, settings.broker_timeout_seconds)
    except Unavailable as error:
        checks["broker"] = f"{error.detail}: requests are still taken, jobs start once it is back"
    ready = all(state == "ok" for state in checks.values())
    return JSONResponse(Readiness(ready=ready, checks=checks).model_dump(), status_code=200 if ready else 503)
