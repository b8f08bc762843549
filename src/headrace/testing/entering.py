"""`virtual_time`: lets the event loop that is running go by virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from headrace.testing.elsewhere import watched
from headrace.testing.loops import in_force
from headrace.testing.virtual import START_WALL_NS, VirtualTime

__all__ = ["virtual_time"]


@asynccontextmanager
async def virtual_time(*, wall_ns: int = START_WALL_NS) -> AsyncGenerator[VirtualTime]:
    """Let the event loop that is running go by virtual time while the block lasts.

    What is yielded is a clock for `App.open`.  Open engines, and begin time-outs, in the block:
    ``async with virtual_time() as clock, app.open(MemoryLog(), clock=clock) as engine``.

    Of `time` the functions `sleep`, `monotonic`, `monotonic_ns`, `time` and `time_ns` go by it
    too, in the loop's thread and in threads that work for it.  `datetime.now()` does not.

    Raises:
        RuntimeError: the loop is none of asyncio's own and not trio's, or time is virtual already.
    """
    clock = VirtualTime(wall_ns=wall_ns)
    with in_force(clock), watched(clock):
        try:
            yield clock
        finally:
            clock.release()
