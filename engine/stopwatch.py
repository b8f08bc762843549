"""`Stopwatch`: finds out which task's code keeps the event loop from all other work.

Each step of a task's coroutine, from one await to the next, is measured as it is taken: two
readings of the clock, and no thread that would wake an idle machine.  So it is told after
the step, with the name of the innermost task that took it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, cast

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

    def blame(self, took_ns: int, blamed_ns: int) -> int:
        """Return what a step of *took_ns* took itself, if that is too long; else 0.

        *blamed_ns* is what others had been blamed for when it began.
        """
        own_ns = took_ns - (self.blamed_ns - blamed_ns)
        if own_ns <= self._limit_ns:
            return 0
        self.blamed_ns += own_ns
        return own_ns

    def tell(self, tell: Callable[[int], None], late_ns: int) -> None:
        """Call *tell*; the time that takes is no task's: the first line of all may take long."""
        begun_ns = self._clock()
        tell(late_ns)
        self.blamed_ns += self._clock() - begun_ns


class Watched:
    """Awaits a coroutine; calls `tell` with the nanoseconds of each step that is too long."""

    __slots__ = ("_asked", "_coroutine", "_error", "_has_begun", "_stopwatch", "is_over", "late_ns",
                 "tell", "value")  # fmt: skip

    def __init__(
        self,
        stopwatch: Stopwatch,
        coroutine: Coroutine[Any, Any, Any],
        tell: Callable[[int], None],
    ) -> None:
        self._stopwatch = stopwatch
        self._coroutine = coroutine
        self.tell = tell
        self._has_begun = False

    def begin(self) -> None:
        """Execute the first step, before this is awaited.

        If that was all, `is_over` says so, and `value` is what the coroutine returned.  What it
        raised, or awaits, comes out once this is awaited; in `late_ns` is how long it took, if
        that was too long.
        """
        self._has_begun, self.is_over = True, False
        self.value: Any = None
        self._asked: Any = None
        self._error: BaseException | None = None
        self.late_ns = 0
        stopwatch = self._stopwatch
        blamed_ns, begun_ns = stopwatch.blamed_ns, stopwatch._clock()
        try:
            self._asked = self._coroutine.send(None)
        except StopIteration as stop:
            self.is_over, self.value = True, stop.value
        except BaseException as error:  # noqa: BLE001 (it comes out when this is awaited)
            self._error = error
        took_ns = stopwatch._clock() - begun_ns
        if took_ns > stopwatch._limit_ns:
            self.late_ns = stopwatch.blame(took_ns, blamed_ns)

    def fail(self, error: BaseException) -> None:
        """Let *error* come out when this is awaited, in place of the value."""
        self.is_over, self._error = False, error

    def close(self) -> None:
        """End the coroutine."""
        self._coroutine.close()

    # It is the iterator of its own `await`: a generator would be a frame for each run that waits.

    def __await__(self) -> Generator[Any, Any, Any]:
        return cast("Generator[Any, Any, Any]", self)

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, argument: Any) -> Any:
        """Execute the next step; return what it awaits."""
        if self._has_begun:
            self._has_begun = False
            return self._of_first_step()
        stopwatch = self._stopwatch
        blamed_ns, begun_ns = stopwatch.blamed_ns, stopwatch._clock()
        try:
            return self._coroutine.send(argument)
        finally:
            if stopwatch._clock() - begun_ns > stopwatch._limit_ns:
                self._tell_of(begun_ns, blamed_ns)

    def throw(self, *error: Any) -> Any:
        """Execute the next step, which begins with *error*; return what it awaits."""
        stopwatch = self._stopwatch
        blamed_ns, begun_ns = stopwatch.blamed_ns, stopwatch._clock()
        try:
            return self._coroutine.throw(*error)
        finally:
            error = ()  # it would hold this frame, and so itself
            if stopwatch._clock() - begun_ns > stopwatch._limit_ns:
                self._tell_of(begun_ns, blamed_ns)

    def _of_first_step(self) -> Any:
        if self.late_ns:
            self._stopwatch.tell(self.tell, self.late_ns)
        if self.is_over:
            raise StopIteration(self.value)
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error
        asked, self._asked = self._asked, None
        return asked

    def _tell_of(self, begun_ns: int, blamed_ns: int) -> None:
        stopwatch = self._stopwatch
        own_ns = stopwatch.blame(stopwatch._clock() - begun_ns, blamed_ns)
        if own_ns:
            stopwatch.tell(self.tell, own_ns)
