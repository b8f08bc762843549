"""The only place that reads a clock: `SystemClock`, `VirtualClock`, and log time (law L1)."""

from __future__ import annotations

import heapq
import time
from typing import Final, Protocol

import anyio
from anyio.lowlevel import checkpoint

NS: Final = 1_000_000_000
STEP_NS_MAX: Final = 1 * NS
"""A wall clock that moves by more than this against the monotonic one was set."""
TURNS: Final = 30
"""Turns of the loop in which what a deadline has woken usually blocks again."""


def seconds_to_ns(seconds: float) -> int:
    """Return *seconds* as whole nanoseconds, without the float's error above 2**53 ns."""
    whole = int(seconds)
    return whole * NS + round((seconds - whole) * NS)


class Clock(Protocol):
    """The only source of time inside the engine."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch.  May jump."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since some fixed moment.  Never goes back."""
        ...

    async def sleep_until(self, monotonic_ns: int) -> None:
        """Return once `monotonic_ns` has reached *monotonic_ns*."""
        ...


class SystemClock:
    """The machine's clocks."""

    # Themselves, without a call around each.
    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)

    async def sleep_until(self, monotonic_ns: int) -> None:
        """See `Clock`."""
        await checkpoint()  # log time stands still until others had their turn
        # Again if it woke too early: the loop's clock is coarser than ours.
        while (left_ns := monotonic_ns - time.monotonic_ns()) > 0:  # noqa: ASYNC110 (no polling)
            await anyio.sleep(left_ns / NS)


class VirtualClock:
    """A clock that stands still until a test moves it.

    `advance` wakes one deadline at a time and lets everything run until it blocks again,
    so a day of retries takes milliseconds, in the same order each time.
    """

    def __init__(self, *, wall_ns: int = 1_700_000_000 * NS) -> None:
        """Start at *wall_ns*."""
        self._start_wall_ns = wall_ns
        self._now_ns = 0
        self._sleepers: list[tuple[int, int, anyio.Event]] = []
        self._tickets = 0  # keeps equal deadlines in the order in which they were asked for

    def wall_ns(self) -> int:
        """See `Clock`."""
        return self._start_wall_ns + self._now_ns

    def monotonic_ns(self) -> int:
        """See `Clock`."""
        return self._now_ns

    async def sleep_until(self, monotonic_ns: int) -> None:
        """See `Clock`."""
        await checkpoint()
        if monotonic_ns > self._now_ns:
            woken = anyio.Event()
            self._tickets += 1
            heapq.heappush(self._sleepers, (monotonic_ns, self._tickets, woken))
            await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Move the time forward by *seconds*, stopping at every deadline on the way."""
        end_ns = self._now_ns + seconds_to_ns(seconds)
        await _all_blocked()
        while self._sleepers and self._sleepers[0][0] <= end_ns:
            self._now_ns, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await _all_blocked()
        self._now_ns = end_ns

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP would."""
        self._start_wall_ns += seconds_to_ns(seconds)


async def _all_blocked() -> None:
    # anyio sleeps for 0.1 s wherever a task is not blocked yet: give them turns before that.
    for _ in range(TURNS):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


class LogTime:
    """Log time of a log that goes by the machine's clocks (law L1).

    ``max(wall clock, last + 0.99 × monotonic time since last)``: a wall clock that is set
    back neither freezes timers nor stretches windows.
    """

    def __init__(self, clock: Clock, *, last_ns: int) -> None:
        """Go on after *last_ns*, the log time of the last stored record (0: none)."""
        self._clock = clock
        self._last_ns = last_ns
        self._last_wall_ns = clock.wall_ns()
        self._last_monotonic_ns = clock.monotonic_ns()
        # Where the wall clock was last followed.  Not the last reading: the hundredth that
        # is lost would be rounded up at each, and a busy log would stand still.
        self._base_ns = last_ns
        self._base_monotonic_ns = self._last_monotonic_ns
        self.stepped_ns = 0
        """By how much the wall clock was set since somebody last looked and put 0 here."""

    def now_ns(self) -> int:
        """Return the log time of a record that is appended now."""
        wall_ns = self._clock.wall_ns()
        monotonic_ns = self._clock.monotonic_ns()
        step_ns = wall_ns - self._last_wall_ns - (monotonic_ns - self._last_monotonic_ns)
        if not -STEP_NS_MAX <= step_ns <= STEP_NS_MAX:
            self.stepped_ns += step_ns
        self._last_wall_ns = wall_ns
        self._last_monotonic_ns = monotonic_ns
        slow_ns = self._base_ns + (monotonic_ns - self._base_monotonic_ns) * 99 // 100
        if wall_ns >= slow_ns:
            self._base_ns, self._base_monotonic_ns = wall_ns, monotonic_ns
        self._last_ns = max(wall_ns, slow_ns)
        return self._last_ns

    def monotonic_at(self, due_ns: int) -> int:
        """Return the monotonic time at which log time reaches *due_ns*, if no clock is set."""
        by_wall_ns = self._last_monotonic_ns + due_ns - self._last_wall_ns
        slow_ns = self._base_monotonic_ns - (self._base_ns - due_ns) * 100 // 99  # rounded up
        return max(self._last_monotonic_ns, min(by_wall_ns, slow_ns))
