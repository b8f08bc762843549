"""`Engine`: an app running over a log.  Opens, takes events, drains, stops.

Made by `App.open`; ``async with`` opens and closes it.  It lives in the host's event loop:
no process of its own, and no thread but the log's writer and those of sync tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, Self

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from headrace.engine.backend import current_backend, in_own_thread
from headrace.engine.clock import Clock, SystemClock, seconds_to_ns
from headrace.engine.commit import Pipeline
from headrace.engine.decider import Decider
from headrace.engine.defaults import DEDUPE_WINDOW_S, GRACE_S
from headrace.engine.emission import Checked, Emission, checked, time_ns_of
from headrace.engine.errors import EngineClosed, LogError, RunNotFound
from headrace.engine.firings import FiringLoader
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.payload import check_text
from headrace.engine.record import (
    CancelRequested,
    EngineStarted,
    EngineStopped,
    EventStored,
    RuleDiverged,
    encode,
)
from headrace.engine.restore import restore
from headrace.engine.runner import Runner
from headrace.engine.runs import RunView
from headrace.engine.signal import Signal
from headrace.engine.task import TaskSpec
from headrace.engine.timekeeper import InputTime, Timekeeper
from headrace.engine.views import StateView, runs_of, state_of

RUNS_OPEN_MAX: Final = 50_000
"""While more runs than this are open, `emit` waits."""
REASON_CHARS_MAX: Final = 1000
EMIT_BATCH: Final = 2000
NOT_OPEN: Final = "the engine is not open; use it with `async with`"
"""Events that `emit_many` stores before it lets other tasks run."""


class Engine:
    """An app at work.

    All methods belong to the event loop that opened it.  When the log fails for good
    (`DurabilityLost`, `LogFull`), the body of ``async with`` is cancelled and the error is
    raised from it; nothing that was acknowledged is lost.
    """

    def __init__(
        self,
        decider: Decider,
        specs: dict[str, TaskSpec],
        log: EventLog,
        *,
        clock: Clock | Literal["system", "input"] = "system",
        grace_s: float = GRACE_S,
        dedupe_window_s: float = DEDUPE_WINDOW_S,
        version: str,
    ) -> None:
        """Made by `App.open`."""
        self.log = log
        self._decider = decider
        self._specs = specs
        self._clock_kind = "input" if clock == "input" else "system"
        self._clock: Clock = SystemClock() if isinstance(clock, str) else clock
        self._grace_s = grace_s
        self._dedupe_window_ns = seconds_to_ns(dedupe_window_s)
        self._version = version
        self._is_open = False
        self._is_stopping = False
        self._start_is_due = False
        self._group: TaskGroup
        self._shelter: CancelScope
        self._kernel: Kernel
        self._pipeline: Pipeline
        self._runner: Runner
        self._input: InputTime
        self._timekeeper: Timekeeper
        self._changed = Signal()

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
            self._kernel = await in_own_thread(
                backend, lambda: restore(self.log, self._decider, clock=self._clock_kind)
            )
            self._pipeline = Pipeline(self._kernel, self.log, self._clock, backend)
            self._runner = Runner(
                self._pipeline, self._specs, self._clock, FiringLoader(self._decider, self.log)
            )
            self._input = InputTime(self._pipeline, self._runner)
            self._timekeeper = Timekeeper(self._pipeline, self._runner, self._clock)
        except BaseException:
            if has_log:  # also if asyncio's own cancellation came while it was opened
                await in_own_thread(backend, self.log.close)
            raise
        self._pipeline.on_effects = self._runner.carry_out
        self._pipeline.on_change = self._timekeeper.replan
        self._pipeline.on_commit = self._note_change
        self._pipeline.on_failure = self._abort
        self._runner.on_settled = self._note_change
        self._group = await anyio.create_task_group().__aenter__()
        self._shelter = CancelScope(shield=True)
        self._group.start_soon(self._live, name="headrace engine")
        self._is_open = True
        self._start()
        return self

    async def _live(self) -> None:
        """Work, where a cancellation of the host does not reach.

        It reaches the body of ``async with``, and leaving that ends the work in good order:
        what a time-out of the host interrupts stays open for the next start.
        """
        with self._shelter:
            async with anyio.create_task_group() as workers:
                self._runner.run_in(workers)
                workers.start_soon(self._timekeeper.run, name="headrace timekeeper")

    def _start(self) -> None:
        """Record the start; resume.  By input, a new log starts with its first event's time."""
        state = self._kernel.state
        if self._clock_kind == "system":
            self._record_start(self._pipeline.now_ns())
        elif state.clock:
            self._record_start(state.at_ns)
        else:
            self._start_is_due = True

    def _record_start(self, at_ns: int) -> None:
        self._start_is_due = False
        kernel, pipeline = self._kernel, self._pipeline
        rules = self._decider.fingerprints()
        pipeline.put(
            EngineStarted(
                at_ns, self._version, self._clock_kind, dict(rules), self._dedupe_window_ns
            )
        )
        at_ns = pipeline.tick()
        for rule in list(kernel.diverged):
            divergence = kernel.diverged.pop(rule)
            pipeline.put(
                RuleDiverged(
                    at_ns, rule, divergence.sequence, divergence.recorded, divergence.derived
                )
            )
        self._runner.resume()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Stop: take nothing more, let runs finish for the grace period, close the log."""
        self._is_stopping = True
        swallowed: bool | None = False
        try:
            try:
                with CancelScope(shield=True):
                    await self._wind_up()
            except (anyio.get_cancelled_exc_class(), KeyboardInterrupt) as hurry:
                # Ctrl-C once more, in the grace period: what still runs is ended at once.
                exc_type, exc, traceback = type(hurry), hurry, hurry.__traceback__
                self._runner.stop()
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
            await self._close_log()
        return bool(swallowed)

    async def _wind_up(self) -> None:
        if self._pipeline.failure is None and self._grace_s > 0:
            with anyio.move_on_after(self._grace_s):
                await self._input.settled()
        self._runner.stop()
        if self._pipeline.failure is None:
            await self._runner.ended()

    async def _close_log(self) -> None:
        pipeline = self._pipeline
        failure = pipeline.failure or self.log.failure
        if failure is None and not self._start_is_due:
            stopped = EngineStopped(pipeline.now_ns())
            with suppress(LogError):  # the log has failed just now: closing it says so
                self.log.append([encode(part) for part in self._kernel.submit(stopped)])
        pipeline.close(EngineClosed("the engine is closed"))
        try:
            await in_own_thread(pipeline.backend, self.log.close)
        finally:
            self._is_open = False
            pipeline.release()
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Take no more events from now on; what runs goes on until ``async with`` is left."""
        self._is_stopping = True

    def _abort(self) -> None:
        """The log has failed: end the body of ``async with`` and everything else."""
        self._runner.stop()
        self._note_change()
        self._shelter.cancel()
        self._group.cancel_scope.cancel()

    def _progress(self) -> None:
        if self._is_open:
            self._pipeline.progress()

    def _note_change(self) -> None:
        self._input.note_settled()
        self._changed.send()

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
        the source's cursor after this event; see `cursor`.

        Raises:
            ValueError: *subject* is no valid subject, or is reserved.  Nothing was stored.
            EventRefused: *data* cannot be stored or is too large.  Nothing was stored.
            EngineClosed: the engine is stopping.  Nothing was stored.
            DurabilityLost, LogFull: it may or may not be stored.
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
            As `emit`.
        """
        todo = [checked(event) for event in events]
        if self._is_stopping or not self._is_open:
            raise EngineClosed(
                "the engine is stopping and takes no more events" if self._is_stopping else NOT_OPEN
            )
        sequences: list[int] = []
        if self._waits_for_time(todo):
            async with self._input.lock:
                for event in todo:
                    await self._pipeline.room()
                    at_ns = await self._let_time_come(event[2])
                    sequences.append(self._store(event, at_ns))
        else:
            await self._pipeline.room(runs_max=RUNS_OPEN_MAX)
            at_ns = self._pipeline.tick()
            for number, event in enumerate(todo, 1):
                sequences.append(self._store(event, at_ns))
                if number % EMIT_BATCH == 0:
                    await checkpoint()
                    await self._pipeline.room(runs_max=RUNS_OPEN_MAX)
                    at_ns = self._pipeline.tick()
        if sequences:
            await self._pipeline.committed(max(sequences))
        return sequences

    def _store(self, event: Checked, at_ns: int) -> int:
        subject, payload, full = event
        if full is None:
            return self._pipeline.put(EventStored(at_ns, subject, payload))
        source = self._pipeline.source(full.source, at_ns) if full.source else 0
        if full.id is not None:
            first = self._kernel.state.dedupe.find(source, full.id, at_ns)
            if first is not None:
                return first
        record = EventStored(
            at_ns, subject, payload, source, full.position, full.id, time_ns_of(full), full.key
        )
        return self._pipeline.put(record)

    def _waits_for_time(self, todo: list[Checked]) -> bool:
        """Say whether any event has to take its turn: by input, those with times of their own.

        One without is the program's own, perhaps that of a run which another waits for.
        """
        return self._clock_kind == "input" and (
            self._start_is_due
            or any(full is not None and time_ns_of(full) is not None for _, _, full in todo)
        )

    async def _let_time_come(self, event: Emission | None) -> int:
        """By input: move log time on to the event's own; return the time of its record."""
        time_ns = None if event is None else time_ns_of(event)
        state = self._kernel.state
        at_ns = state.at_ns if time_ns is None else max(time_ns, state.at_ns)
        if self._start_is_due:
            self._record_start(at_ns)
        if time_ns is not None and self._input.is_due(at_ns):
            await self._input.advance(at_ns)
        return max(at_ns, self._pipeline.tick())

    # ------------------------------------------------------------ runs

    def runs(self, status: str | None = None) -> list[RunView]:
        """Return the open runs and the last 1 000 that ended, newest first.

        *status* picks ``active``, ``waiting``, ``retrying``, ``completed``, ``failed`` (a
        step), ``dead`` (a dead letter) or ``cancelled``.
        """
        return runs_of(self.kernel, status)

    async def cancel(self, run_id: int, reason: str = "cancelled on request") -> None:
        """Ask for a run to be cancelled; returns once the request is durable.

        Raises:
            RunNotFound: no run with this id is open.
            EventRefused: *reason* is no text that can be stored.
        """
        reason = str(reason)[:REASON_CHARS_MAX]
        check_text(reason, "the reason of a cancellation")
        if run_id not in self.kernel.state.runs.active:
            raise RunNotFound(f"run {run_id} is not open: it has ended, or never was")
        sequence = self._pipeline.put(CancelRequested(self._pipeline.tick(), run_id, reason))
        await self._pipeline.committed(sequence)

    async def drain(self) -> None:
        """Return once no run is open and all is durable.

        Runs of tasks that the app no longer declares are not waited for.  By input, log
        time moves on to let retries and sleeps come; runs that a clock or a silence starts
        on the way are not waited for, and stay open if they wait themselves.

        Raises:
            DurabilityLost, LogFull: the log has failed.
        """
        kernel = self.kernel
        if self._clock_kind == "input":
            async with self._input.lock:
                await self._input.finish_runs()
        else:
            while self._pipeline.failure is None and self._runner.has_open_runs:
                await self._changed.wait()
        await self._pipeline.committed(kernel.sequence)

    # ------------------------------------------------------------ views

    @property
    def kernel(self) -> Kernel:
        """The kernel, to look at.

        Raises:
            EngineClosed: the engine was never open.
        """
        if not hasattr(self, "_kernel"):
            raise EngineClosed(NOT_OPEN)
        return self._kernel

    def state(self) -> StateView:
        """Return the engine's state in numbers."""
        return state_of(self.kernel)

    def cursor(self, source: str) -> int | None:
        """Return the position after the last event stored from *source*; ``None``: none."""
        state = self.kernel.state
        if source not in state.sources:
            return None
        return state.cursors.get(state.sources.index(source) + 1)
