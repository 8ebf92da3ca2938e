"""create_app(settings): routers, handlers, lifespan; nothing else."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app import health
from app.adapters.endpoints import router as adapters
from app.audit_log.endpoints import router as audit_log
from app.auth import KnownKeys
from app.bundles.endpoints import router as bundles
from app.certificates.endpoints import router as certificates
from app.config import Settings, load_settings
from app.db import Database
from app.description import router as description
from app.envelope.kms import load_keys
from app.errors import PROBLEM, LastBorder, Overloaded, Problem, TooSlow, install_handlers
from app.events.endpoints import router as events
from app.events.streams import Streams
from app.imports.endpoints import PATH as IMPORTS
from app.imports.endpoints import router as imports
from app.in_flight import InFlight
from app.jobs.endpoints import router as jobs
from app.keys.usage import KeyUsage
from app.limits import BodyLimit, Bounds, HangUp, RequestIds
from app.logs import configure_logs
from app.methods.endpoints import router as methods
from app.officer.endpoints import router as officer
from app.opendsr.endpoints import router as opendsr
from app.opendsr.errors import in_their_form
from app.rates.admission import Admission
from app.rates.counting import Counting
from app.rates.errors import RateLimited
from app.reports.archive_endpoints import router as reports_archive
from app.reports.endpoints import router as reports
from app.requests.decision_endpoints import router as decisions
from app.requests.endpoints import router as requests
from app.requests.quick import KnownModels
from app.requests.together import Together
from app.secret import masters
from app.served_models.endpoints import router as served_models
from app.statistics.endpoints import router as statistics
from app.telemetry.endpoints import router as telemetry
from app.telemetry.http import Exchanges
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import configure_traces, flush_traces
from app.webhooks.endpoints import router as webhooks

DESCRIPTION = """
Deletion requests for language models. A request's forget items are unlearned from the served model's LoRA adapter, its
retain items are protected; the outcome is a new adapter version with an evaluation report.

Every error is a problem document (RFC 9457) that says what is wrong and how to mend it.
"""


ROUTERS = (
    requests, decisions, certificates, imports, jobs, events, webhooks, opendsr, reports, bundles, served_models,
    adapters, methods, officer, statistics, reports_archive, audit_log, description, telemetry, health.router,
)  # fmt: skip
"""Their routes stand in the application as they are: included routers would be looked through at each call."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application."""
    settings = settings or load_settings()
    configure_logs(settings.log_level)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        masters()
        load_keys(settings)
        configure_traces(settings, f"api:{os.getpid()}")
        app.state.usage.begin()
        app.state.counting.begin()
        settle_memory()
        yield
        await app.state.counting.end()
        app.state.usage.end()
        flush_traces()
        app.state.db.dispose()

    app = FastAPI(
        title="GRAIL Server", version="0.1.0", description=DESCRIPTION, lifespan=lifespan,
        telemetry={
            "tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False,
        },  # FastAPI's own would send addresses as they were asked for, and texts of errors
        openapi_url=None, docs_url=None, redoc_url=None,
        routes=[route for router in ROUTERS for route in router.routes],
        redirect_slashes=False,  # a redirect would name the Host that was sent, and http behind a proxy with TLS
    )  # fmt: skip
    app.state.settings = settings
    app.state.db = Database(settings.database_url, timeout_seconds=settings.database_timeout_seconds)
    app.state.known_keys, app.state.known_models = KnownKeys(), KnownModels()
    app.state.together = Together(app.state.db)
    app.state.streams = Streams(
        app.state.db, poll_seconds=settings.events_poll_seconds,
        heartbeat_seconds=settings.events_heartbeat_seconds, per_key=settings.events_streams_per_key,
        most=settings.events_streams_max,
    )  # fmt: skip
    app.state.usage, app.state.metrics = KeyUsage(app.state.db), Metrics(app.state.db, settings)
    app.state.counting = Counting(settings, app.state.metrics.rates_counted)
    app.state.readiness = health.Kept(settings.ready_kept_seconds)
    install_handlers(app)
    _add_middleware(app, settings)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def settle_memory() -> None:
    """Once a process: what is there now stays. The collector of cycles would look through all of it every now and then,
    for some 150 ms in which nobody is answered; so it looks through what comes."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """Nobody's body is looked at before their key, nor a key before there is room; the last one added is outermost."""
    app.add_middleware(
        BodyLimit, bounds=Bounds(settings.max_body_bytes, settings.body_seconds),
        files={IMPORTS: Bounds(settings.max_import_bytes, settings.import_seconds)},
    )  # fmt: skip
    metrics = app.state.metrics
    app.add_middleware(
        Admission, settings=settings, counting=app.state.counting, imports=IMPORTS,
        refused=metrics.rate_limited, forms={"/opendsr/": in_their_form},
    )  # fmt: skip
    app.add_middleware(LastBorder)
    app.add_middleware(Exchanges, observe=metrics.observe, used=app.state.usage.note)
    app.add_middleware(InFlight, most=settings.max_in_flight, shed=metrics.shed)  # what is shed is not even logged
    app.add_middleware(HangUp)
    app.add_middleware(RequestIds)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the problem schema and without its own validation error, which we never answer with."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        problem = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for path in document["paths"].values():
            for operation in path.values():
                responses = operation.setdefault("responses", {})
                if operation.get("security"):  # what any call with a key may meet before its endpoint is asked
                    responses.setdefault("429", {"description": RateLimited.title, "content": problem})
                    responses.setdefault("503", {"description": Overloaded.title, "content": problem})
                if "requestBody" in operation:
                    responses.setdefault("408", {"description": TooSlow.title, "content": problem})
                refused = responses.get("422")
                if refused and "HTTPValidationError" in str(refused):
                    operation["responses"]["422"] = {"description": "The request makes no sense", "content": problem}
        app.openapi_schema = document
    return app.openapi_schema
