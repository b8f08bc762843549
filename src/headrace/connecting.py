"""`Connections`: the part of an `App` that declares sources and sinks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from headrace.connectors.protocol import Sink, SinkRefused, Source
from headrace.engine.event import Firing
from headrace.engine.retry import Retry
from headrace.engine.run import Run
from headrace.tasks import Tasks, check_name
from headrace.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from headrace.connectors.feeder import Feeder
    from headrace.connectors.telemetry import Telemetry

M = TypeVar("M")
R = TypeVar("R")


def sink_retry(
    *,
    attempts: int = 12,
    wait_first: float | timedelta = 0.5,
    wait_max: float | timedelta = 300.0,
) -> list[Retry]:
    """Return how often a message is tried, unless its sink is given another policy.

    Twelve times within about half an hour; what the server refuses for good is not tried again.

    Raises:
        TypeError, ValueError: as `Retry` does.
    """
    again = Retry(attempts=attempts, wait_first=wait_first, wait_max=wait_max)
    return [Retry(attempts=1, on=SinkRefused), again]


class SinkTask(Generic[M, R]):
    """What `App.sink` returns: the task that sends, for ``run.call``, and the rules' action."""

    def __init__(
        self, send: Callable[[M], R], forward: Callable[..., Any], sink: Sink[M, R]
    ) -> None:
        """Made by `App.sink`."""
        self.send = send
        """The task: ``await run.call(alerts.send, message)``."""
        self.forward = forward
        """The action that sends the event that met a rule's pattern."""
        self.sink = sink


class Connections(Tasks):
    """Sources and sinks by name."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[str, Source] = {}
        """What `source` has declared, by name, in that order."""
        self.sinks: dict[str, SinkTask[Any, Any]] = {}
        """What `sink` has declared, by name."""
        self._telemetry: Telemetry | None = None

    def telemetry(self, *, tracer_provider: TracerProvider | None = None) -> None:
        """Let engines of this app make traces, with OpenTelemetry.

        Spans: ``receive`` for what sources hand in, ``run`` and ``attempt``, ``send`` for what
        sinks are given.  Without *tracer_provider* that of the process is used, which the host
        sets.  Events get headers that say in which trace they are: docs/connectors/telemetry.md.

        Raises:
            ExtraMissing: the extra ``otel`` is not installed.
            TypeError: *tracer_provider* is none.
        """
        from headrace.connectors.telemetry import Telemetry

        self._telemetry = Telemetry(tracer_provider, version=__version__)

    @property
    def tracer_provider(self) -> str | None:
        """What spans go to, by the name of its class; ``None``: no traces are made.

        ``ProxyTracerProvider``: nothing has set up a provider in this process.
        """
        return None if self._telemetry is None else self._telemetry.provider

    def source(self, source: Source) -> None:
        """Let *source* bring events in as long as an engine of this app is open.

        It begins when runs do, and ends before they get their grace period.

        Raises:
            ValueError: its name is none, or is taken by another source.
        """
        check_name("source", source.name)
        if source.name in self.sources:
            raise ValueError(
                f"source {source.name!r} is declared twice; give one of them another name"
            )
        self.sources[source.name] = source

    def sink(self, sink: Sink[M, R], *, retry: Any = None, **options: Any) -> SinkTask[M, R]:
        """Declare what takes messages out; return the task and the action that send with it.

        ``await run.call(alerts.send, message)`` sends a message; each attempt has the
        idempotency key of that step.  ``alerts.forward`` is an action: with
        ``app.rule(on("alerts.>"))(alerts.forward)`` the event that met the pattern is sent, as
        `Sink.message_of` makes a message of it; rules of a file name it ``forward-<name>``.
        What is sent goes in the order in which runs come to it, which after a failure is not
        that of the events; *options* are those of `task`, such as ``concurrency=1``.

        *retry*: by default `sink_retry`: twelve attempts within about half an hour.

        Raises:
            TypeError, ValueError: its name is none, or is taken; or an option cannot work.
        """
        name = sink.name
        check_name("sink", name)
        if name in self.sinks:
            raise ValueError(f"sink {name!r} is declared twice; give one of them another name")
        resource = self.resource(f"sink-{name}"[:64], lambda: sink)
        opened = Annotated[Any, resource]
        message_type: Any = sink.message_type
        result_type: Any = sink.result_type

        async def send(run: Run, message: Any, sink: Any) -> Any:
            telemetry = self._telemetry
            if telemetry is None:
                return await sink.send(message, key=run.idempotency_key)
            with telemetry.sending(sink, message, run.idempotency_key):
                return await sink.send(message, key=run.idempotency_key)

        task: Callable[..., Any] = send

        async def forward(run: Run, firing: Firing[Any]) -> Any:
            event = firing.events[-1]
            return await run.call(task, sink.message_of(event.subject, event.data))

        # The types are this sink's own, so they are not written in the source.
        send.__annotations__ = {
            "run": Run,
            "message": message_type,
            "sink": opened,
            "return": result_type,
        }
        forward.__annotations__ = {"run": Run, "firing": Firing[Any], "return": result_type}
        send.__name__ = send.__qualname__ = name
        # A rule of that action has this name, unless it is given another: not that of the action.
        forward.__name__ = forward.__qualname__ = f"forward_{name}"[:64]
        policy = sink_retry() if retry is None else retry
        self.task(retry=policy, name=name, **options)(task)
        action: Callable[..., Any] = forward
        self.action(name=f"forward-{name}"[:64])(action)
        made: SinkTask[M, R] = SinkTask(task, action, sink)
        self.sinks[name] = made
        return made

    def feeders(self) -> list[Feeder]:
        """Return what lets each source work beside an engine."""
        from headrace.connectors.feeder import Feeder

        return [Feeder(source, self._telemetry) for source in self.sources.values()]
