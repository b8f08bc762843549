"""`Telemetry`: what an app that makes traces has of OpenTelemetry, whose API it imports.

Spans: ``receive`` for what a source hands in, ``run`` and ``attempt`` (`RunSpans`), ``send`` for
what a sink is given.  Their attributes say where something happened, and never what was in it.
Names are those of the semantic conventions for messaging, which are in development: so they are
written here, and not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from headrace.connectors.protocol import ExtraMissing
from headrace.connectors.run_spans import AttemptSpan, RunSpans
from headrace.connectors.span_contexts import SpanContexts, distinct, headers_of
from headrace.connectors.trace_context import set_outgoing
from headrace.engine.emission import Emission

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext, TracerProvider

LINKS_MAX: Final = 128
"""Messages of one batch whose senders are named: the first."""

SYSTEM: Final = "messaging.system"
DESTINATION: Final = "messaging.destination.name"
OPERATION_TYPE: Final = "messaging.operation.type"
OPERATION: Final = "messaging.operation.name"
COUNT: Final = "messaging.batch.message_count"
MESSAGE_ID: Final = "messaging.message.id"
SOURCE: Final = "headrace.source"
SINK: Final = "headrace.sink"


def has_opentelemetry() -> bool:
    """Say whether the API of OpenTelemetry is installed."""
    try:
        return find_spec("opentelemetry.trace") is not None
    except ModuleNotFoundError:  # not even what it is in
        return False


class Telemetry:
    """The tracer of an app."""

    def __init__(self, tracer_provider: TracerProvider | None, *, version: str) -> None:
        """Take a provider; ``None``: the one of the process, which is the host's to set.

        *version* is that of headrace.

        Raises:
            ExtraMissing: the API of OpenTelemetry is not installed.
            TypeError: *tracer_provider* is none.
        """
        try:
            self._contexts = SpanContexts(AttemptSpan)
        except ModuleNotFoundError as error:
            raise ExtraMissing("telemetry", "otel", error.name) from None
        from opentelemetry import trace

        if tracer_provider is not None and not isinstance(tracer_provider, trace.TracerProvider):
            raise TypeError(
                "telemetry, tracer_provider: expected a TracerProvider of OpenTelemetry, found "
                f"{tracer_provider!r:.80}"
            )
        self._provider = tracer_provider
        self._kinds = trace.SpanKind
        self._tracer = trace.get_tracer("headrace", version, tracer_provider)

    @property
    def provider(self) -> str:
        """What spans go to, as it is now; ``ProxyTracerProvider``: to nobody yet."""
        from opentelemetry import trace

        provider = self._provider or trace.get_tracer_provider()
        return type(provider).__name__

    def observer(self) -> RunSpans:
        """Return what makes the spans of one engine's runs."""
        return RunSpans(self._tracer, self._contexts)

    def receiving(self, name: str, source: Any, events: Sequence[Emission]) -> Spanned:
        """Return a span to use with ``with``, while *events* of *source* are stored.

        Those without a context go on with that of this span.
        """
        senders = self._senders(events)
        attributes: dict[str, Any] = {SOURCE: name, COUNT: len(events)}
        attributes |= _messaging(source, "receive")
        destination = getattr(source, "messaging_destination", None)
        if isinstance(destination, str):
            attributes[DESTINATION] = destination
        if len(events) == 1 and events[0].id is not None:
            attributes[MESSAGE_ID] = events[0].id
        is_lone = len(events) == 1 and len(senders) == 1
        span = self._tracer.start_span(
            f"receive {name}",
            self._contexts.below(senders[0] if is_lone else None),
            kind=self._kinds.CONSUMER,
            attributes=attributes,
            links=None if is_lone else self._contexts.links(senders),
        )
        # A context that nobody sees is not worth its place in the log.
        return Spanned(self._contexts, span, is_current=span.is_recording())

    def current_headers(self) -> dict[str, str] | None:
        """Return headers that say which span is the current one; ``None``: none is."""
        return self._contexts.current_headers()

    def _senders(self, events: Sequence[Emission]) -> list[SpanContext]:
        """Return the contexts that *events* carry, each once, up to a bound."""
        found: list[SpanContext] = []
        for event in events:
            if event.headers is not None:
                found.extend(self._contexts.of_headers(event.headers))
                if len(found) >= LINKS_MAX:
                    break
        return distinct(found)

    def sending(self, sink: Any, message: Any, key: str) -> Spanned:
        """Return a span to use with ``with``, while *sink* sends *message*.

        What the sink sends meanwhile can carry its context: see `outgoing`.
        """
        attributes: dict[str, Any] = {SINK: sink.name, MESSAGE_ID: key}
        messaging = _messaging(sink, "send")
        destination_of = getattr(sink, "destination_of", None)
        if messaging and callable(destination_of):
            messaging[DESTINATION] = destination_of(message)
        attributes |= messaging
        span = self._tracer.start_span(
            f"send {sink.name}",
            kind=self._kinds.PRODUCER if messaging else self._kinds.CLIENT,
            attributes=attributes,
        )
        return Spanned(self._contexts, span, is_current=True)


class Spanned:
    """A span that is the current one within ``with``, and ends with it."""

    def __init__(self, contexts: SpanContexts, span: Any, *, is_current: bool) -> None:
        """Made by `Telemetry`."""
        self._contexts = contexts
        self._span = span
        self._is_current = is_current
        self._token: Any = None
        self._sends_no_more: Any = None

    def __enter__(self) -> Self:
        place = self._span.get_span_context()
        self._token = self._contexts.attach(self._span if self._is_current else None)
        self._sends_no_more = set_outgoing(headers_of(place) or {})
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it; an error goes through, and is recorded, but for what is a cancellation."""
        self._sends_no_more()
        self._contexts.detach(self._token)
        if isinstance(exc, Exception):
            from opentelemetry.trace import StatusCode

            self._span.record_exception(exc)
            self._span.set_attribute("error.type", type(exc).__qualname__)
            self._span.set_status(StatusCode.ERROR, f"{type(exc).__qualname__}: {exc}")
        self._span.end()


def _messaging(connector: Any, operation: str) -> dict[str, Any]:
    """Return what the conventions ask of a span, if *connector* is one of a messaging system."""
    system = getattr(connector, "messaging_system", None)
    if not isinstance(system, str):
        return {}
    return {SYSTEM: system, OPERATION_TYPE: operation, OPERATION: operation}
