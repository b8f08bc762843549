"""`watched`: lets a `VirtualTime` know what is done outside of the event loop.

Threads, worker processes and logs are counted from the moment when the loop hands something
over until it has been told what came of it: a count that ended a moment earlier would let time
move between the two.  That is done where it is handed over, for as long as time is virtual.
"""

from __future__ import annotations

import time as time_module
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from threading import Lock
from typing import Any, Final
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter

from headrace.engine.clock import NS
from headrace.engine.log import FileLog
from headrace.engine.processes import Processes
from headrace.engine.threads import Thread
from headrace.testing.loops import is_trio_running
from headrace.testing.virtual import Job, VirtualTime

READINGS: Final = ("monotonic", "monotonic_ns", "time", "time_ns")


@contextmanager
def watched(virtual: VirtualTime) -> Generator[None]:
    """Let *virtual* know what is done elsewhere, and threads sleep in it."""
    places: list[tuple[Any, str, Callable[[VirtualTime, Any], Any]]] = [
        (time_module, "sleep", _sleep),
        *((time_module, name, partial(_reading, name)) for name in READINGS),
        (ThreadPoolExecutor, "submit", _submit),
        (Thread, "do", _do),
        (Processes, "_answer", _answer),
    ]
    with ExitStack() as stack:
        for place, name, make in places:
            stack.enter_context(_replaced(place, name, make(virtual, getattr(place, name))))
        stack.enter_context(_threads_of_backend(virtual))
        stack.enter_context(_logs(virtual))
        yield


@contextmanager
def _replaced(place: Any, name: str, value: Any) -> Generator[None]:
    before = place.__dict__[name]
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


# ---------------------------------------------------------------- the module time


def _sleep(virtual: VirtualTime, sleep: Callable[[float], None]) -> Callable[[float], None]:
    def sleep_in_virtual_time(seconds: float, /) -> None:
        if seconds > 0 and virtual.is_concerned:
            virtual.sleep_here(seconds)
        else:
            sleep(seconds)

    return sleep_in_virtual_time


def _reading(name: str, virtual: VirtualTime, read: Callable[[], Any]) -> Callable[[], Any]:
    now_ns = virtual.monotonic_ns if name.startswith("monotonic") else virtual.wall_ns

    def read_virtual_time() -> Any:
        if not virtual.is_concerned:
            return read()
        return now_ns() if name.endswith("_ns") else now_ns() / NS

    return read_virtual_time


# ---------------------------------------------------------------- threads


class _Turns:
    """Which jobs of each executor have a thread: one that waits for its turn does nothing yet."""

    def __init__(self, virtual: VirtualTime) -> None:
        self._virtual = virtual
        self._lock = Lock()
        self._running: WeakKeyDictionary[ThreadPoolExecutor, int] = WeakKeyDictionary()
        self._waiting: WeakKeyDictionary[ThreadPoolExecutor, deque[Job]] = WeakKeyDictionary()

    def begin(self, executor: ThreadPoolExecutor) -> Job:
        """Note that a job was submitted."""
        with self._lock:
            running = self._running.get(executor, 0)
            if running < executor._max_workers:
                self._running[executor] = running + 1
                return self._virtual.begin()
            job = Job()
            self._waiting.setdefault(executor, deque()).append(job)
            return job

    def end(self, executor: ThreadPoolExecutor, job: Job) -> None:
        """Note that a job is done, or will never be, and that the next one has its turn."""
        with self._lock:
            waiting = self._waiting.get(executor, ())
            if job in waiting:
                self._waiting[executor].remove(job)
            elif waiting:
                self._virtual.resume(self._waiting[executor].popleft())
            else:
                self._running[executor] -= 1
        self._virtual.end(job)


