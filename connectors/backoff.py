"""`Backoff`: how long to wait before a server is tried again that is gone."""

from __future__ import annotations

from random import Random
from typing import Final

import anyio

FIRST_S: Final = 0.1
MOST_S: Final = 3.0
"""A server that is back is found again within 5 s, the time to connect included."""
STEADY_S: Final = 10.0
"""After a connection that held this long the next wait is the first one again."""


class Backoff:
    """Waits that double up to a bound, each shortened by chance by up to a half.

    So many clients of one server do not come back at the same moment ("equal jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """

    def __init__(
        self, *, first_s: float = FIRST_S, most_s: float = MOST_S, rng: Random | None = None
    ) -> None:
        """Begin with the first wait; *rng* is the chance, for tests."""
        self._first_s = first_s
        self._most_s = most_s
        self._rng = rng or Random()  # noqa: S311 (no secret)
        self._next_s = first_s
        self.tries = 0
        """How many waits there were since the last `reset`."""

    def next_s(self) -> float:
        """Return the next wait, in seconds."""
        ceiling_s, self._next_s = self._next_s, min(self._next_s * 2, self._most_s)
        self.tries += 1
        return ceiling_s * (1 - 0.5 * self._rng.random())

    async def wait(self) -> None:
        """Wait for the next of the waits."""
        await anyio.sleep(self.next_s())

    def reset(self, *, held_s: float = STEADY_S) -> None:
        """A connection held for *held_s*: begin anew, if that is long enough to trust it."""
        if held_s >= STEADY_S:
            self._next_s, self.tries = self._first_s, 0
