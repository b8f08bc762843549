"""Children in the order of their ends: `race` and `map_as_completed`.

That order is the one of the records that end them, so it is the same again after a crash.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from headrace.engine.children import Children, Handle

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")


class Completions(Children):
    """A run's calls that go by which child ends first."""

    @overload
    async def race(self, first: Handle[R], second: Handle[A], /) -> R | A: ...
    @overload
    async def race(self, first: Handle[R], second: Handle[A], third: Handle[B], /) -> R | A | B: ...
    @overload
    async def race(self, *handles: Handle[R]) -> R: ...
    async def race(self, *handles: Any) -> Any:
        """Return what the first of *handles* to end comes to; cancel and await the others.

        The first by the log: after a crash or in another attempt the same one wins again.

        Raises:
            StepFailed, StepCancelled: the first to end failed; the others have ended.
            ValueError: there are no handles, or one is of another run.
        """
        self._check_host()
        if not handles:
            raise ValueError(f"{self!r}: race(): expected at least one handle of run.spawn")
        for handle in handles:
            if not isinstance(handle, Handle) or handle._parent is not self:
                raise ValueError(
                    f"{self!r}: race({handle!r}): expected handles that this run's spawn returned"
                )
            handle._awaited = True
        ended = [handle for handle in handles if handle._is_done]
        while not ended:
            parking = self._parking()
            self._child_ended = parking.wake
            await parking.wait()
            ended = [handle for handle in handles if handle._is_done]
        winner = min(ended, key=_place)
        for handle in handles:
            if handle is not winner and not handle._is_done:
                self._executor.cancel_child(handle.run_id, "another one won the race")
        for handle in handles:
            await handle._done()
        result = winner._outcome()
        # The next attempt need not let them run again, for they have lost.
        for handle in handles:
            if handle is not winner:
                self._shown.setdefault(handle.run_id, self._ordinal)
        return result

    @overload
    def map_as_completed(
        self,
        task: Callable[[Self, A], Awaitable[R]],
        items: Iterable[A],
        *,
        max_concurrency: int | None = None,
    ) -> AsCompleted[R]: ...
    @overload
    def map_as_completed(
        self,
        task: Callable[[A], Awaitable[R]],
        items: Iterable[A],
        *,
        max_concurrency: int | None = None,
    ) -> AsCompleted[R]: ...
    @overload
    def map_as_completed(
        self,
        task: Callable[[Self, A], R],
        items: Iterable[A],
        *,
        max_concurrency: int | None = None,
    ) -> AsCompleted[R]: ...
    @overload
    def map_as_completed(
        self, task: Callable[[A], R], items: Iterable[A], *, max_concurrency: int | None = None
    ) -> AsCompleted[R]: ...
    def map_as_completed(
        self,
        task: Callable[..., Any],
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
    ) -> AsCompleted[Any]:
        """Run *task* once for each of *items*; give ``(index, result)`` as they end.

        For ``async for index, result in run.map_as_completed(…)``.  At most
        *max_concurrency* at a time.  The results come in the order of the records, the same
        again after a crash.  One that fails cancels the others and is raised, as in `map`.

        Leaving the loop early cancels the rest, at once if nothing else names what this
        returns.  ``async with run.map_as_completed(…) as results:`` around the loop cancels
        them at its end and awaits theirs; so does `AsCompleted.aclose`.

        Raises:
            StepFailed: from the loop: one was given up; the others have ended.
        """
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(
                f"map_as_completed(max_concurrency={max_concurrency}): expected at least 1"
            )
        todo = deque(items)
        self._check_host()
        # Given out beforehand, as in `map`.
        first = self._ordinal + 1
        self._ordinal += len(todo)
        return AsCompleted(self, task, todo, first, max_concurrency or max(1, len(todo)))


class AsCompleted(Generic[R]):
    """The results of `Run.map_as_completed`, as they come: to be looped over, once.

    With ``async with``, what is left at the end of the block is cancelled and has ended then.
    """

    def __init__(
        self, run: Completions, task: Callable[..., Any], todo: deque[Any], first: int, limit: int
    ) -> None:
        """Made by `Run.map_as_completed`."""
        self._run = run
        self._task = task
        self._todo = todo
        self._first = first
        self._limit = limit
        self._handles: list[Handle[Any]] = []
        self._ended: deque[Handle[Any]] = deque()
        self._heap: list[tuple[int, int, Handle[Any]]] = []
        self._running = 0
        self._is_over = False

    async def __aenter__(self) -> Self:
        """Return itself, to be looped over."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See `aclose`."""
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what still runs, and return once it has ended; nothing more comes."""
        run = self._run
        if self._running and not self._is_over and run._executor.is_at_work(run):
            run._check_host()
            self._cancel_rest()
            for handle in self._handles:
                await handle._done()
        self._is_over = True

    def _cancel_rest(self) -> None:
        run = self._run
        self._is_over = True
        for handle in self._handles:
            handle.cancel("its results are not wanted any more")
            # The next attempt need not let them run again.
            run._shown.setdefault(handle.run_id, run._ordinal)

    def __aiter__(self) -> Self:
        """It is its own iterator: each result comes once."""
        return self

    async def __anext__(self) -> tuple[int, R]:
        """Return the index of the next item whose run has ended, and its result."""
        self._run._check_host()
        self._fill()
        self._sort()
        if not self._running or self._is_over:
            self._is_over = True
            raise StopAsyncIteration
        while not self._heap:
            await self._run._any_ended(self._ended)
            self._sort()
        _, index, handle = heapq.heappop(self._heap)
        self._running -= 1
        if handle.status != "done":
            self._is_over = True
            await self._run._give_up_map(self._handles)
        result: R = handle._outcome()
        self._fill()
        return index, result

    def _fill(self) -> None:
        """Start as many as may run, and ask for all that is on record."""
        run, handles = self._run, self._handles
        while self._todo and not self._is_over:
            ordinal = self._first + len(handles)
            if self._running >= self._limit and ordinal not in run._state.steps:
                return
            handle = run._spawn(self._task, (self._todo.popleft(),), {}, ordinal)
            handle._awaited = True  # what is left over when the run returns is cancelled
            handles.append(handle)
            self._running += 1
            handle._notify(self._ended)

    def _sort(self) -> None:
        while self._ended:
            handle = self._ended.popleft()
            index = handle._step_ordinal - self._first
            heapq.heappush(self._heap, (handle._step.ended, index, handle))

    def __del__(self) -> None:
        """Cancel what still runs, if the loop was left.

        Only while the run's own code goes on: when it has ended, its children end with it,
        and when the engine stops they stay open.
        """
        if self._running and not self._is_over and self._run._is_at_work():
            self._cancel_rest()


def _place(handle: Handle[Any]) -> tuple[int, int]:
    return handle._step.ended, handle.run_id
