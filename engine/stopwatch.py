"""`Stopwatch`: finds out which task's code keeps the event loop from all other work.

Each step of a task's coroutine, from one await to the next, is measured as it is taken: two
readings of the clock, and no thread that would wake an idle machine.  So it is told after
the step, with the name of the innermost task that took it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

LIMIT_NS: Final = 100_000_000
"""A step that takes longer is told."""


class Stopwatch:
    """What was told of so far, for all tasks of one event loop."""

    __slots__ = ("_clock", "_limit_ns", "blamed_ns")

    def __init__(self, clock: Callable[[], int], *, limit_ns: int = LIMIT_NS) -> None:
        """Tell of steps over *limit_ns*, as *clock* measures it in nanoseconds."""
        self._clock = clock
        self._limit_ns = limit_ns
        self.blamed_ns = 0
        """Time that others were blamed for: an outer step contains the inner ones."""


class Watched:
    """Awaits a coroutine; calls *tell* with the nanoseconds of each step that is too long."""

    __slots__ = ("_coroutine", "_stopwatch", "_tell")

    def __init__(
        self,
        stopwatch: Stopwatch,
        coroutine: Coroutine[Any, Any, Any],
        tell: Callable[[int], None],
    ) -> None:
        self._stopwatch = stopwatch
        self._coroutine = coroutine
        self._tell = tell

    def __await__(self) -> Generator[Any, Any, Any]:
        stopwatch, coroutine = self._stopwatch, self._coroutine
        clock, limit_ns = stopwatch._clock, stopwatch._limit_ns
        take: Callable[[Any], Any] = coroutine.send
        argument: Any = None
        while True:
            blamed_ns = stopwatch.blamed_ns
            begun_ns = clock()
            try:
                asked = take(argument)
            except StopIteration as stop:
                return stop.value
            finally:
                argument = None  # an error would hold this frame, and so itself
                took_ns = clock() - begun_ns
                if took_ns > limit_ns:
                    own_ns = took_ns - (stopwatch.blamed_ns - blamed_ns)
                    if own_ns > limit_ns:
                        stopwatch.blamed_ns += own_ns
                        self._tell(own_ns)
            try:
                argument = yield asked
                take = coroutine.send
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 (handed on: it is the coroutine's)
                take, argument = coroutine.throw, error
