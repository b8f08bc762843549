"""`VirtualTime`: time that moves on by itself, as soon as everything waits for it.

While it is in force the event loop goes by it: `asyncio.sleep`, `trio.sleep`, time-outs, the
engine's timers and retries, and `time.sleep` in worker threads take no real time.  It stands
still while anything works: a task of the loop, a thread that the loop waits for, a worker
process, a log that is being written.

How a loop is made to go by it is the subject of `headrace.testing.loops`, how it knows what
others do that of `headrace.testing.elsewhere`.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from headrace.engine.clock import NS, seconds_to_ns

__all__ = ["START_WALL_NS", "Job", "VirtualTime"]

START_WALL_NS: Final = 1_700_000_000 * NS


class Job:
    """Something that is done outside of the loop, and that the loop waits for."""

    __slots__ = ("is_over",)

    def __init__(self) -> None:
        self.is_over = False


class VirtualTime:
    """A clock for `App.open`, and the time of the whole event loop.

    Made by `headrace.testing.virtual_time`.
    """

    def __init__(self, *, wall_ns: int = START_WALL_NS) -> None:
        """Begin at *wall_ns*, nanoseconds since the epoch."""
        self._start_wall_ns = wall_ns
        self._now_ns = 0
        self._lock = threading.Lock()
        self._working: set[Job] = set()
        self._asleep: list[tuple[int, int, Job, threading.Event]] = []
        self._tickets = 0  # keeps equal deadlines in the order in which they were asked for
        self._settling: list[anyio.Event] = []
        self._thread = get_ident()
        self._jobs: dict[int, Job] = {}
        """What each thread does, by the thread's number."""
        self.wake: Callable[[], object] = bool
        """What lets the loop look again; for any thread."""
        self.is_writing: Callable[[], bool] = bool
        """Whether a log has something to write."""

    # ------------------------------------------------------------ a `Clock`

    def wall_ns(self) -> int:
        """See `Clock`."""
        return self._start_wall_ns + self._now_ns

    def monotonic_ns(self) -> int:
        """See `Clock`."""
        return self._now_ns

    async def sleep_until(self, monotonic_ns: int) -> None:
        """See `Clock`."""
        await checkpoint()
        while (left_ns := monotonic_ns - self._now_ns) > 0:  # noqa: ASYNC110 (no polling)
            await anyio.sleep(left_ns / NS)

    # ------------------------------------------------------------ for tests

    @property
    def now(self) -> float:
        """Virtual seconds since it began."""
        return self._now_ns / NS

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass, and return once all that was due by then has been done."""
        end_ns = self._now_ns + seconds_to_ns(seconds)
        await self.settled()
        await self.sleep_until(end_ns)
        await self.settled()

    async def settled(self) -> None:
        """Return once everything waits, without letting time pass."""
        event = anyio.Event()
        self._settling.append(event)
        try:
            await event.wait()
        finally:
            if not event.is_set():
                self._settling.remove(event)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP would."""
        self._start_wall_ns += seconds_to_ns(seconds)

    # ------------------------------------------------------------ for the loop

    @property
    def is_alone(self) -> bool:
        """Whether nobody else works.

        Asked before the loop looks for what has come: what others did is on its way by then.
        """
        with self._lock:
            return not self._working and not self.is_writing()

    def idle(self, left_s: float | None) -> bool:
        """Say what to do now that nothing in the loop can go on for *left_s*; ``None``: for ever.

        ``True``: go on, since time has moved or somebody was woken.  ``False``: wait for what
        comes from outside.
        """
        with self._lock:
            if self._working or self.is_writing():
                return False
            if self._settling:
                for event in self._settling:
                    event.set()
                self._settling = []
                return True
            due_ns = None if left_s is None else self._now_ns + max(1, round(left_s * NS))
            if self._asleep and (due_ns is None or self._asleep[0][0] <= due_ns):
                # One thread at a time, so that what they do has an order.
                at_ns, _, job, woken = heapq.heappop(self._asleep)
                self._now_ns = max(self._now_ns, at_ns)
                if not job.is_over:
                    self._working.add(job)
                woken.set()
                return job.is_over
            if due_ns is None:
                return False
            self._now_ns = due_ns
            return True

    # ------------------------------------------------------------ for what others do

    @property
    def is_here(self) -> bool:
        """Whether the loop's own thread asks."""
        return get_ident() == self._thread

    @property
    def is_concerned(self) -> bool:
        """Whether the thread that asks is the loop's, or works for it."""
        return get_ident() == self._thread or get_ident() in self._jobs

    def job_here(self) -> Job | None:
        """Return what the thread that asks does for the loop."""
        return self._jobs.get(get_ident())

    def begin(self) -> Job:
        """Note that something is done for the loop from now on."""
        job = Job()
        with self._lock:
            self._working.add(job)
        return job

    def end(self, job: Job) -> None:
        """Note that *job* is done, and that the loop knows all that comes of it."""
        with self._lock:
            job.is_over = True
            self._working.discard(job)
        self.tell()

    def pause(self, job: Job) -> None:
        """Note that *job* itself waits for the loop."""
        with self._lock:
            self._working.discard(job)
        self.tell()

    def resume(self, job: Job) -> None:
        """Note that *job* waits no more."""
        with self._lock:
            if not job.is_over:
                self._working.add(job)

    @contextmanager
    def here(self, job: Job) -> Generator[None]:
        """The thread that asks does *job*."""
        self._jobs[get_ident()] = job
        try:
            yield
        finally:
            del self._jobs[get_ident()]

    def sleep_here(self, seconds: float) -> None:
        """Let the thread that asks sleep: for its loop that is time that passes."""
        if self.is_here:
            self._now_ns += seconds_to_ns(seconds)
            return
        job, woken = self._jobs[get_ident()], threading.Event()
        with self._lock:
            self._tickets += 1
            due_ns = self._now_ns + seconds_to_ns(seconds)
            heapq.heappush(self._asleep, (due_ns, self._tickets, job, woken))
            self._working.discard(job)
        self.tell()
        woken.wait()

    def release(self) -> None:
        """Wake all threads: there is no virtual time any more."""
        with self._lock:
            asleep, self._asleep = self._asleep, []
        for *_, woken in asleep:
            woken.set()

    def tell(self) -> None:
        """Let the loop look again, if there still is one."""
        with suppress(RuntimeError):  # the loop is closed, and nobody is interested
            self.wake()
