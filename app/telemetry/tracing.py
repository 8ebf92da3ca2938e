"""Spans from the receipt of a request to its publication, by OpenTelemetry; nothing at all unless
GRAIL_TRACES_ENDPOINT is set.

A span's context goes into the row of its request or job (`traceparent`), never into a message: whoever takes the row up
later goes on with its trace. Attributes are ids and numbers. An error marks its span by its kind alone, since its text
may hold what people wrote.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from types import TracebackType

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.config import Settings
from app.errors import ServiceError

LINKS = 32
"""Other requests' spans that a job's span names at most."""
HEADER = "traceparent"
NANOSECONDS = 1_000_000_000
PROPAGATOR = TraceContextTextMapPropagator()


class TracesMissing(ServiceError):
    """Traces are asked for and can not be sent."""

    status, type, title = 500, "traces-missing", "Traces can not be sent: packages are missing"
    mend = "Install the extra: `pip install 'grail-server[traces]'`, or unset GRAIL_TRACES_ENDPOINT."


def configure_traces(settings: Settings, process: str) -> None:
    """Send this process' spans to GRAIL_TRACES_ENDPOINT, if that is set. Raises TracesMissing."""
    if not settings.traces_endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError:
        raise TracesMissing("the OpenTelemetry SDK or its OTLP exporter is not installed") from None
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": "grail-server", "service.instance.id": process}),
        sampler=ParentBased(TraceIdRatioBased(settings.traces_share)),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.traces_endpoint)))
    trace.set_tracer_provider(provider)


def flush_traces() -> None:
    """Send what is waiting; before a process ends."""
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush(2000)


class span:  # noqa: N801  used as `with span(...)`, like a function
    """A span that is current inside of the block. `parent` and `links` are traceparents; where the parent is missing
    the span is a child of the current one, or the first of a new trace."""

    def __init__(
        self,
        name: str,
        *,
        parent: str | None = None,
        links: Iterable[str | None] = (),
        kind: SpanKind = SpanKind.INTERNAL,
        **ids: uuid.UUID | str | int | None,
    ) -> None:
        self.span: Span = trace.get_tracer("grail").start_span(
            name, context=_context(parent), kind=kind, attributes=_attributes(ids),
            links=[Link(_span_context(other)) for other in list(filter(None, links))[:LINKS]],
        )  # fmt: skip

    def __enter__(self) -> Span:
        self._token = attach(trace.set_span_in_context(self.span))
        return self.span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        detach(self._token)
        if kind is not None:
            self.span.set_status(Status(StatusCode.ERROR, kind.__name__))
        self.span.end()


def past(name: str, seconds: float, *, parent: str | None = None, **ids: uuid.UUID | str | int | None) -> None:
    """A span that ends now and began so many seconds ago."""
    now = time.time_ns()
    made = trace.get_tracer("grail").start_span(
        name, context=_context(parent), start_time=now - int(seconds * NANOSECONDS), attributes=_attributes(ids)
    )
    made.end(now)


def traceparent() -> str | None:
    """The current span for a row; None unless it is recorded."""
    if not trace.get_current_span().is_recording():
        return None
    carrier: dict[str, str] = {}
    PROPAGATOR.inject(carrier)
    return carrier.get(HEADER)


def _context(parent: str | None) -> Context | None:
    return PROPAGATOR.extract({HEADER: parent}, Context()) if parent else None


def _span_context(parent: str) -> trace.SpanContext:
    return trace.get_current_span(_context(parent)).get_span_context()


def _attributes(ids: dict[str, uuid.UUID | str | int | None]) -> dict[str, str | int]:
    return {
        f"grail.{name}": value if isinstance(value, int) else str(value)
        for name, value in ids.items()
        if value is not None
    }
