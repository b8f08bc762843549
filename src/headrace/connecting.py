"""`Connections`: the part of an `App` that declares sources and sinks."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, TypeVar

from msgspec import Struct

from headrace.connectors.protocol import Sink, SinkRefused, Source
from headrace.engine.event import Firing
from headrace.engine.run import Run
from headrace.tasks import Tasks, check_name

if TYPE_CHECKING:
    from headrace.connectors.feeder import Feeder

M = TypeVar("M")
R = TypeVar("R")

DOUBLINGS_MAX: Final = 62
_rng: Final = Random()  # noqa: S311 (no secret)


class SinkRetry(Struct, frozen=True, kw_only=True):
    """How often a message is tried: the retry policy of a sink unless it is given another.

    As `Retry`, but that a server may say when it wants to be asked again (as by HTTP's
    ``Retry-After``), and that what it refuses for good is not tried again.
    """

    attempts: int = 12
    wait_first: float = 0.5
    """Seconds; doubled after each attempt, and shortened by chance by up to a half."""
    wait_max: float = 300.0
    """Seconds that a wait never exceeds, whatever the server asks for."""

    def retry(self, state: Any) -> bool:
        """Say whether the error of an attempt is one to try again, as tenacity asks it."""
        return not isinstance(state.outcome.exception(), SinkRefused)

    def wait(self, state: Any) -> float:
        """Return the seconds until the next attempt, as tenacity asks it."""
        doublings = min(state.attempt_number - 1, DOUBLINGS_MAX)
        wait_s: float = min(self.wait_first * 2**doublings, self.wait_max) * (
            1 - 0.5 * _rng.random()
        )
        asked_s: float | None = getattr(state.outcome.exception(), "retry_after_s", None)
        return wait_s if asked_s is None else min(max(wait_s, asked_s), self.wait_max)

    def stop(self, state: Any) -> bool:
        """Say whether that was the last attempt, as tenacity asks it."""
        return bool(state.attempt_number >= self.attempts)


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

        *retry*: by default `SinkRetry`: twelve attempts within about half an hour.

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
        policy = SinkRetry() if retry is None else retry
        self.task(retry=policy, name=name, **options)(task)
        action: Callable[..., Any] = forward
        self.action(name=f"forward-{name}"[:64])(action)
        made: SinkTask[M, R] = SinkTask(task, action, sink)
        self.sinks[name] = made
        return made

    def feeders(self) -> list[Feeder]:
        """Return what lets each source work beside an engine."""
        from headrace.connectors.feeder import Feeder

        return [Feeder(source) for source in self.sources.values()]
