"""The children of a run: `spawn`, `map`, and the `Handle` of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from headrace.engine.run_state import Step
from headrace.engine.steps import Steps
from headrace.engine.task import TaskSpec

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")


class Children(Steps):
    """A run's calls that start children beside it."""

    _handles: list[Handle[Any]] | None = None
    """The children that were spawned."""
    _child_ended: Callable[[], None] | None = None

    @overload
    def spawn(
        self, task: Callable[Concatenate[Self, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
    @overload
    def spawn(
        self, task: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
    @overload
    def spawn(
        self, task: Callable[Concatenate[Self, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Handle[R]: ...
    @overload
    def spawn(self, task: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    def spawn(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> Handle[Any]:
        """Start *task* beside this run and return at once.

        The run does not end before its children.  One that fails and was not awaited makes
        the run fail; when the run fails or is cancelled, its children are cancelled.
        """
        return self._spawn(task, args, kwargs, self._next_ordinal())

    def _spawn(self, task: Callable[..., Any], args: Any, kwargs: Any, ordinal: int) -> Handle[Any]:
        spec = self._executor.spec_of(task)
        step = self._request("spawn", spec, args, kwargs, ordinal)
        handle: Handle[Any] = Handle(self, step, spec, ordinal)
        if self._handles is None:
            self._handles = []
        self._handles.append(handle)
        if step.status == "pending":
            self._executor.when_ended(step.sequence, handle._ended)
            self._executor.start(step.sequence)
        else:
            handle._ended()
        return handle

    @overload
    async def map(
        self,
        task: Callable[[Self, A], Awaitable[R]],
        items: Iterable[A],
        *,
        max_concurrency: int | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        task: Callable[[A], Awaitable[R]],
        items: Iterable[A],
        *,
        max_concurrency: int | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        task: Callable[[Self, A], R],
        items: Iterable[A],
        *,
        max_concurrency: int | None = None,
    ) -> list[R]: ...
    @overload
    async def map(
        self, task: Callable[[A], R], items: Iterable[A], *, max_concurrency: int | None = None
    ) -> list[R]: ...
    async def map(
        self,
        task: Callable[..., Any],
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
    ) -> list[Any]:
        """Run *task* once for each of *items*; return the results in the order of the items.

        At most *max_concurrency* at a time.  The first that fails, in the order of the
        records, cancels the others and is raised.

        Raises:
            StepFailed: one was given up; the others have ended.
        """
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"map(max_concurrency={max_concurrency}): expected at least 1")
        todo = deque(items)
        # The ordinals are given out beforehand: which item starts when depends on which
        # ended first, and that may be another one after a crash.
        self._check_host()
        first = self._ordinal + 1
        count = len(todo)
        self._ordinal += count
        limit = max_concurrency or max(1, count)
        handles: list[Handle[Any]] = []
        ended: deque[Handle[Any]] = deque()
        running = 0
        while todo or running:
            # What is on record is asked for at once: it may be what the others end for.
            while todo and (running < limit or first + len(handles) in self._state.steps):
                handle = self._spawn(task, (todo.popleft(),), {}, first + len(handles))
                handles.append(handle)
                running += 1
                handle._notify(ended)
            while ended:
                running -= 1
                if ended.popleft().status != "done":
                    await self._give_up_map(handles)
            if running >= limit or (running and not todo):
                await self._any_ended(ended)
        return [handle._outcome() for handle in handles]

    async def _any_ended(self, ended: deque[Handle[Any]]) -> None:
        while not ended:
            parking = self._parking()
            self._child_ended = parking.wake
            await parking.wait()

    def _note_child_ended(self) -> None:
        if self._child_ended is not None:
            self._child_ended()
            self._child_ended = None

    async def _give_up_map(self, handles: list[Handle[Any]]) -> None:
        """Cancel what still runs and raise what failed first."""
        for handle in handles:
            handle._awaited = True
            if handle.status == "pending":
                self._executor.cancel_child(handle.run_id, "a sibling failed")
        for handle in handles:
            await handle._done()
        failed = [handle for handle in handles if handle.status == "failed"] or [
            handle for handle in handles if handle.status == "cancelled"
        ]
        min(failed, key=lambda handle: (handle._step.ended, handle.run_id))._outcome()

    async def _join(self) -> None:
        """Wait for the children that nobody awaited; raise what the first of them raised."""
        for handle in self._handles or ():
            if not handle._awaited:
                await handle.result()


class Handle(Generic[R]):
    """A child that was spawned: ``await handle`` gives its result."""

    def __init__(self, parent: Children, step: Step, spec: TaskSpec, ordinal: int) -> None:
        """Made by `Run.spawn`."""
        self._parent = parent
        self._step = step
        self._spec = spec
        self._step_ordinal = ordinal
        self._is_done = False
        self._wakes: list[Callable[[], None]] = []
        self._awaited = False
        self._queue: deque[Handle[Any]] | None = None

    @property
    def run_id(self) -> int:
        """The id of the child run."""
        return self._step.sequence

    @property
    def status(self) -> str:
        """``pending``, ``done``, ``failed`` or ``cancelled``."""
        return self._step.status if self._is_done else "pending"

    async def result(self) -> R:
        """Return the child's result, which is durable by then.

        Raises:
            StepFailed, StepCancelled: it ended without success.
        """
        self._awaited = True
        await self._done()
        return self._outcome()

    def __await__(self) -> Generator[Any, Any, R]:
        """See `result`."""
        return self.result().__await__()

    def cancel(self, reason: str = "cancelled by its parent") -> None:
        """Ask the child to end; awaiting it then raises `StepCancelled`."""
        if not self._is_done:
            self._parent._executor.cancel_child(self.run_id, reason)

    async def _done(self) -> None:
        if not self._is_done:
            if self._parent._current_task() is not self._parent._host:
                self._parent._executor.check_wait(self.run_id)
            parking = self._parent._parking()
            self._wakes.append(parking.wake)
            await parking.wait()

    def _outcome(self) -> R:
        self._awaited = True
        result: R = self._parent._outcome(self._step, self._spec)
        return result

    def _notify(self, queue: deque[Handle[Any]]) -> None:
        if self._is_done:
            queue.append(self)
        else:
            self._queue = queue

    def _ended(self) -> None:
        self._is_done = True
        for wake in self._wakes:
            wake()
        if self._queue is not None:
            self._queue.append(self)
            self._queue = None  # which may keep it for ever, if another one of them failed
        self._parent._note_child_ended()
