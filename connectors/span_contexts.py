"""`SpanContexts`: between contexts of OpenTelemetry and the headers of events.

The only module that knows how OpenTelemetry hands contexts on; only its API is used, and imported
only here and in those that make spans, once somebody has asked for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from headrace.connectors.trace_context import (
    STATE_CHARS_MAX,
    TRACE_PARENT,
    TRACE_STATE,
    trace_headers,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanContext


class SpanContexts:
    """Knows the API, which is imported when it is made."""

    def __init__(self, *spans: type[Any]) -> None:
        """Let OpenTelemetry take objects of *spans* for spans.

        Raises:
            ModuleNotFoundError: its API is not installed.
        """
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._context = context
        self._propagator = TraceContextTextMapPropagator()
        for kind in spans:
            trace.Span.register(kind)

    # ------------------------------------------------------------ headers

    def of_headers(self, headers: Mapping[str, str]) -> Iterable[SpanContext]:
        """Return the context that *headers* say: one, or none."""
        carried = trace_headers(headers.get)
        if carried is None:
            return ()
        empty = self._context.Context()
        found = self._trace.get_current_span(self._propagator.extract(carried, empty))
        place = found.get_span_context()
        return (place,) if place.is_valid else ()

    def current_headers(self) -> dict[str, str] | None:
        """Return headers that say which span is the current one; ``None``: none is."""
        return headers_of(self._trace.get_current_span().get_span_context())

    # ------------------------------------------------------------ contexts

    def below(self, parent: SpanContext | None) -> Context:
        """Return the context in which spans begin below *parent*; ``None``: anew.

        Nothing else is in it: whatever the host's code, in which the engine was opened, has there.
        """
        empty = self._context.Context()
        if parent is None:
            return empty
        span = self._trace.NonRecordingSpan(parent)
        return self._trace.set_span_in_context(span, empty)

    def links(self, places: Iterable[SpanContext]) -> list[Link]:
        """Return links to *places*."""
        return [self._trace.Link(place) for place in places if place.is_valid]

    def attach(self, span: Any) -> Any:
        """Let *span* be the current one in this task; return what `detach` takes.

        ``None``: there is none, whatever the host's code has.
        """
        empty = self._context.Context()
        context = empty if span is None else self._trace.set_span_in_context(span, empty)
        return self._context.attach(context)

    def detach(self, token: Any) -> None:
        """End what `attach` began."""
        self._context.detach(token)


def distinct(places: Iterable[SpanContext]) -> list[SpanContext]:
    """Return *places* in their order, each once: where it was last.  They have no hash."""
    found: dict[tuple[int, int], SpanContext] = {}
    for place in places:
        found.pop((place.trace_id, place.span_id), None)
        found[place.trace_id, place.span_id] = place
    return list(found.values())


def headers_of(place: SpanContext) -> dict[str, str] | None:
    """Return the headers that say *place*; ``None``: it is none."""
    if not place.is_valid:
        return None
    version = f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags & 0xFF:02x}"
    state = place.trace_state.to_header()
    if not state or len(state) > STATE_CHARS_MAX:
        return {TRACE_PARENT: version}
    return {TRACE_PARENT: version, TRACE_STATE: state}
