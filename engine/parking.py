"""`Parking`: a run's code waits for a child or a timer, and everybody can see that it does.

Log time that comes from the input stands still while any code has something to do, so it
matters when exactly a wait is over: when it is woken, not when the code gets its turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anyio import get_cancelled_exc_class

from headrace.engine.backend import Event


def _nothing() -> None:
    """Do nothing."""


def _untold(_: int) -> None:
    """Tell nobody."""


class Parking:
    """One wait.  Make it, hand `wake` to whoever ends it, then `wait`."""

    __slots__ = ("_event", "_go_on", "_is_parked", "_leave", "_note")

    def __init__(
        self,
        event: Event,
        note: Callable[[int], None],
        go_on: Callable[[], Awaitable[None]] | None = None,
        leave: Callable[[], None] = _nothing,
    ) -> None:
        """Wait for *event*, which is new; tell *note* of the beginning (+1) and of the end (-1).

        After the wait *go_on* is awaited, if there is one: whatever else has to come before.
        If either is cancelled, *leave* is called.
        """
        self._note = note
        self._go_on = go_on
        self._leave = leave
        self._event = event
        self._is_parked = False

    def wake(self) -> None:
        """End the wait, now."""
        self._event.set()
        self._unpark()

    async def wait(self) -> None:
        """Return once `wake` has been called."""
        if not self._event.is_set():
            self._is_parked = True
            self._note(+1)
        try:
            await self._event.wait()
            self._unpark()
            if self._go_on is not None:
                await self._go_on()
        except get_cancelled_exc_class():
            self._leave()
            raise
        finally:
            self._unpark()
            # Whoever would have woken it, such as the run itself, may keep it.
            self._go_on, self._leave, self._note = None, _nothing, _untold

    def _unpark(self) -> None:
        if self._is_parked:
            self._is_parked = False
            self._note(-1)