def _submit(virtual: VirtualTime, submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    """Executors: what asyncio uses, and the engine for what takes long."""
    turns = _Turns(virtual)

    def submit_watched(
        executor: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        if not virtual.is_concerned:
            return submit(executor, function, *args, **kwargs)
        job = turns.begin(executor)
        try:
            call = partial(_run_here, virtual, job, function)
            inner = submit(executor, call, *args, **kwargs)
        except BaseException:  # it was shut down
            turns.end(executor, job)
            raise
        # Whoever is told by the future is told before the job counts as done.
        outer: Future[Any] = Future()
        outer.add_done_callback(lambda told: told.cancelled() and inner.cancel())
        inner.add_done_callback(partial(_hand_on, partial(turns.end, executor, job), outer))
        return outer

    return submit_watched


def _run_here(
    virtual: VirtualTime, job: Job, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    with virtual.here(job):
        return function(*args, **kwargs)


def _hand_on(end: Callable[[], None], outer: Future[Any], inner: Future[Any]) -> None:
    if inner.cancelled():
        outer.cancel()
    if outer.set_running_or_notify_cancel():
        error = inner.exception()
        if error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())
    end()


def _do(
    virtual: VirtualTime, do: Callable[[Thread, Callable[[], None]], None]
) -> Callable[[Thread, Callable[[], None]], None]:
    """The threads in which an engine executes sync tasks."""

    def do_watched(thread: Thread, call: Callable[[], None]) -> None:
        if not virtual.is_here:
            do(thread, call)
            return
        job = virtual.begin()

        def call_here() -> None:
            with virtual.here(job):
                call()
            virtual.end(job)

        do(thread, call_here)

    return do_watched


@contextmanager
def _threads_of_backend(virtual: VirtualTime) -> Generator[None]:
    """What `anyio.to_thread` and `trio.to_thread` hand to threads."""
    from anyio._core._eventloop import get_async_backend

    backend: Any = get_async_backend()
    in_thread = backend.run_sync_in_worker_thread
    from_thread = backend.run_async_from_thread

    async def run_sync(
        function: Callable[..., Any],
        args: tuple[Any, ...],
        abandon_on_cancel: bool = False,  # noqa: FBT001, FBT002 (as it is there)
        limiter: Any = None,
    ) -> Any:
        # Whoever waits for a thread does nothing yet: so that is waited for here.
        async with limiter or backend.current_default_thread_limiter():
            job = virtual.begin()
            try:
                return await in_thread(
                    partial(_run_here, virtual, job, function), args, abandon_on_cancel,
                    CapacityLimiter(1),
                )  # fmt: skip
            finally:
                virtual.end(job)

    def run_async(function: Callable[..., Any], args: Any, token: Any) -> Any:
        return _resuming(virtual, from_thread, function, args, token)

    with (
        _replaced(backend, "run_sync_in_worker_thread", staticmethod(run_sync)),
        _replaced(backend, "run_async_from_thread", staticmethod(run_async)),
        _threads_of_trio(virtual) if is_trio_running() else nullcontext(),
    ):
        yield


@contextmanager
def _threads_of_trio(virtual: VirtualTime) -> Generator[None]:
    import trio

    in_thread: Any = trio.to_thread.run_sync

    async def run_sync(
        function: Callable[..., Any], *args: Any, limiter: Any = None, **how: Any
    ) -> Any:
        async with limiter or trio.to_thread.current_default_thread_limiter():
            job = virtual.begin()
            try:
                call = partial(_run_here, virtual, job, function)
                return await in_thread(call, *args, limiter=trio.CapacityLimiter(1), **how)
            finally:
                virtual.end(job)

    with (
        _replaced(trio.to_thread, "run_sync", run_sync),
        _replaced(trio.from_thread, "run", partial(_resuming, virtual, trio.from_thread.run)),
    ):
        yield


def _resuming(
    virtual: VirtualTime,
    from_thread: Callable[..., Any],
    function: Callable[..., Any],
    *args: Any,
    **how: Any,
) -> Any:
    """Let *from_thread* call *function* in the loop, for which the thread waits meanwhile."""
    job = virtual.job_here()
    if job is None:
        return from_thread(function, *args, **how)

    async def in_loop(*given: Any) -> Any:
        virtual.pause(job)  # not before the loop has it: it would take itself for idle
        try:
            return await function(*given)
        finally:
            virtual.resume(job)

    return from_thread(in_loop, *args, **how)


# ---------------------------------------------------------------- processes and logs


def _answer(virtual: VirtualTime, answer: Callable[..., Any]) -> Callable[..., Any]:
    async def answer_watched(processes: Processes, *args: Any) -> Any:
        job = virtual.begin()
        try:
            return await answer(processes, *args)
        finally:
            virtual.end(job)

    return answer_watched


@contextmanager
def _logs(virtual: VirtualTime) -> Generator[None]:
    """What a writer thread has still to make durable."""
    told: dict[FileLog, int] = {}
    """Up to where the engine of each open log was told that it is committed."""
    open_log, close_log = FileLog.open, FileLog.close

    def open_watched(log: FileLog, notify: Callable[[], None]) -> None:
        def notify_and_note() -> None:
            committed = log.committed_sequence
            notify()
            if log in told:
                told[log] = committed
            virtual.tell()

        open_log(log, notify_and_note)
        told[log] = log.committed_sequence

    def close_watched(log: FileLog) -> None:
        told.pop(log, None)
        close_log(log)

    def is_writing() -> bool:
        return any(
            log.failure is None and upto < log.next_sequence - 1 for log, upto in list(told.items())
        )

    virtual.is_writing = is_writing
    with (
        _replaced(FileLog, "open", open_watched),
        _replaced(FileLog, "close", close_watched),
    ):
        yield
