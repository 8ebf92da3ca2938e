"""One middleware for each exchange: its span, its time until the answer begins, its line in the log."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from opentelemetry.trace import SpanKind
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry import tracing
from app.telemetry.context import begin

log = structlog.get_logger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
UNMATCHED = "unmatched"
NOT_TRACED = frozenset({"/healthz", "/readyz", "/metrics"})

Observe = Callable[[str, str, int, float], None]
"""(method, template of the route, status, seconds)."""


class Exchanges:
    """`observe` gets each exchange's time; `used` the id of each key that was accepted."""

    def __init__(self, app: ASGIApp, observe: Observe, used: Callable[[str], None]) -> None:
        self.app, self.observe, self.used = app, observe, used

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, seconds = time.perf_counter(), 500, 0.0
        method = scope["method"] if scope["method"] in METHODS else "other"
        ids = begin()

        async def timed(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.perf_counter() - started
                self._tell(method, template(scope), status, seconds, ids)
            await send(message)

        if scope["path"] in NOT_TRACED:
            await self.app(scope, receive, timed)
            return
        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
        with tracing.span(method, parent=parent.decode("latin-1"), kind=SpanKind.SERVER) as span:
            await self.app(scope, receive, timed)
            if span.is_recording():
                span.update_name(f"{method} {template(scope)}")
                span.set_attribute("http.response.status_code", status)

    def _tell(self, method: str, route: str, status: int, seconds: float, ids: dict[str, str]) -> None:
        self.observe(method, route, status, seconds)
        if "key_id" in ids:
            self.used(ids["key_id"])
        if status >= 500 or method not in READING:
            say = log.warning if status >= 500 else log.info
            told = {**ids, "method": method, "route": route, "status": status, "ms": round(1000 * seconds, 1)}
            say("answered", **told)


def template(scope: Scope) -> str:
    """The route that took a call, with its parameters' names instead of their values: few, whatever is asked for."""
    return str(getattr(scope.get("route"), "path", UNMATCHED))
