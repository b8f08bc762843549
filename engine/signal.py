"""`Signal`: many waiters, woken together whenever something has changed."""

from __future__ import annotations

import anyio


class Signal:
    """Like a condition without a lock: `wait` returns after the next `send`.

    The event is made by the first who waits, in its own task: `send` may be called from a
    callback of the loop, where anyio cannot make one, and costs nothing if nobody waits.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for the next `send`."""
        return self._event is not None

    def send(self) -> None:
        """Wake all who wait."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Return after the next `send`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
