"""`Life`: how an engine opens, lives through full disks, drains and stops.

It lives in the host's event loop: no process of its own, and no thread but the log's writer
and those of sync tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import get_ident
from types import TracebackType
from typing import Any, Final, Literal, Self

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from headrace.engine.backend import Backend, current_backend, in_own_thread
from headrace.engine.clock import Clock, SystemClock, seconds_to_ns
from headrace.engine.companions import Companion, Company
from headrace.engine.control import ControlSocket
from headrace.engine.core import Core, Settings
from headrace.engine.decider import Decider
from headrace.engine.defaults import (
    CRASH_ATTEMPTS_MAX,
    DEDUPE_WINDOW_S,
    GRACE_S,
    PENDING_RUNS_MAX,
    PROBE_S,
    SNAPSHOT_EVERY,
)
from headrace.engine.diagnostics import logger
from headrace.engine.errors import EngineClosed, HeadraceError, LogError, LogFull
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.observer import Observer
from headrace.engine.process_import import refuse_in_import
from headrace.engine.record import EngineStopped, encode
from headrace.engine.resources import OpenResources, sole
from headrace.engine.restore import restore
from headrace.engine.rule_control import Declare, RuleControl
from headrace.engine.signal import Signal
from headrace.engine.starting import check_history, prepare_rules
from headrace.engine.task import TaskSpec

NOT_OPEN: Final = "the engine is not open; use it with `async with`"


class Life:
    """The life of an engine; what is asked of it is in `headrace.engine.engine`."""

    def __init__(
        self,
        make_decider: Callable[[], Decider],
        specs: dict[str, TaskSpec],
        log: EventLog,
        *,
        clock: Clock | Literal["system", "input"] = "system",
        grace_s: float = GRACE_S,
        dedupe_window_s: float = DEDUPE_WINDOW_S,
        snapshot_every: int = SNAPSHOT_EVERY,
        control: bool = True,
        probe_s: float = PROBE_S,
        processes_max: int | None = None,
        concurrency: int | None = None,
        crash_attempts_max: int = CRASH_ATTEMPTS_MAX,
        pending_runs_max: int = PENDING_RUNS_MAX,
        version: str,
        declare: Declare | None = None,
        resources: OpenResources | None = None,
        companions: Sequence[Companion[Any]] = (),
        observer: Observer | None = None,
    ) -> None:
        """Made by `App.open`."""
        refuse_in_import()
        self.log = log
        specs = dict(specs)  # rules that are added have code of their own
        self._rules = RuleControl(self, declare, specs)
        self.control = ControlSocket(getattr(log, "folder", None) if control else None)
        """What other processes may ask of this engine; more commands can be registered."""
        self._make_decider = make_decider
        self._settings = Settings(
            specs,
            SystemClock() if isinstance(clock, str) else clock,
            "input" if clock == "input" else "system",
            seconds_to_ns(dedupe_window_s),
            version,
            snapshot_every,
            processes_max,
            concurrency,
            crash_attempts_max,
            pending_runs_max,
            probe_s,
            observer,
        )
        self._grace_s = grace_s
        self._resources = resources or OpenResources({})
        self._company = Company(companions)
        self._is_open = False
        self._is_stopping = False
        self._is_closing = False
        self._moved = Signal()
        """That the disk was full goes on or ends."""
        self._redriving = anyio.Lock()
        """For who redrives a run that only the log knows any more."""
        self._core: Core
        self._group: TaskGroup
        self._shelter: CancelScope

    # ------------------------------------------------------------ open and close

    async def __aenter__(self) -> Self:
        """Take the log, rebuild the state from it, and resume what was left open.

        Raises:
            LogLocked, LogCorrupt, LogVersion, LogUnusable, LogMismatch: nothing was written.
            ResourceFailed: a resource could not be opened; nothing was written.
            EngineClosed: it was open before; `App.open` makes another.
        """
        if self._is_stopping:
            raise EngineClosed("expected a new engine, found one that was closed; use app.open")
        backend = current_backend()

        own_thread = get_ident()

        def notify() -> None:
            # A log that commits at once says so in the middle of being asked to.
            if get_ident() != own_thread or not self._core.pipeline.is_committing:
                backend.call_from_thread(self._progress)

        has_log = False

        def take_log() -> None:
            nonlocal has_log
            self.log.open(notify)
            has_log = True

        try:
            await in_own_thread(backend, take_log)
            self._core = self._make_core(await self._restored(backend), backend)
            self._core.is_first = True
            await self._resources.open()
        except BaseException:
            if has_log:  # also if asyncio's own cancellation came while it was opened
                await in_own_thread(backend, self.log.close)
            raise
        self._group = await anyio.create_task_group().__aenter__()
        self._shelter = CancelScope(shield=True)
        self._group.start_soon(self._live, name="headrace engine")
        self._is_open = True
        try:
            self._core.start()
            self._company.start(self._group, self)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def _live(self) -> None:
        """Work, where a cancellation of the host does not reach.

        It reaches the body of ``async with``, and leaving that ends the work in good order:
        what a time-out of the host interrupts stays open for the next start.
        """
        with self._shelter:
            async with anyio.create_task_group() as servants:
                servants.start_soon(self.control.serve, name="headrace control socket")
                await self._work()

    async def _work(self) -> None:
        """Let one core work after the other: each until the disk is full."""
        try:
            await self._core.work()
            while not self._is_closing:
                self._core = await self._next_core(self._core)
                self._core.start()
                self._moved.send()
                await self._core.work()
        finally:
            self._core.runner.threads.close()

    async def _restored(self, backend: Backend) -> Kernel:
        def restored() -> Kernel:
            decider = self._make_decider()
            self._rules.redo(decider)
            kernel = restore(self.log, decider, clock=self._settings.clock_kind)
            check_history(kernel)
            prepare_rules(kernel, self.log)
            return kernel

        return await in_own_thread(backend, restored)

    def _make_core(self, kernel: Kernel, backend: Backend, before: Core | None = None) -> Core:
        core = Core(kernel, self.log, self._settings, backend)
        if before is not None:
            core.results.adopt(before.results)
            core.runner.threads = before.runner.threads  # some may not let go of what they do
        core.runner.rules = self._rules
        core.runner.resources = self._resources.values
        core.on_failure = self._end_core
        return core

    async def _next_core(self, core: Core) -> Core:
        """Return the core that goes on once there is room on the disk."""
        full, backend, clock = core.pipeline.failure, core.pipeline.backend, self._settings.clock
        if full is None:
            self._abort()
            raise EngineClosed(
                "expected that only the engine ends its tasks, found that one was cancelled, such "
                "as by code that cancels all tasks of the loop; nothing is lost: open it again"
            )
        logger().warning("disk_full", error=str(full), again_in_s=self._settings.probe_s)
        try:
            kernel = await self._restored(backend)
            # To look at, and nothing else: it shows what is stored, not what would have been.
            self._core = self._make_core(kernel, backend, core)
            self._core.pipeline.close(full)
            probe_ns, has_room = seconds_to_ns(self._settings.probe_s), False
            while not has_room:  # not at once: what did not fit now would not fit again
                await clock.sleep_until(clock.monotonic_ns() + probe_ns)
                has_room = self.log.resume()
            is_whole = self._core.snapshotter.is_settled  # also after a snapshot that found no room
            if not is_whole or kernel.sequence != self.log.next_sequence - 1:
                kernel = await self._restored(backend)
        except HeadraceError as error:
            self._core.pipeline.failure = error
            self._abort()
            raise
        logger().warning("disk_has_room", sequence=kernel.sequence)
        assert kernel.sequence == self.log.next_sequence - 1, "the next record has one place"
        return self._make_core(kernel, backend, core)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Stop: take nothing more, let runs finish for the grace period, close the log."""
        self._is_stopping = self._is_closing = True
        self._moved.send()
        swallowed: bool | None = False
        try:
            try:
                with CancelScope(shield=True):
                    await self._company.leave()
                    await self._core.wind_up(self._grace_s)
            except (anyio.get_cancelled_exc_class(), KeyboardInterrupt) as hurry:
                # Ctrl-C once more, in the grace period: what still runs is ended at once.
                exc_type, exc, traceback = type(hurry), hurry, hurry.__traceback__
                self._core.runner.stop()
            self._shelter.cancel()
            self._group.cancel_scope.cancel()
            # An ordinary exception of the body goes on as it is, not wrapped in a group.
            if exc is None or isinstance(exc, Exception):
                await self._group.__aexit__(None, None, None)
            else:
                swallowed = await self._group.__aexit__(exc_type, exc, traceback)
        except BaseExceptionGroup as several:
            raise sole(several) from None
        finally:
            try:
                await self._close_log(tell_full=exc is None)
            finally:
                await self._resources.close()
        return bool(swallowed)

    async def _close_log(self, *, tell_full: bool) -> None:
        """Close it; raise what it failed of, but of a full disk only if *tell_full*."""
        core, pipeline = self._core, self._core.pipeline
        failure = pipeline.failure or self.log.failure
        last = core.kernel.sequence
        # What a task has ended counts as a crash: code that does so each time is found by that.
        if failure is None and not core.start_is_due and not core.runner.was_interrupted:
            stopped = EngineStopped(pipeline.now_ns())
            with suppress(LogError):  # the log has failed just now: closing it says so
                self.log.append([encode(part) for part in core.kernel.submit(stopped)])
        pipeline.close(EngineClosed("the engine is closed"))
        try:
            await in_own_thread(pipeline.backend, self.log.close)
        except LogFull as full:
            if (
                self.log.committed_sequence < last
            ):  # else nothing but the mark of its end is missing
                failure = failure or full
        finally:
            self._is_open = False
            pipeline.release()
            core.results.wake()
        if failure is not None and (tell_full or not isinstance(failure, LogFull)):
            raise failure

    def stop(self) -> None:
        """Take no more events from now on; what runs goes on until ``async with`` is left."""
        self._is_stopping = True

    def _end_core(self) -> None:
        """The log has failed: for good, or until there is room."""
        if isinstance(self._core.pipeline.failure, LogFull):
            self._core.end()
        else:
            self._abort()

    def _abort(self) -> None:
        """End the body of ``async with`` and everything else."""
        self._moved.send()
        self._shelter.cancel()
        self._group.cancel_scope.cancel()

    def _progress(self) -> None:
        if self._is_open:
            self._core.pipeline.progress()

    # ------------------------------------------------------------ what it is made of

    @property
    def companions(self) -> tuple[Companion[Any], ...]:
        """What works beside it, such as sources."""
        return self._company.companions

    def opened(self) -> Core:
        """Return the core that works.

        Raises:
            EngineClosed: the engine was never open.
        """
        if not hasattr(self, "_core"):
            raise EngineClosed(NOT_OPEN)
        return self._core

    @property
    def kernel(self) -> Kernel:
        """The kernel, to look at.

        Raises:
            EngineClosed: the engine was never open.
        """
        return self.opened().kernel
