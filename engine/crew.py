"""`Crew`: the tasks that workers are, in the form in which each weighs least.

A child of anyio's task group has a handle, an event, a cancel scope and a wrapper of its own: two
kilobytes for each run that waits.  A plain task of asyncio has none of these, and what workers
need of them is here.  Trio's own children are light.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, Protocol

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

NAME: Final = "headrace worker"


class Crew(Protocol):
    """Starts tasks in a task group, or in its stead."""

    scopes: dict[Any, CancelScope]
    """Each task that has begun, and the scope in which all is that it does now."""
    is_ending: bool
    """Whether a task is to return now that it has left its scope."""

    def start(self, work: Coroutine[Any, Any, None], group: TaskGroup) -> None:
        """Start a task that does *work* while *group*, the same for all, is there."""
        ...

    def requests(self) -> int:
        """Return how often the task that is running was cancelled itself, rather than a scope."""
        ...

    def note_own_request(self) -> None:
        """Note that the code of the task that is running has done so."""
        ...

    async def take_back(self, *, only_own: bool = False) -> bool:
        """Let the task that is running go on though it was cancelled; ``False``: it is to end.

        With *only_own* it goes on if its own code has cancelled it, and not if others have.
        """
        ...

    async def end(self) -> None:
        """Return when all tasks have ended, which are cancelled for that.

        Raises:
            BaseExceptionGroup: what tasks have ended of.  Also for one: as it is, a
                `KeyboardInterrupt` would leave the loop once more, in the midst of its cleaning up.
        """
        ...


class ChildCrew:
    """Children of the task group, which ends them itself."""

    def __init__(self) -> None:
        """Begin with none."""
        self.scopes: dict[Any, CancelScope] = {}
        self.is_ending = False

    def start(self, work: Coroutine[Any, Any, None], group: TaskGroup) -> None:
        """See `Crew`."""
        group.start_soon(_awaited, work, name=NAME)

    def requests(self) -> int:
        """See `Crew`; with trio nobody can cancel one."""
        return 0

    def note_own_request(self) -> None:
        """See `Crew`."""

    async def take_back(self, *, only_own: bool = False) -> bool:
        """See `Crew`."""
        return False

    async def end(self) -> None:
        """See `Crew`."""


async def _awaited(work: Coroutine[Any, Any, None]) -> None:
    await work


class PlainCrew:
    """Tasks of asyncio, each of which is cancelled through its scope.

    So a shield holds, and code that swallows one cancellation gets the next, as in children of
    anyio's task groups; `asyncio.Task.cancel` would reach it once, through all shields.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin with none, on *loop*, which is running."""
        self.scopes: dict[Any, CancelScope] = {}
        self.is_ending = False
        self._loop = loop
        self._group: TaskGroup
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_itself: set[asyncio.Task[None]] = set()
        """Those whose own code has cancelled them, which is to end that code and nothing else."""
        self._errors: list[BaseException] = []
        self._left: asyncio.Future[None] | None = None
        """Done once the last has ended, if somebody waits for that."""
        self._note_end = self._ended  # one for all
        self._context = copy_context()

    def start(self, work: Coroutine[Any, Any, None], group: TaskGroup) -> None:
        """See `Crew`."""
        self._group = group
        # Not by the loop's factory: that of a host may begin the task here, in the middle.
        task = asyncio.Task(work, loop=self._loop, name=NAME)
        self._tasks.add(task)
        task.add_done_callback(self._note_end, context=self._context)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.remove(task)
        self.scopes.pop(task, None)
        self._by_itself.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._errors.append(error)
        if not self.is_ending:  # as a child of it would have
            self._group.cancel_scope.cancel()
        if self._left is not None and not self._tasks and not self._left.done():
            self._left.set_result(None)

    def requests(self) -> int:
        """See `Crew`."""
        return self._current().cancelling()

    def note_own_request(self) -> None:
        """See `Crew`."""
        self._by_itself.add(self._current())

    async def take_back(self, *, only_own: bool = False) -> bool:
        """See `Crew`."""
        task = self._current()
        is_own = task in self._by_itself
        self._by_itself.discard(task)
        if self.is_ending or (only_own and not is_own):
            return False
        if anyio.current_effective_deadline() == -math.inf:
            return False  # a scope is cancelled, too
        while task.cancelling():
            task.uncancel()
        with suppress(asyncio.CancelledError):  # if it has not arrived yet
            await asyncio.sleep(0)
        return not self.is_ending

    async def end(self) -> None:
        """See `Crew`."""
        self.is_ending = True
        for scope in [*self.scopes.values()]:
            scope.cancel()
        is_cancelled = False
        with CancelScope(shield=True):
            while self._tasks:
                self._left = self._loop.create_future()
                try:
                    await self._left
                except asyncio.CancelledError:  # of a host that cancels each task that there is
                    is_cancelled = True
        if self._errors:
            raise BaseExceptionGroup("workers have ended", self._errors)
        if is_cancelled:
            raise asyncio.CancelledError

    def _current(self) -> asyncio.Task[Any]:
        task = asyncio.current_task(self._loop)
        assert task is not None, "called by a task"
        return task
