"""The few things that anyio leaves to the backend: waking the loop from a thread or later.

asyncio is what is tuned; trio works.  Each function is looked up once, when an engine
opens, since asking for the backend costs more than what is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct


class Backend(Struct, frozen=True):
    """How to reach the running event loop."""

    call_soon: Callable[[Callable[[], object]], object]
    """From the loop's own thread: call this once the tasks that can run now have run."""
    call_from_thread: Callable[[Callable[[], object]], object]
    """From any thread: call this in the loop.  Raises RuntimeError once the loop is closed."""
    current_task: Callable[[], Any]
    """The task that is running, as an object to compare by identity."""


def current_backend() -> Backend:
    """Return the backend of the loop that is running."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        token = trio.lowlevel.current_trio_token()
        return Backend(token.run_sync_soon, token.run_sync_soon, trio.lowlevel.current_task)
    return Backend(loop.call_soon, loop.call_soon_threadsafe, asyncio.current_task)
