"""An app that makes traces, and the spans that it has made."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace import App

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
CARRIED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}


class Traces:
    """A provider, and the spans that have ended."""

    def __init__(self, **options: Any) -> None:
        """*options* are those of the provider, such as a sampler."""
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def app(self, name: str = "t") -> App:
        """Return an app whose engines make traces."""
        app = App(name)
        app.telemetry(tracer_provider=self.provider)
        return app

    @property
    def spans(self) -> list[ReadableSpan]:
        """All that have ended, in the order of their ends."""
        return list(self.exporter.get_finished_spans())

    def all(self, name: str) -> list[ReadableSpan]:
        """Return the spans of this name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """Return the only span of this name."""
        found = self.all(name)
        assert len(found) == 1, [span.name for span in self.spans]
        return found[0]

    def tree(self) -> dict[str, str]:
        """Return the name of the span above by each name; ``?``: that of somebody else."""
        names = {id_of(span): span.name for span in self.spans}
        return {
            span.name: "" if span.parent is None else names.get(above(span), "?")
            for span in self.spans
        }

    def trace_ids(self) -> set[str]:
        """Return the traces that the spans belong to."""
        return {trace_of(span) for span in self.spans}

    def text(self) -> str:
        """Return all that is in the spans."""
        return "\n".join(span.to_json() for span in self.spans)


def id_of(span: ReadableSpan) -> str:
    """Return the id of a span as headers have it."""
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def above(span: ReadableSpan) -> str:
    """Return the id of the span above."""
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def trace_of(span: ReadableSpan) -> str:
    """Return the id of a span's trace as headers have it."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def said(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


def linked_to(span: ReadableSpan) -> list[str]:
    """Return the ids of the spans that *span* has links to."""
    return [f"{link.context.span_id:016x}" for link in span.links]


def carried(number: int) -> dict[str, str]:
    """Return the headers of another event of another trace."""
    return {"traceparent": f"00-{number:032x}-{number:016x}-01"}


def headers_of(span: ReadableSpan) -> dict[str, str]:
    """Return the headers that say that *span* is where something comes from."""
    assert span.context is not None
    flags = f"{span.context.trace_flags:02x}"
    return {"traceparent": f"00-{trace_of(span)}-{id_of(span)}-{flags}"}
