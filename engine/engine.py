"""`Engine`: an app running over a log.  Opens, takes events, drains, stops.

Made by `App.open`; ``async with`` opens and closes it.  It lives in the host's event loop:
no process of its own, and no thread but the log's writer and those of sync tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, Self

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from headrace.engine import commands
from headrace.engine.alarms import Alarm
from headrace.engine.backend import Backend, current_backend, in_own_thread
from headrace.engine.clock import NS, Clock, SystemClock, seconds_to_ns
from headrace.engine.control import ControlSocket
from headrace.engine.core import Core, Settings
from headrace.engine.decider import Decider
from headrace.engine.declared import Declared
from headrace.engine.defaults import DEDUPE_WINDOW_S, GRACE_S, PROBE_S, SNAPSHOT_EVERY
from headrace.engine.diagnostics import logger
from headrace.engine.emission import Emission, checked
from headrace.engine.errors import EngineClosed, HeadraceError, LogError, LogFull, RunNotFound
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.payload import check_text
from headrace.engine.record import EngineStopped, encode
from headrace.engine.restore import restore
from headrace.engine.rule_control import Declare, RuleControl
from headrace.engine.runs import RunView
from headrace.engine.signal import Signal
from headrace.engine.starting import check_history, prepare_rules
from headrace.engine.task import TaskSpec
from headrace.engine.views import StateView, runs_of, state_of

REASON_CHARS_MAX: Final = 1000
NOT_OPEN: Final = "the engine is not open; use it with `async with`"


class Engine:
    """An app at work.

    All methods belong to the event loop that opened it.  When the log fails for good
    (`DurabilityLost`), the body of ``async with`` is cancelled and the error is raised from
    it; nothing that was acknowledged is lost.

    While the disk is full nothing is stored: whoever emits gets `LogFull`, runs are
    interrupted, and `state`, `runs` and `cursor` show what is stored.  Once there is room it
    goes on by itself, as after a restart; see `ready`.
    """

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
        version: str,
        declare: Declare | None = None,
    ) -> None:
        """Made by `App.open`."""
        self.log = log
        specs = dict(specs)  # rules that are added have code of their own
        self._rules = RuleControl(self, declare, specs)
        self.control = ControlSocket(getattr(log, "folder", None) if control else None)
        """What other processes may ask of this engine; more commands can be registered."""
        commands.register(self.control, self, version=version)
        self._make_decider = make_decider
        self._settings = Settings(
            specs,
            SystemClock() if isinstance(clock, str) else clock,
            "input" if clock == "input" else "system",
            seconds_to_ns(dedupe_window_s),
            version,
            snapshot_every,
        )
        self._grace_s = grace_s
        if not probe_s > 0:
            raise ValueError(f"probe_s={probe_s!r}: expected more than 0 seconds")
        self._probe_ns = seconds_to_ns(probe_s)
        self._is_open = False
        self._is_stopping = False
        self._is_closing = False
        self._moved = Signal()
        """That the disk was full goes on or ends."""
        self._core: Core
        self._group: TaskGroup
        self._shelter: CancelScope

    # ------------------------------------------------------------ open and close

    async def __aenter__(self) -> Self:
        """Take the log, rebuild the state from it, and resume what was left open.

        Raises:
            LogLocked, LogCorrupt, LogVersion, LogUnusable, LogMismatch: nothing was written.
            EngineClosed: it was open before; `App.open` makes another.
        """
        if self._is_stopping:
            raise EngineClosed("expected a new engine, found one that was closed; use app.open")
        backend = current_backend()

        def notify() -> None:
            backend.call_from_thread(self._progress)

        has_log = False

        def take_log() -> None:
            nonlocal has_log
            self.log.open(notify)
            has_log = True

        try:
            await in_own_thread(backend, take_log)
            self._core = self._make_core(await self._restored(backend), backend)
        except BaseException:
            if has_log:  # also if asyncio's own cancellation came while it was opened
                await in_own_thread(backend, self.log.close)
            raise
        self._group = await anyio.create_task_group().__aenter__()
        self._shelter = CancelScope(shield=True)
        self._group.start_soon(self._live, name="headrace engine")
        self._is_open = True
        self._core.start()
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
        await self._core.work()
        while not self._is_closing:
            self._core = await self._next_core(self._core)
            self._core.start()
            self._moved.send()
            await self._core.work()

    async def _restored(self, backend: Backend) -> Kernel:
        def restored() -> Kernel:
            decider = self._make_decider()
            self._rules.redo(decider)
            kernel = restore(self.log, decider, clock=self._settings.clock_kind)
            check_history(kernel)
            prepare_rules(kernel, self.log)
            return kernel

        return await in_own_thread(backend, restored)

    def _make_core(self, kernel: Kernel, backend: Backend) -> Core:
        core = Core(kernel, self.log, self._settings, backend)
        core.runner.rules = self._rules
        core.on_failure = self._end_core
        return core

    async def _next_core(self, core: Core) -> Core:
        """Return the core that goes on once there is room on the disk."""
        full, backend, clock = core.pipeline.failure, core.pipeline.backend, self._settings.clock
        assert full is not None
        logger().warning("disk_full", error=str(full), again_in_s=self._probe_ns / NS)
        try:
            kernel = await self._restored(backend)
            # To look at, and nothing else: it shows what is stored, not what would have been.
            self._core = self._make_core(kernel, backend)
            self._core.pipeline.close(full)
            has_room = False
            while not has_room:  # not at once: what did not fit now would not fit again
                await clock.sleep_until(clock.monotonic_ns() + self._probe_ns)
                has_room = self.log.resume()
            is_whole = self._core.snapshotter.is_settled  # also after a snapshot that found no room
            if not is_whole or kernel.sequence != self.log.next_sequence - 1:
                kernel = await self._restored(backend)
        except HeadraceError as error:
            self._core.pipeline.failure = error
            self._abort()
            raise
        logger().warning("disk_has_room", sequence=kernel.sequence)
        return self._make_core(kernel, backend)

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
            error: BaseException = several
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            raise error from None
        finally:
            await self._close_log(tell_full=exc is None)
        return bool(swallowed)

    async def _close_log(self, *, tell_full: bool) -> None:
        """Close it; raise what it failed of, but of a full disk only if *tell_full*."""
        core, pipeline = self._core, self._core.pipeline
        failure = pipeline.failure or self.log.failure
        last = core.kernel.sequence
        if failure is None and not core.start_is_due:
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

    # ------------------------------------------------------------ events

    async def emit(
        self,
        subject: str,
        data: Any = None,
        *,
        id: str | None = None,
        source: str = "",
        position: int | None = None,
        time: float | None = None,
        key: str | None = None,
    ) -> int:
        """Store an event; return its sequence once it is durable at the engine's level.

        An event whose (*source*, *id*) was stored within the dedupe window is not stored
        again: the first one's sequence is returned, once that is durable.  *position* is
        the source's cursor after this event, also after one that is not stored again; see
        `cursor`.

        Raises:
            ValueError: *subject* is no valid subject, or is reserved.  Nothing was stored.
            EventRefused: *data* cannot be stored or is too large.  Nothing was stored.
            EngineClosed: the engine is stopping.  Nothing was stored.
            LogFull: the disk is full.  Nothing was stored; see `ready`.
            DurabilityLost: it may or may not be stored.
        If cancelled, it may or may not be stored; with an *id*, emitting again is safe.
        """
        (sequence,) = await self.emit_many(
            [Emission(subject, data, id, source, position, time, key)]
        )
        return sequence

    async def emit_many(self, events: Iterable[Emission | tuple[str, Any]]) -> list[int]:
        """Store *events* in their order, as one group if they fit; return their sequences.

        All are checked before the first is stored.

        Raises:
            As `emit`, but that before `LogFull` those in `LogFull.stored` were stored.
        """
        todo = [checked(event) for event in events]
        if self._is_stopping or not self._is_open:
            raise EngineClosed(
                "the engine is stopping and takes no more events" if self._is_stopping else NOT_OPEN
            )
        return await self._core.store(todo)

    # ------------------------------------------------------------ runs

    def runs(self, status: str | None = None) -> list[RunView]:
        """Return the open runs and the last 1 000 that ended, newest first.

        *status* picks ``active``, ``waiting``, ``retrying``, ``completed``, ``failed`` (a
        step), ``dead`` (a dead letter) or ``cancelled``.
        """
        return runs_of(self.kernel, status)

    async def cancel(self, run_id: int, reason: str = "cancelled on request") -> int:
        """Ask for a run to be cancelled; return the request's sequence once it is durable.

        Raises:
            RunNotFound: no run with this id is open.
            LogFull: the disk is full; nothing was asked for.
            EventRefused: *reason* is no text that can be stored.
        """
        reason = str(reason)[:REASON_CHARS_MAX]
        check_text(reason, "the reason of a cancellation")
        if run_id not in self.kernel.state.runs.active:
            raise RunNotFound(f"run {run_id} is not open: it has ended, or never was")
        return await self._core.cancel(run_id, reason)

    # ------------------------------------------------------------ rules

    async def add_rule(
        self,
        pattern: Any,
        action: Callable[..., Any],
        *,
        warm: Literal["replay"] | None = None,
        **options: Any,
    ) -> int:
        """Put a rule into force, or another version of one; return the record's sequence.

        *options* are those of `App.rule`, such as *name* and *mode*.  The rule begins empty,
        or with ``warm="replay"`` as if it had been there as long as the log is kept; what it
        would have fired then is not made up for.  If it is in force already, just as it is,
        nothing is recorded and 0 is returned: so a task that adds a rule can be repeated.
        At the next start the rules of the app are in force; add it again, or declare it there.

        Raises:
            TypeError, ValueError: it cannot work; says which part and why.  Nothing changed.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        return await self._rules.add(pattern, action, warm=warm, **options)

    async def change_rules(
        self, put: Sequence[Declared] = (), remove: Sequence[str] = (), *, cause: str = ""
    ) -> list[int]:
        """Let rules be in force no more, if they are, and put those in that the facade has made.

        As `remove_rule` and `add_rule` one by one, but all checked first and durable together.
        """
        return await self._rules.change(put, remove, cause=cause)

    async def remove_rule(self, rule: str) -> int:
        """Let *rule* be in force no more; its open runs go on.  Return the record's sequence.

        Raises:
            RuleNotFound: it is not in force.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        return await self._rules.remove(rule)

    async def pause(self, rule: str, reason: str = "") -> int:
        """Let *rule* start no runs until `resume`; return the record's sequence, 0 if it is so.

        It goes on looking at events, and its firings are recorded as ``paused``.  That holds
        over restarts.

        Raises:
            RuleNotFound: it is not in force.
            EventRefused: *reason* is no text that can be stored.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        return await self._rules.pause(rule, reason)

    async def resume(self, rule: str, reason: str = "") -> int:
        """Let *rule* start runs again; otherwise as `pause`."""
        return await self._rules.resume(rule, reason)

    def alarms(self) -> list[Alarm]:
        """Return the alarms that stand: of rules with ``on_clear=``, in the order of raising."""
        return self._rules.alarms()

    async def acknowledge(self, rule: str, key: Any = None, *, by: str = "", note: str = "") -> int:
        """Say that somebody knows of an alarm that stands; return the record's sequence.

        Raises:
            RuleNotFound: no alarm of *rule* stands for *key*.
            EventRefused: *by* or *note* is no text that can be stored.
            LogFull, DurabilityLost, EngineClosed: as `emit`.
        """
        return await self._rules.acknowledge(rule, key, by=by, note=note)

    async def drain(self) -> None:
        """Return once no run is open and all is durable.

        Runs of tasks that the app no longer declares are not waited for.  By input, log
        time moves on to let retries and sleeps come; runs that a clock or a silence starts
        on the way are not waited for, and stay open if they wait themselves.  While the
        disk is full it waits for room, since runs go on then.

        Raises:
            DurabilityLost: the log has failed.
            LogFull: the engine was closed while the disk was full.
        """
        while True:
            try:
                return await self.opened().drain()
            except LogFull:
                await self.ready()

    async def ready(self) -> None:
        """Return once events are taken: at once, unless the disk is full.

        Raises:
            DurabilityLost: the log has failed.
            LogFull: the engine is closed while the disk is full.
        """
        while (failure := self.opened().pipeline.failure) is not None:
            if self._is_closing or not isinstance(failure, LogFull):
                raise failure
            await self._moved.wait()

    async def snapshot(self) -> int:
        """Write the state as it is now to a snapshot; return its sequence once it is durable.

        The next start then folds only what came after.  The engine does so by itself, after
        every *snapshot_every* records.

        Raises:
            EngineClosed: the engine was never open.
            SnapshotUnusable: the log has records that only a newer headrace understands.
            OSError: the disk failed; the log and older snapshots are as they were.
            DurabilityLost, LogFull: the log failed.
        """
        if not self._is_open:
            raise EngineClosed(NOT_OPEN)
        return await self.opened().snapshotter.take()

    # ------------------------------------------------------------ views

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

    def state(self) -> StateView:
        """Return the engine's state in numbers."""
        is_ready = self._is_open and not self._is_stopping
        return state_of(self.kernel, ready=is_ready and self._core.pipeline.failure is None)

    def cursor(self, source: str) -> int | None:
        """Return the position after the last event stored from *source*; ``None``: none."""
        state = self.kernel.state
        if source not in state.sources:
            return None
        return state.cursors.get(state.sources.index(source) + 1)
