"""`Workers`: resident tasks that execute runs, for a task for each would cost more than the run.

One that is at work goes on with the next run by itself, so runs that never wait are executed
by one, one after the other.  Only when it lets others go on, at an await, others are called, and
those call others in turn, as long as there are runs that wait to be executed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sized
from typing import Any, Final, cast

from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from headrace.engine.backend import Backend, Event
from headrace.engine.crew import Crew
from headrace.engine.signal import Signal

CALLED_AT_ONCE: Final = 2
"""How many others a worker calls that lets others go on."""
STRAIGHT_MAX: Final = 64
"""Runs that a worker executes before all others on the loop get their turn."""


class Workers:
    """All methods belong to the event loop's thread."""

    def __init__(
        self,
        backend: Backend,
        work: Callable[[], Coroutine[Any, Any, None]],
        queued: Sized,
        wanted: Callable[[], int],
    ) -> None:
        """Let each worker do *work*, which calls `begin` and goes on until the crew is ending.

        *wanted* says how many have something to do: none while *queued* is empty.
        """
        self.crew: Crew = backend.crew()
        """The asyncio or trio tasks."""
        self._backend = backend
        self._do = work
        self._queued = queued
        self._wanted = wanted
        self._idle: list[Event] = []
        self._called = 0
        """Those that have not begun yet, or not gone on."""
        self._is_at_work = False
        """Whether it is a worker whose code executes now, and so looks for more by itself."""
        self._is_pausing = False
        """Whether that lets others go on only for this turn."""
        self._recruit = Signal()
        self._vacancies = 0

    async def recruit(self, group: TaskGroup) -> None:
        """Start workers, until *group* is cancelled.  A task: they are called in callbacks."""
        try:
            while True:
                while self._vacancies:
                    self._vacancies -= 1
                    self.crew.start(_Shift(self, self._do()), group)
                await self._recruit.wait()
        finally:
            await self.crew.end()

    def begin(self) -> Crew:
        """Note that a worker begins; return the crew that it belongs to."""
        self._called -= 1
        return self.crew

    def call(self) -> None:
        """Have a worker look for what there is to do, if none is about to."""
        if not self._is_at_work and not self._called:
            self._call_one()

    def _call_one(self) -> None:
        self._called += 1
        if self._idle:
            self._idle.pop().set()
        else:
            self._vacancies += 1
            self._recruit.send()

    def call_more(self) -> None:
        """Call others for what waits to be executed: a few, which call others if they wait too.

        So as many as are needed are there after a few turns, and where runs never wait, that is
        one or two: to call one takes as long as to execute such a run.
        """
        for _ in range(min(self._wanted() - self._called, CALLED_AT_ONCE)):
            self._call_one()

    async def rest(self) -> None:
        """Return once this worker is called."""
        called = self._backend.waiter()
        self._idle.append(called)
        await called.wait()
        self._called -= 1

    async def pause(self) -> None:
        """Let all others on the loop have their turn; this worker goes on then."""
        self._called += 1
        self._is_pausing = True
        try:
            await checkpoint()
        finally:
            self._called -= 1


class _Shift(Coroutine[Any, Any, None]):
    """All that a worker does: sees when it lets others go on.

    What is awaited and what a task executes at once: a coroutine around it, and a generator in
    that, would be two frames for each run that waits.
    """

    __slots__ = ("_coroutine", "_requests", "_workers")

    def __init__(self, workers: Workers, coroutine: Coroutine[Any, Any, None]) -> None:
        self._workers = workers
        self._coroutine = coroutine
        self._requests = 0
        """How often its task was cancelled itself, as of the last step."""

    def __await__(self) -> Generator[Any, Any, None]:
        return cast("Generator[Any, Any, None]", self)

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, argument: Any) -> Any:
        """Go on to the next await."""
        workers = self._workers
        workers._is_at_work = True
        try:
            asked = self._coroutine.send(argument)
        finally:
            workers._is_at_work = False
        self._end_step()
        return asked

    def throw(self, *error: Any) -> Any:
        """Go on to the next await, with *error*."""
        workers = self._workers
        self._requests = workers.crew.requests()
        workers._is_at_work = True
        try:
            asked = self._coroutine.throw(*error)
        finally:
            error = ()  # it would hold this frame, and so itself
            workers._is_at_work = False
        self._end_step()
        return asked

    def close(self) -> None:
        """End it where it is."""
        self._coroutine.close()

    def _end_step(self) -> None:
        """Let others go on."""
        workers = self._workers
        requests = workers.crew.requests()
        if requests != self._requests:
            if requests > self._requests:  # while nobody else was executed
                workers.crew.note_own_request()
            self._requests = requests
        if workers._is_pausing:
            workers._is_pausing = False
        elif workers._queued:
            workers.call_more()

    # For who looks at tasks, such as debuggers: it is where its coroutine is.

    @property
    def cr_frame(self) -> Any:
        return self._coroutine.cr_frame  # type: ignore[attr-defined]

    @property
    def cr_await(self) -> Any:
        return self._coroutine.cr_await  # type: ignore[attr-defined]

    @property
    def cr_code(self) -> Any:
        return self._coroutine.cr_code  # type: ignore[attr-defined]

    @property
    def cr_running(self) -> bool:
        return self._coroutine.cr_running  # type: ignore[attr-defined,no-any-return]

    @property
    def cr_suspended(self) -> bool:
        return self._coroutine.cr_suspended  # type: ignore[attr-defined,no-any-return]
