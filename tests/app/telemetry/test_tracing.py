"""A request's trace goes on through the rows: from the call to the batch, the job and what was published. Ids only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.telemetry import tracing
from tests.app.service import Floor


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing.trace, "get_tracer", lambda *_: provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def trace_of(span: Any) -> int:
    return int(span.context.trace_id)


def test_a_trace_goes_from_the_call_to_what_was_published(floor: Floor, spans: InMemorySpanExporter) -> None:
    first, second = floor.ask(1), floor.ask(2)
    posted = named(spans, "POST /v1/requests")
    job_id = floor.work()
    (batch,), (concluded,) = named(spans, "batch made"), named(spans, "conclude")
    assert trace_of(posted[0]) != trace_of(posted[1])
    assert trace_of(batch) == trace_of(concluded) == trace_of(posted[0])
    assert [link.context.trace_id for link in batch.links] == [trace_of(posted[1])]
    published = {span.attributes["grail.request_id"]: span for span in named(spans, "published") if span.attributes}
    assert {id_: trace_of(span) for id_, span in published.items()} == {
        first: trace_of(posted[0]), second: trace_of(posted[1]),
    }  # fmt: skip
    assert [link.context.span_id for link in published[second].links] == [batch.context.span_id]
    assert floor.job(job_id).traceparent is not None
    assert posted[0].attributes is not None and posted[0].attributes["grail.request_id"] == first
    told = " ".join(span.to_json() for span in spans.get_finished_spans())
    for word in ("prompt", "completion", "Bearer"):
        assert word not in told


def test_a_callers_trace_is_gone_on_with_and_nonsense_begins_a_new_one(
    floor: Floor, spans: InMemorySpanExporter
) -> None:
    theirs = "4bf92f3577b34da6a3ce929d0e0e4736"
    for value in (f"00-{theirs}-00f067aa0ba902b7-01", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", ""):
        floor.caller.send("operator", "GET", "/v1/jobs", headers={"traceparent": value})
    traces = [f"{trace_of(span):032x}" for span in named(spans, "GET /v1/jobs")]
    assert traces[0] == theirs and len(set(traces)) == 4


def test_an_error_marks_its_span_by_its_kind_alone(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="Larch"), tracing.span("work"):
        raise ValueError("Mirela lives at 14 Larch Quay")
    (span,) = named(spans, "work")
    assert span.status.description == "ValueError"
    assert "Larch" not in span.to_json()


def test_without_an_endpoint_no_row_holds_a_trace(floor: Floor) -> None:
    assert floor.request(floor.ask(1)).traceparent is None
