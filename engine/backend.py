"""The few things that anyio leaves to the backend: waking the loop from a thread or later.

asyncio is what is tuned; trio works.  Each function is looked up once, when an engine
opens, since asking for the backend costs more than what is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import anyio
from anyio import CancelScope
from msgspec import Struct

R = TypeVar("R")


class Event(Protocol):
    """What `anyio.Event` does, without its asking for the backend each time one is made."""

    def set(self) -> object:
        """Wake all who wait."""
        ...

    def is_set(self) -> bool:
        """Whether `set` was called."""
        ...

    async def wait(self) -> object:
        """Return once `set` was called."""
        ...


class Waiter:
    """An `Event` of asyncio that one task waits for, at most."""

    __slots__ = ("_future", "_is_set")

    def __init__(self) -> None:
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

    async def wait(self) -> None:
        """See `Event`."""
        if not self._is_set:
            self._future = asyncio.get_running_loop().create_future()
            await self._future


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


def is_cancelled_here() -> bool:
    """Say whether somebody cancelled the asyncio task that is running.

    If not, and it gets a `CancelledError` nevertheless, it awaited one that was cancelled.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


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
        )
    return Backend(
        loop.call_soon,
        loop.call_soon_threadsafe,
        asyncio.current_task,
        asyncio.Event,
        Waiter,
        scope,
    )
