"""A source at work beside an engine, one life after the other over one log, for its tests.

What a life is stopped in the midst of is said to its intake: before it stores, or behind it,
which to a source and to its server is what a crash at that moment is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, NoReturn

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct, msgpack

from headrace.app import App
from headrace.connectors.feeder import status_of
from headrace.connectors.intake import REFUSED, Intake, SourceStatus
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import Source
from headrace.engine.emission import Emission
from headrace.engine.engine import Engine
from headrace.engine.log import EventLog
from headrace.engine.record import EventStored, decode

STEP_S = 0.005
"""How often a test looks whether something has happened."""

Stop = Literal["before it stores", "behind it"]


class Kept(Struct, frozen=True):
    """An event as it is in the log."""

    subject: str
    data: Any
    id: str | None
    position: int | None

    @property
    def is_refusal(self) -> bool:
        """Say whether it keeps a message that was no event."""
        return self.subject.startswith(f"{REFUSED}.")


def kept(log: EventLog) -> list[Kept]:
    """Return the events of *log*, in their order."""
    records = (decode(raw) for _, group in log.read() for raw in group)
    return [
        Kept(record.subject, msgpack.decode(record.data), record.id, record.position)
        for record in records
        if isinstance(record, EventStored)
    ]


class GatedIntake(Intake):
    """An intake that can be held shut, and counts what is handed to it."""

    def __init__(self, engine: Engine, status: SourceStatus, stop: Stop | None = None) -> None:
        """At *stop* it goes no further than that with anything."""
        super().__init__(engine, status)
        self._stop = stop
        self._open = anyio.Event()
        self._open.set()
        self.held = 0
        """Events that were handed in and of which the source has not heard yet."""
        self.held_most = 0
        self.stopped = anyio.Event()
        """Set once something was stopped."""

    def shut(self) -> None:
        """Let all who come wait, as an engine that is slow would."""
        self._open = anyio.Event()

    def open(self) -> None:
        """Let them go on."""
        self._open.set()

    async def put(self, events: Sequence[Emission]) -> list[int]:
        """See `Intake`."""
        self.held += len(events)
        self.held_most = max(self.held_most, self.held)
        try:
            await self._open.wait()
            if self._stop == "before it stores" and events:
                await self._end()
            sequences = await super().put(events)
            if self._stop == "behind it" and events:
                await self._end()
        finally:
            self.held -= len(events)
        return sequences

    async def _end(self) -> None:
        self.stopped.set()
        await anyio.sleep_forever()


class Life:
    """One time that the source is at work."""

    def __init__(self, source: Source, intake: GatedIntake, group: TaskGroup) -> None:
        self.intake = intake
        self.status = intake.status
        self._source = source
        self._group = group
        self.ended = anyio.Event()
        """Set once `Source.run` has returned by itself."""

    async def run(self) -> None:
        """Let the source bring events in."""
        await self._source.run(self.intake)
        self.ended.set()

    def end(self) -> None:
        """Cancel it."""
        self._group.cancel_scope.cancel()


class Lives:
    """The lives of one source over one log."""

    def __init__(self, source: Callable[[], Source], log: EventLog) -> None:
        """Take what makes the source anew, as a start of a program does."""
        self._source = source
        self.log = log
        self.count = 0
        """How many there were."""
        self.promise: Promise = "at least once"
        """That of the source, once it has lived."""

    @asynccontextmanager
    async def life(self, stop: Stop | None = None) -> AsyncGenerator[Life, None]:
        """Let the source be at work while the block lasts."""
        self.count += 1
        source = self._source()
        self.promise = source.promise
        async with App("contract").open(self.log) as engine:
            intake = GatedIntake(engine, status_of(source), stop)
            async with anyio.create_task_group() as group:
                life = Life(source, intake, group)
                group.start_soon(life.run)
                yield life
                life.end()

    def kept(self) -> list[Kept]:
        """Return what is in the log."""
        return kept(self.log)

    def counted(self, number: Callable[[Kept], int]) -> Counter[int]:
        """Return how often each message is in the log, by its number."""
        return Counter(number(event) for event in self.kept() if not event.is_refusal)


async def until(condition: Callable[[], bool], what: str, *, within_s: float) -> None:
    """Return once *condition* holds.

    Raises:
        AssertionError: it does not; says *what* was expected.
    """
    with anyio.move_on_after(within_s):
        while not condition():  # noqa: ASYNC110 (what a foreign server does sets no event)
            await anyio.sleep(STEP_S)
        return
    raise AssertionError(f"expected within {within_s:g} s: {what}")


def skip(reason: str) -> NoReturn:
    """Leave out the test that runs."""
    import pytest  # only here: who has no tests need not have it

    pytest.skip(reason)
