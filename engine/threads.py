"""`Threads`: the bounded pool of threads in which sync tasks run.

A thread cannot be stopped.  If its run is, the run waits for it for a grace period and then
goes on without it; what the thread comes to later is discarded, and the next attempt of the
same run waits until it has ended.  Until then it counts as one of the pool.  That holds for as
long as the engine is open: the pool outlives a full disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, Final

import anyio
from anyio import CancelScope

from headrace.engine.attempt import Attempt
from headrace.engine.backend import Backend, Event
from headrace.engine.diagnostics import logger
from headrace.engine.errors import WorkerNotStarted

THREADS_MAX: Final = 64
CANCEL_GRACE_S: Final = 10.0
"""How long a thread may go on after its run was cancelled before it is disowned."""


class Thread(threading.Thread):
    """One thread, that does one job after the other.

    A daemon, since a job that never ends must not keep the program from ending.
    """

    def __init__(self) -> None:
        """Start it."""
        super().__init__(name="headrace task", daemon=True)
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.start()

    def do(self, job: Callable[[], None]) -> None:
        """Let it do *job*, after those that it was given before."""
        self.jobs.put(job)

    def run(self) -> None:
        """Do jobs until there is none but ``None``."""
        while (job := self.jobs.get()) is not None:
            job()


class Threads:
    """All methods belong to the event loop's thread."""

    def __init__(self, backend: Backend) -> None:
        """Begin with none: the first call starts the first."""
        self._backend = backend
        self._limiter: anyio.CapacityLimiter | None = None
        self._idle: list[Thread] = []
        self._busy: dict[Thread, Attempt] = {}
        self._left: dict[str, Event] = {}
        """Set once the thread has ended that a run has left behind.

        By the run's idempotency key: after a full disk a step has another id than before.
        """

    async def call(self, attempt: Attempt, function: Callable[[], Any]) -> Any:
        """Return what *function* returns, or raise what it raises, in a thread of the pool.

        It may have to wait for a thread, and first for that of an earlier attempt of its run.

        Raises:
            WorkerNotStarted: there is no thread for it.
        """
        key = attempt.run.idempotency_key
        while (left := self._left.get(key)) is not None:
            await left.wait()
        borrower = object()
        thread = await self._thread(attempt.spec.name, borrower)
        attempt.begin()
        ended = self._backend.waiter()
        claim = threading.Lock()  # taken by the thread, or by whoever gives up before it begins
        outcome: list[tuple[Any, BaseException | None]] = []
        self._busy[thread] = attempt
        context = copy_context()

        def job() -> None:
            if claim.acquire(blocking=False):
                outcome.append(_outcome_of(context.run, function))
            with suppress(RuntimeError):  # the loop is closed, and nobody is interested
                self._backend.call_from_thread(done)

        def done() -> None:
            self._note_end(thread, borrower)
            ended.set()

        thread.do(job)
        try:
            await ended.wait()
        except anyio.get_cancelled_exc_class():
            if not claim.acquire(blocking=False):
                with CancelScope(shield=True), anyio.move_on_after(CANCEL_GRACE_S):
                    await ended.wait()
                if not ended.is_set():
                    self._disown(attempt)
            raise
        value, error = outcome.pop()
        if error is not None:
            attempt.thrown = error
            try:
                raise error
            finally:
                del error  # it holds this frame, which would hold it
        return value

    async def _thread(self, task: str, borrower: object) -> Thread:
        """Return a thread that has nothing to do; *borrower* has a place of the pool from then."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(THREADS_MAX)
        await self._limiter.acquire_on_behalf_of(borrower)
        try:
            return self._idle.pop() if self._idle else Thread()
        except BaseException as error:
            self._limiter.release_on_behalf_of(borrower)
            if isinstance(error, RuntimeError):  # what `threading` says then
                raise WorkerNotStarted(task, "thread", error) from error
            raise

    def _note_end(self, thread: Thread, borrower: object) -> None:
        attempt = self._busy.pop(thread, None)
        if attempt is None:
            return  # it was left behind when the pool was closed
        self._idle.append(thread)
        assert self._limiter is not None
        self._limiter.release_on_behalf_of(borrower)
        if attempt.thread_left:
            self._left.pop(attempt.run.idempotency_key).set()
            logger().warning(
                "thread_ended_late",
                run=attempt.state.id,
                task=attempt.spec.name,
                attempt=attempt.state.attempt,
            )

    def _disown(self, attempt: Attempt) -> None:
        attempt.thread_left = True
        self._left[attempt.run.idempotency_key] = self._backend.event()
        logger().warning("thread_disowned", run=attempt.state.id, task=attempt.spec.name)

    def close(self) -> None:
        """End the threads that are idle; name those that are not, and leave them."""
        for thread in self._idle:
            thread.jobs.put(None)
        for thread in self._idle:
            thread.join()
        self._idle.clear()
        for thread, attempt in self._busy.items():
            thread.jobs.put(None)  # should it ever come to an end
            logger().warning("thread_left_behind", run=attempt.state.id, task=attempt.spec.name)
        self._busy.clear()


def _outcome_of(run: Callable[..., Any], function: Callable[[], Any]) -> Any:
    try:
        return run(function), None
    except BaseException as error:  # noqa: BLE001 (the run boundary: it is raised in the loop)
        return None, error
