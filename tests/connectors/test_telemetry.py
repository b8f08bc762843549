"""Traces: which spans there are, where they belong, and what is not in them."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from headrace import App, Firing, MemoryLog, Run, on

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
CARRIED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}


class Traces:
    """An app that makes traces, and the spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def app(self) -> App:
        app = App("t")
        app.telemetry(tracer_provider=self.provider)
        return app

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        """The only span of this name."""
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, [span.name for span in self.spans]
        return found[0]

    def tree(self) -> dict[str, str]:
        """The name of each span's parent by its name; those of others as they are carried."""
        names = {id_of(span): span.name for span in self.spans}
        return {
            span.name: "" if span.parent is None else names.get(f"{span.parent.span_id:016x}", "?")
            for span in self.spans
        }


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def traces() -> Traces:
    return Traces()


async def test_a_run_goes_on_with_the_trace_of_its_event(traces: Traces) -> None:
    """Event, run, attempt, and what the code does by itself are one trace, one below the other."""
    app = traces.app()

    @app.rule(on("a"), name="mill")
    async def mill(run: Run, firing: Firing[Any]) -> None:
        with traces.tracer.start_as_current_span("own"):
            trace.get_current_span().set_attribute("inner", 1)
        trace.get_current_span().set_attribute("outer", 2)

    log = MemoryLog()
    async with app.open(log) as engine:
        await engine.emit("a", 1, headers=CARRIED)
        await engine.drain()

    assert {trace_of(span) for span in traces.spans} == {TRACE}
    assert traces.tree() == {"own": "attempt mill", "attempt mill": "run mill", "run mill": "?"}
    run, attempt = traces.named("run mill"), traces.named("attempt mill")
    assert run.parent is not None
    assert f"{run.parent.span_id:016x}" == PARENT
    assert attributes(run) == {
        "headrace.task": "mill",
        "headrace.run.id": 3,
        "headrace.log.id": log.log_id.hex(),
        "headrace.run.state": "completed",
    }
    assert attributes(attempt) == {**attributes(run), "headrace.run.attempt": 1, "outer": 2}
    assert run.kind is SpanKind.INTERNAL
