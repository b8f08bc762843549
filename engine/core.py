"""`Core`: one life of the kernel, with all that works on it.

It begins with a kernel that `restore` made of the log and ends when the log fails or the
engine closes.  Nothing in it is kept beyond that: what counts is in the log.  A log that was
full and goes on does so with another core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from operator import itemgetter
from typing import Any, Final, Literal

import anyio
from anyio import CancelScope
from anyio.lowlevel import checkpoint
from msgspec import Struct

from headrace.engine.backend import Backend
from headrace.engine.clock import Clock
from headrace.engine.commit import Pipeline
from headrace.engine.defaults import CRASH_ATTEMPTS_MAX, PENDING_RUNS_MAX, PROBE_S
from headrace.engine.emission import Checked, time_ns_of
from headrace.engine.errors import LogFull
from headrace.engine.firings import FiringLoader
from headrace.engine.kernel import Kernel
from headrace.engine.launching import Results
from headrace.engine.log.protocol import EventLog
from headrace.engine.observer import Observer
from headrace.engine.payer import Payer
from headrace.engine.projected import is_projection
from headrace.engine.record import (
    CancelRequested,
    CrashesCounted,
    CursorMoved,
    EventStored,
    RuleDiverged,
)
from headrace.engine.room import RoomWatch
from headrace.engine.runner import Runner
from headrace.engine.signal import Signal
from headrace.engine.snapshotter import Snapshotter
from headrace.engine.starting import failure_of_killer, has_killed, start_records
from headrace.engine.task import TaskSpec
from headrace.engine.timekeeper import InputTime, Timekeeper
from headrace.engine.versions import versions_in_force

EMIT_BATCH: Final = 2000
"""Events that are stored before other tasks get their turn."""

CRASH_ATTEMPTS_MIN: Final = 2

_FULL: Final = itemgetter(2)
"""Of a checked event: what it says beyond its subject and its data."""


class Settings(Struct, frozen=True):
    """What an engine was opened with."""

    specs: dict[str, TaskSpec]
    clock: Clock
    clock_kind: Literal["system", "input"]
    dedupe_window_ns: int
    version: str
    snapshot_every: int
    processes_max: int | None = None
    concurrency: int | None = None
    crash_attempts_max: int = CRASH_ATTEMPTS_MAX
    pending_runs_max: int = PENDING_RUNS_MAX
    probe_s: float = PROBE_S
    observer: Observer | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.processes_max is not None and self.processes_max < 1:
            raise ValueError(f"processes_max={self.processes_max!r}: expected at least 1")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency={self.concurrency!r}: expected at least 1")
        if self.crash_attempts_max != 0 and self.crash_attempts_max < CRASH_ATTEMPTS_MIN:
            raise ValueError(
                f"crash_attempts_max={self.crash_attempts_max!r}: expected 0 (off), or at least 2: "
                "after one crash nobody knows whose it was"
            )
        if self.pending_runs_max < 1:
            raise ValueError(f"pending_runs_max={self.pending_runs_max!r}: expected at least 1")
        if not self.probe_s > 0:
            raise ValueError(f"probe_s={self.probe_s!r}: expected more than 0 seconds")
        if self.snapshot_every < 0:
            raise ValueError(f"snapshot_every={self.snapshot_every!r}: expected at least 0")


class Core:
    """The kernel at work.  All methods belong to the event loop that made it."""

    def __init__(self, kernel: Kernel, log: EventLog, settings: Settings, backend: Backend) -> None:
        """Take *kernel* as it is; nothing happens before `start`."""
        clock = settings.clock
        loader = FiringLoader(kernel.state.decider, log)
        self.kernel = kernel
        self.pipeline = Pipeline(kernel, log, clock, backend)
        self.runner = Runner(
            self.pipeline,
            settings.specs,
            clock,
            loader,
            processes_max=settings.processes_max,
            concurrency=settings.concurrency,
            crash_attempts_max=settings.crash_attempts_max,
            probe_s=settings.probe_s,
        )
        self.runner.observer = settings.observer
        self.on_failure: Callable[[], None] = lambda: None
        """Called once the log has failed: `end` is due."""
        self.start_is_due = False
        """Whether the start is not recorded yet, since log time has not begun."""
        self.is_first = False
        """Whether it is the first of its engine: if the log was left open, the process died."""
        self._settings = settings
        self._room = RoomWatch(log)
        self._input = InputTime(self.pipeline, self.runner)
        self._timekeeper = Timekeeper(self.pipeline, self.runner, clock)
        self.results = Results(self.pipeline)
        self.snapshotter = Snapshotter(self.pipeline, log, every=settings.snapshot_every)
        self._changed = Signal()
        self._drained = Signal()
        self._payer = Payer(
            self.pipeline, log, changed=self._changed, let_time_come=self._let_offer_come
        )
        self._scope = CancelScope()
        self.pipeline.on_effects = self.runner.carry_out
        self.pipeline.on_change = self._timekeeper.replan
        self.pipeline.on_commit = self._note_commit
        self.pipeline.on_failure = self._note_failure
        self.runner.on_settled = self._note_change

    def _note_commit(self) -> None:
        self.snapshotter.note_commit()
        self._note_change()

    def _note_change(self) -> None:
        self._input.note_settled()
        self._changed.send()
        if self._drained.is_awaited and (
            self.pipeline.failure is not None or not self.runner.has_open_runs
        ):
            self._drained.send()

    def _note_failure(self) -> None:
        self.runner.stop()
        self.results.wake()
        self._note_change()
        self.on_failure()

    # ------------------------------------------------------------ begin and end

    def start(self) -> None:
        """Record the start; resume.  By input, a new log starts with its first event's time."""
        state = self.kernel.state
        if self._settings.clock_kind == "system":
            self._record_start(self.pipeline.now_ns())
        elif state.clock:
            self._record_start(state.at_ns)
        else:
            self.start_is_due = True

    def _record_start(self, at_ns: int) -> None:
        self.start_is_due = False
        kernel, pipeline, settings = self.kernel, self.pipeline, self._settings
        crashes_max = settings.crash_attempts_max
        on_trial = 0
        with kernel.tapped() as tap:
            if self.is_first and crashes_max and has_killed(kernel):
                on_trial = kernel.state.crashes.trial
                pipeline.put(CrashesCounted(at_ns))
            # Of projections before the start, which lets them see the log once more.
            self._record_divergences(filter(is_projection, kernel.diverged), at_ns)
            for record in start_records(
                kernel,
                pipeline.log,
                at_ns=at_ns,
                version=settings.version,
                clock=settings.clock_kind,
                dedupe_window_ns=settings.dedupe_window_ns,
                versions=versions_in_force(settings.specs),
            ):
                # Events that were owed may have been stored since rules saw the log.
                for warm_up in kernel.state.prepared.values():
                    warm_up.feed(tap)
                tap.clear()
                pipeline.put(record)
        at_ns = pipeline.tick()
        if (killer := failure_of_killer(kernel, on_trial, crashes_max, at_ns)) is not None:
            self.runner.end_killer(killer)
        self._record_divergences(kernel.diverged, at_ns)
        self.runner.resume()

    def _record_divergences(self, rules: Iterable[str], at_ns: int) -> None:
        for rule in list(rules):
            found = self.kernel.diverged.pop(rule)
            self.pipeline.put(
                RuleDiverged(at_ns, rule, found.sequence, found.recorded, found.derived)
            )

    async def work(self) -> None:
        """Execute runs and fire timers; return after `end`, when no task's code executes."""
        try:
            await self._work()
        finally:
            with CancelScope(shield=True):
                await self.runner.close()

    async def _work(self) -> None:
        with self._scope:
            async with anyio.create_task_group() as workers:
                self.runner.run_in(workers)
                workers.start_soon(self._timekeeper.run, name="headrace timekeeper")
                workers.start_soon(self.snapshotter.run, name="headrace snapshots")
                workers.start_soon(self._room.run, name="headrace room")
                async with self._input.lock:
                    await self._payer.run()

    def end(self) -> None:
        """Interrupt whatever executes; what is open stays open in the log."""
        self.runner.stop()
        self._scope.cancel()

    async def wind_up(self, grace_s: float) -> None:
        """Let runs finish for *grace_s*, then interrupt what still executes."""
        self._payer.stop()
        if self.pipeline.failure is None and grace_s > 0:
            with anyio.move_on_after(grace_s):
                await self._input.settled()
        self.runner.stop()
        if self.pipeline.failure is None:
            await self.runner.ended()

    # ------------------------------------------------------------ events

    async def store(self, todo: list[Checked]) -> list[int]:
        """Store the events in their order; return their sequences once they are committed.

        Raises:
            LogFull: only the first of them are stored, those in `LogFull.stored`.
            DurabilityLost: they may or may not be stored.
        """
        sequences: list[int] = []
        try:
            await self._store(todo, sequences)
        except LogFull as full:
            # One of its own for each caller: it says what became of these events.
            last = self.pipeline.committed_sequence
            stored = takewhile(lambda sequence: sequence <= last, sequences)
            raise LogFull(str(full), stored=stored) from full
        return sequences

    async def _store(self, todo: list[Checked], sequences: list[int]) -> None:
        pipeline = self.pipeline
        repeated: dict[int, int] = {}
        waits_for_time = self._waits_for_time(todo)
        if waits_for_time or self._settings.clock_kind == "system":
            await self._payer.paid()  # what was offered before comes before
        if waits_for_time:
            async with self._input.lock:
                for event in todo:
                    await pipeline.room()
                    time_ns = None if event[2] is None else time_ns_of(event[2])
                    at_ns = await self._let_time_come(time_ns)
                    sequences.append(self._put(event, at_ns, repeated))
                last = self._move_cursors(repeated)
        else:
            for first in range(0, len(todo), EMIT_BATCH):
                if first:
                    await checkpoint()
                await pipeline.room(runs_max=self._settings.pending_runs_max)
                at_ns = pipeline.tick()
                part = todo[first : first + EMIT_BATCH] if len(todo) > EMIT_BATCH else todo
                if any(map(_FULL, part)):
                    sequences.extend(self._put(event, at_ns, repeated) for event in part)
                else:
                    pipeline.put_events(at_ns, part, sequences)
            last = self._move_cursors(repeated)
        if sequences:
            await pipeline.committed(max(last, *sequences))

    def _move_cursors(self, repeated: dict[int, int]) -> int:
        """Move the cursors of sources behind events that were stored before.

        Or a source that ends in such would be read from its last new event at each start.
        Returns the sequence of the last record that says so; 0: there is none.
        """
        last = 0
        cursors = self.kernel.state.cursors
        for source, position in repeated.items():
            if position > cursors.get(source, -1):
                last = self.pipeline.put(CursorMoved(self.pipeline.tick(), source, position))
        return last

    def _put(self, event: Checked, at_ns: int, repeated: dict[int, int]) -> int:
        """Store *event* unless it was before; then note its position in *repeated*."""
        subject, payload, full = event
        if full is None:
            return self.pipeline.put(EventStored(at_ns, subject, payload))
        source = self.pipeline.source(full.source, at_ns) if full.source else 0
        if full.id is not None:
            state = self.kernel.state
            first = state.dedupe.find(source, full.id, at_ns)
            if first is None:
                first = state.offers.find(full.source, full.id)
            if first is not None:
                if source and full.position is not None:
                    repeated[source] = full.position
                return first
        headers: Any = full.headers  # a dict of its own, since it was checked
        record = EventStored(
            at_ns,
            subject,
            payload,
            source,
            full.position,
            full.id,
            time_ns_of(full),
            full.key,
            headers=headers,
        )
        return self.pipeline.put(record)

    def _waits_for_time(self, todo: list[Checked]) -> bool:
        """Say whether any event has to take its turn: by input, those with times of their own.

        One without is the program's own, perhaps that of a run which another waits for.
        """
        return self._settings.clock_kind == "input" and (
            self.start_is_due
            or any(full is not None and time_ns_of(full) is not None for _, _, full in todo)
        )

    async def _let_time_come(self, time_ns: int | None) -> int:
        """By input: move log time on to an event's own; return the time of its record."""
        state = self.kernel.state
        at_ns = state.at_ns if time_ns is None else max(time_ns, state.at_ns)
        if self.start_is_due:
            self._record_start(at_ns)
        if time_ns is not None and self._input.is_due(at_ns):
            await self._input.advance(at_ns)
        return max(at_ns, self.pipeline.tick())

    async def _let_offer_come(self, time_ns: int | None) -> int:
        """Wait until an offer has its turn; return the time of its record."""
        if self._settings.clock_kind == "input":
            await self.pipeline.room()
            return await self._let_time_come(time_ns)
        await self.pipeline.room(runs_max=self._settings.pending_runs_max)
        return self.pipeline.tick()

    # ------------------------------------------------------------ runs

    async def turn(self) -> int:
        """Wait until something from outside may be stored; return the time of its record.

        Nothing comes in between if it is stored at once.
        """
        if self._settings.clock_kind == "input":
            if self.start_is_due:
                async with self._input.lock:
                    await self._let_time_come(None)
            await self.pipeline.room()
        else:
            await self._payer.paid()  # what was offered before comes before
            await self.pipeline.room(runs_max=self._settings.pending_runs_max)
        return self.pipeline.tick()

    async def cancel(self, run_id: int, reason: str) -> int:
        """Ask for an open run to be cancelled; return the request's sequence once committed."""
        sequence = self.pipeline.put(CancelRequested(self.pipeline.tick(), run_id, reason))
        await self.pipeline.committed(sequence)
        return sequence

    async def drain(self) -> None:
        """See `Engine.drain`.

        Raises:
            DurabilityLost, LogFull: the log has failed.
        """
        await self._payer.paid()
        if self._settings.clock_kind == "input":
            async with self._input.lock:
                await self._input.finish_runs()
        else:
            while self.pipeline.failure is None and self.runner.has_open_runs:
                await self._drained.wait()
            if self.pipeline.failure is not None and self.runner.has_open_runs:
                raise self.pipeline.failure
        await self.pipeline.committed(self.kernel.sequence)
