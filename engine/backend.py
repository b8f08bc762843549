"""The few things that anyio leaves to the backend: waking the loop from a thread or later.

asyncio is what is tuned; trio works.  Each function is looked up once, when an engine
opens, since asking for the backend costs more than what is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import anyio
from anyio import CancelScope
from msgspec import Struct

from headrace.engine.crew import ChildCrew, Crew, PlainCrew

R = TypeVar("R")

TIDY_AT: Final = 64

MakeFuture = Callable[[], "asyncio.Future[Any]"]
"""`create_future` of the loop.  To ask which loop is running takes a system call, each time."""


class Event(Protocol):
    """What `anyio.Event` does, without its asking for the backend each time one is made.

    Only waiting when it is not set yet is promised to give others their turn.
    """

    def set(self) -> object:
        """Wake all who wait."""
        ...

    def is_set(self) -> bool:
        """Whether `set` was called."""
        ...

    def wait(self) -> Awaitable[object]:
        """Return what comes to an end once `set` was called; await it at once."""
        ...


class _Done:
    """What is awaited when there is nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


_DONE: Final = _Done()


class Waiter:
    """An `Event` of asyncio that one task waits for, at most.

    `wait` gives the future itself: a coroutine around it would cost as much again, for each
    run that waits.
    """

    __slots__ = ("_future", "_is_set", "_make")

    def __init__(self, make: MakeFuture) -> None:
        self._make = make
        self._future: asyncio.Future[None] | None = None
        self._is_set = False

    def set(self) -> None:
        """See `Event`."""
        self._is_set = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def is_set(self) -> bool:
        """See `Event`."""
        return self._is_set

    def wait(self) -> Awaitable[object]:
        """See `Event`."""
        if self._is_set:
            return _DONE
        self._future = self._make()
        return self._future


class SharedWaiter:
    """An `Event` of asyncio for as many as like to wait: each has a future of its own.

    One for all would be cancelled with the first of them.
    """

    __slots__ = ("_futures", "_is_set", "_make", "_tidy_at")

    def __init__(self, make: MakeFuture) -> None:
        self._make = make
        self._futures: list[asyncio.Future[None]] = []
        self._is_set = False
        self._tidy_at = TIDY_AT
        """How many futures there are when those are let go of whose waits were cancelled."""

    def set(self) -> None:
        """See `Event`."""
        self._is_set = True
        for future in self._futures:
            if not future.done():
                future.set_result(None)
        self._futures = []

    def is_set(self) -> bool:
        """See `Event`."""
        return self._is_set

    def wait(self) -> Awaitable[object]:
        """See `Event`."""
        if self._is_set:
            return _DONE
        if len(self._futures) >= self._tidy_at:
            self._futures = [future for future in self._futures if not future.done()]
            self._tidy_at = 2 * len(self._futures) + TIDY_AT
        future = self._make()
        self._futures.append(future)
        return future


class Backend(Struct, frozen=True):
    """How to reach the running event loop."""

    call_soon: Callable[[Callable[[], object]], object]
    """From the loop's own thread: call this once the tasks that can run now have run."""
    call_from_thread: Callable[[Callable[[], object]], object]
    """From any thread: call this in the loop.  Raises RuntimeError once the loop is closed."""
    current_task: Callable[[], Any]
    """The task that is running, as an object to compare by identity."""
    event: Callable[[], Event]
    """Make an event, in any callback of the loop."""
    waiter: Callable[[], Event]
    """Make an event that one task waits for, at most: a third of the memory."""
    scope: Callable[[], CancelScope]
    """Make a cancel scope."""
    crew: Callable[[], Crew]
    """Make what starts workers."""


def is_cancelled_here() -> bool:
    """Say whether somebody cancelled the asyncio task that is running.

    If not, and it gets a `CancelledError` nevertheless, it awaited one that was cancelled, or
    raised that itself.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False  # trio has another exception for that
    return task is None or task.cancelling() > 0


def is_running(task: object) -> bool:
    """Say whether *task* is executing; not if its coroutine is being closed from outside."""
    try:
        return anyio.get_current_task().id == id(task)
    except RuntimeError:
        return False  # no loop is


async def in_own_thread(backend: Backend, call: Callable[[], R]) -> R:
    """Return what *call* returns; it runs in a thread that has ended by then.

    For opening and closing a log, which may take long: a thread of a pool would linger in
    the host.  It cannot be interrupted, so a cancellation waits for it.
    """
    ended = anyio.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="headrace-opener") as pool:
        future = pool.submit(call)
        future.add_done_callback(lambda _: backend.call_from_thread(ended.set))
        with CancelScope(shield=True):
            await ended.wait()
    return future.result()


def current_backend() -> Backend:
    """Return the backend of the loop that is running."""
    scope = type(CancelScope())  # anyio's own for this backend
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        token = trio.lowlevel.current_trio_token()
        return Backend(
            token.run_sync_soon,
            token.run_sync_soon,
            trio.lowlevel.current_task,
            trio.Event,
            trio.Event,
            scope,
            ChildCrew,
        )
    return Backend(
        loop.call_soon,
        loop.call_soon_threadsafe,
        partial(asyncio.current_task, loop),
        partial(SharedWaiter, loop.create_future),
        partial(Waiter, loop.create_future),
        scope,
        partial(PlainCrew, loop),
    )
