"""Control of the tests of whole engines: each seeded bug must be caught by one of them.

As `test_log_mutants`, which has those of the log.  `NAMED` lists the bugs that a test-suite
must not miss, whatever else it finds; each is one of the mutants here or there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from tests.connectors import test_jsonl as jsonl
from tests.engine import test_clock as clock
from tests.engine import test_engine as engines
from tests.engine import test_full as full
from tests.engine import test_input_clock as input_clock
from tests.engine import test_offers as offers
from tests.engine import test_pressure as pressure
from tests.engine import test_snapshotter as snapshots
from tests.simulation import test_crash as crash
from tests.simulation import test_engine_power as power
from tests.simulation import test_log_mutants as log_mutants
from tests.simulation.shapes import completed_runs

from headrace import LogFull, MemoryLog
from headrace.connectors.jsonl import JsonLines
from headrace.engine import attempt, commit, restore, snapshotter, verdicts
from headrace.engine.clock import LogTime, SystemClock
from headrace.engine.commit import Pipeline
from headrace.engine.core import Core
from headrace.engine.dedupe import Dedupe
from headrace.engine.emission import Checked, Emission
from headrace.engine.engine import Engine
from headrace.engine.errors import HeadraceError
from headrace.engine.kernel import Kernel
from headrace.engine.log import FileLog
from headrace.engine.payer import Payer
from headrace.engine.record import CursorMoved, Input, Record
from headrace.engine.runner import Runner
from headrace.engine.snapshot import Snapshot
from headrace.engine.state import EngineState
from headrace.triggers.count import PlainCount

Patch = pytest.MonkeyPatch
Seed = Callable[[Patch], None]
Check = Callable[[], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough to control the tests with."""
    return "asyncio"


# ---------------------------------------------------------------- the checks


async def full_queue() -> None:
    with Patch.context() as patch:
        await engines.test_full_queue_makes_emit_wait(patch)


async def slow_disk() -> None:
    with Patch.context() as patch, TemporaryDirectory() as folder:
        await pressure.test_emitters_wait_for_a_slow_disk(Path(folder), patch)


async def merged_files() -> None:
    with Patch.context() as patch, TemporaryDirectory() as folder:
        await jsonl.test_files_are_merged_by_time_and_again_so_after_a_stop(Path(folder), patch)


async def set_clock() -> None:
    await clock.test_a_watchdog_outlives_a_clock_that_is_set(-3600.0)


async def crashed_offers() -> None:
    await offers.test_a_crash_between_offer_and_payment_stores_each_once("system")


async def next_start() -> None:
    memory = MemoryLog()
    with Patch.context() as patch:
        await snapshots.test_next_start_begins_at_the_snapshot(lambda: memory, patch)


async def known_ids() -> None:
    memory = MemoryLog()
    await snapshots.test_ids_are_known_after_a_start_from_a_snapshot(lambda: memory)


async def power_loss() -> None:
    calls = await power.forget("flushed", None)
    for after in range(calls // 2, calls, 13):  # few of the moments are bad ones
        await power.forget("flushed", after)


async def forgetting() -> None:
    calls = await power.forget("fsynced", None)
    for after in range(calls // 2, calls, 61):
        await power.forget("fsynced", after)


async def full_disk() -> None:
    with Patch.context() as patch:
        # Who keeps a wrong state waits for records that never come.
        patch.setattr("tests.engine.stand.HANG_S", 3.0)
        await full.test_who_emits_is_told_that_nothing_was_written()


async def slow_clock() -> None:
    clock.test_a_clock_that_is_set_back_does_not_stop_log_time()


async def crashes() -> None:
    """Some of those of `test_crash_behind_many_units`."""
    log, expected = await crash.undisturbed()
    for upto in crash.borders(log)[::17]:
        left = log.copy(upto)
        done = completed_runs(left)
        trail = await crash.go_on(left)
        crash.check(left, done, trail, expected, f"cut at {upto}")


# ---------------------------------------------------------------- sources


def cursor_before_event(patch: Patch) -> None:
    """The cursor moves first, in a unit of its own."""
    original = Core._put

    def put(self: Core, event: Checked, at_ns: int, repeated: dict[int, int]) -> int:
        return original(self, _without_position(self, event, at_ns), at_ns, repeated)

    patch.setattr(Core, "_put", put)


def _without_position(core: Core, event: Checked, at_ns: int) -> Checked:
    subject, payload, emission = event
    if emission is None or emission.position is None:
        return event
    source = core.pipeline.source(emission.source, at_ns)
    core.pipeline.put(CursorMoved(at_ns, source, emission.position))
    return subject, payload, msgspec.structs.replace(emission, position=None)


def cursor_after_event(patch: Patch) -> None:
    """The cursor moves in a unit of its own, after that of the event."""
    original = Core._put

    def put(self: Core, event: Checked, at_ns: int, repeated: dict[int, int]) -> int:
        subject, payload, emission = event
        bare = emission and msgspec.structs.replace(emission, position=None)
        sequence = original(self, (subject, payload, bare), at_ns, repeated)
        _without_position(self, event, at_ns)
        return sequence

    patch.setattr(Core, "_put", put)


def cursor_of_what_was_read(patch: Patch) -> None:
    """A line is stored with the place up to which the file was read."""
    original = JsonLines._take

    def take(self: JsonLines, events: list[Emission]) -> None:
        original(self, events)
        events[:] = [msgspec.structs.replace(each, position=self.position) for each in events]

    patch.setattr(JsonLines, "_take", take)


def drop_on_full_queue(patch: Patch) -> None:
    """What finds no room in the queue is dropped, and acknowledged."""
    original = Core._put

    async def room(_self: Pipeline, **_: int) -> None: ...

    def put(self: Core, event: Checked, at_ns: int, repeated: dict[int, int]) -> int:
        if self.pipeline.log.pending_bytes > commit.PENDING_BYTES_MAX:
            return self.kernel.sequence
        return original(self, event, at_ns, repeated)

    patch.setattr(Pipeline, "room", room)
    patch.setattr(Core, "_put", put)


def wait_for_no_room(patch: Patch) -> None:
    """What finds no room in the queue is put into it all the same."""

    async def room(_self: Pipeline, **_: int) -> None: ...

    patch.setattr(Pipeline, "room", room)


# ---------------------------------------------------------------- time


def wall_clock_in_timer(patch: Patch) -> None:
    """How long to sleep until a timer is due is said by the wall clock."""

    def monotonic_at(self: LogTime, due_ns: int) -> int:
        return self._last_monotonic_ns + max(0, due_ns - self._clock.wall_ns())

    patch.setattr(LogTime, "monotonic_at", monotonic_at)


def wall_clock_is_log_time(patch: Patch) -> None:
    """Log time is what the wall clock says, or stands still."""
    patch.setattr(LogTime, "now_ns", lambda self: self._clock.wall_ns())


def wall_clock_in_retry(patch: Patch) -> None:
    """The wait of a retry begins at the time of this machine."""
    original = attempt.failure_record

    def failure_record(*args: Any, now_ns: int, **kwargs: Any) -> Any:
        made = original(*args, now_ns=SystemClock().wall_ns(), **kwargs)
        return msgspec.structs.replace(made, at_ns=now_ns)

    patch.setattr("headrace.engine.endings.failure_record", failure_record)


# ---------------------------------------------------------------- log before act


def effects_before_commit(patch: Patch) -> None:
    """Runs start as soon as their firing is put."""
    put, put_events = Pipeline.put, Pipeline.put_events

    def put_one(self: Pipeline, record: Input) -> int:
        sequence = put(self, record)
        self._release(self.kernel.sequence)
        return sequence

    def put_many(self: Pipeline, *args: Any) -> None:
        put_events(self, *args)
        self._release(self.kernel.sequence)

    patch.setattr(Pipeline, "put", put_one)
    patch.setattr(Pipeline, "put_events", put_many)


def acknowledged_before_commit(patch: Patch) -> None:
    """Who emits is told at once that the event is stored."""

    async def committed(_self: Pipeline, _sequence: int) -> None: ...

    patch.setattr(Pipeline, "committed", committed)


def acknowledged_on_full(patch: Patch) -> None:
    """Who emits is told that the event is stored, although there was no room."""
    original = Pipeline.committed

    async def committed(self: Pipeline, sequence: int) -> None:
        try:
            await original(self, sequence)
        except LogFull:
            return

    patch.setattr(Pipeline, "committed", committed)


def kernel_kept_after_full(patch: Patch) -> None:
    """After a full disk the engine goes on with the state that it had before."""
    original = Engine._next_core

    async def next_core(self: Engine, core: Core) -> Core:
        await original(self, core)
        return self._make_core(core.kernel, core.pipeline.backend)

    patch.setattr(Engine, "_next_core", next_core)


def offer_paid_twice(patch: Patch) -> None:
    """That an offer was paid is known to this life only."""
    original = Payer._pay

    def pay(self: Payer, sequence: int, offered: Any, at_ns: int) -> None:
        put = self._pipeline.put

        def put_without(record: Any) -> int:
            if hasattr(record, "offer"):
                record = msgspec.structs.replace(record, offer=0, id=None)
            return put(record)

        self._pipeline.put = put_without  # type: ignore[method-assign]
        original(self, sequence, offered, at_ns)
        self._pipeline.put = put  # type: ignore[method-assign]
        self._offers.paid(sequence, offered.source, offered.id)

    patch.setattr(Payer, "_pay", pay)


# ---------------------------------------------------------------- crashes


def results_forgotten(patch: Patch) -> None:
    """What steps have returned is not looked at by the next life."""
    original = Runner.resume

    def resume(self: Runner) -> None:
        for state in self.pipeline.kernel.state.runs.active.values():
            for ordinal in [n for n, step in state.steps.items() if step.status == "done"]:
                del state.steps[ordinal]
        original(self)

    patch.setattr(Runner, "resume", resume)


def retries_forgotten(patch: Patch) -> None:
    """A restart does not wait for the retry that was due later."""
    original = Runner.resume

    def resume(self: Runner) -> None:
        for state in list(self.pipeline.kernel.state.runs.active.values()):
            if state.status == "retrying":
                self.pipeline.kernel.state.timers.disarm(("", state.id, 0))
                state.status = "active"
        original(self)

    patch.setattr(Runner, "resume", resume)


def finished_started_again(patch: Patch) -> None:
    """A run whose end is recorded is open again after a restart."""
    original, end = restore.restore, EngineState._end

    def never_end(self: EngineState, sequence: int, run_id: int, *args: Any, **kwargs: Any) -> Any:
        run = self.runs.active.get(run_id)
        return () if run and not run.parent else end(self, sequence, run_id, *args, **kwargs)

    def restored(log: Any, decider: Any, *, clock: str | None) -> Kernel:
        with Patch.context() as inner:
            inner.setattr(EngineState, "_end", never_end)
            return original(log, decider, clock=clock)

    patch.setattr("headrace.engine.life.restore", restored)


# ---------------------------------------------------------------- snapshots


def snapshot_inside_a_unit(patch: Patch) -> None:
    """The state is written out after an input, before what it has led to."""
    halves: dict[Kernel, tuple[int, list[bytes]]] = {}
    original = verdicts.decide

    def decided(self: Kernel, record: Input, found: Any) -> list[Record]:
        def decide(state: Any, verdict: Any) -> Any:
            halves[self] = (self.sequence, list(Snapshot(self).parts()))
            return original(state, verdict)

        with Patch.context() as inner:
            inner.setattr("headrace.engine.kernel.decide", decide)
            return whole(self, record, found)

    class Half(Snapshot):
        def __init__(self, kernel: Kernel) -> None:
            super().__init__(kernel)
            self.give_up()
            self.sequence, self._parts = halves[kernel]

        def step(self, count: int) -> bytes | None:
            return self._parts.pop(0) if self._parts else super().step(count)

    whole = Kernel._decided
    patch.setattr(Kernel, "_decided", decided)
    patch.setattr(snapshotter, "Snapshot", Half)


def snapshot_ahead_of_the_disk(patch: Patch) -> None:
    """A snapshot counts before its record is synced."""
    patch.setattr(FileLog, "sync", lambda _self, _sequence: None)


def snapshot_without_ids(patch: Patch) -> None:
    """Which ids were stored is not in a snapshot."""
    patch.setattr(Dedupe, "load", lambda _self, _entries: None)


def windows_need_nothing(patch: Patch) -> None:
    """Retention is not told what windows refer to."""
    original = PlainCount.packed
    patch.setattr(PlainCount, "packed", lambda *entry: (original(*entry)[0], None))


def snapshot_needs_nothing(patch: Patch) -> None:
    """Retention is not told what the state refers to."""
    patch.setattr(Snapshot, "oldest_sequence", property(lambda self: self.sequence + 1))


def tail_one_too_late(patch: Patch) -> None:
    """The record after the snapshot is passed over."""
    _shift(patch, +1)


def tail_one_too_early(patch: Patch) -> None:
    """The last record of the snapshot is applied once more."""
    _shift(patch, -1)


def _shift(patch: Patch, by: int) -> None:
    original = restore.from_snapshot

    def from_snapshot(log: Any, decider: Any) -> tuple[Kernel, list[str]]:
        kernel, problems = original(log, decider)
        if kernel.sequence:
            kernel.sequence += by
        return kernel, problems

    patch.setattr(restore, "from_snapshot", from_snapshot)


MUTANTS: list[tuple[Seed, Check]] = [
    (cursor_before_event, engines.test_cursor_commits_with_the_event),
    (cursor_after_event, engines.test_cursor_commits_with_the_event),
    (cursor_before_event, crashes),
    (cursor_of_what_was_read, merged_files),
    (drop_on_full_queue, full_queue),
    (drop_on_full_queue, slow_disk),
    (wait_for_no_room, full_queue),
    (wait_for_no_room, slow_disk),
    (wall_clock_in_timer, set_clock),
    (wall_clock_is_log_time, slow_clock),
    (
        wall_clock_in_retry,
        input_clock.test_sleeps_and_retries_end_at_their_time_between_the_events,
    ),
    (effects_before_commit, engines.test_nothing_runs_before_the_event_is_durable),
    (acknowledged_before_commit, engines.test_emit_returns_only_after_the_commit),
    (acknowledged_on_full, full_disk),
    (kernel_kept_after_full, full_disk),
    (offer_paid_twice, crashed_offers),
    (results_forgotten, crashes),
    (retries_forgotten, crashes),
    (finished_started_again, crashes),
    (snapshot_inside_a_unit, next_start),
    (snapshot_ahead_of_the_disk, power_loss),
    (snapshot_without_ids, known_ids),
    (windows_need_nothing, forgetting),
    (snapshot_needs_nothing, forgetting),
    (tail_one_too_late, next_start),
    (tail_one_too_early, next_start),
]

NAMED: dict[str, Callable[..., None]] = {
    "ack before fsync": log_mutants.ack_before_sync,
    "skip dir fsync": log_mutants.skip_directory_sync,
    "skip CRC": log_mutants.skip_checksum,
    "ignore HEAD": log_mutants.ignore_head,
    "truncate mid-file": log_mutants.cut_anything,
    "retry fsync": log_mutants.retry_sync,
    "reuse seq": log_mutants.reuse_sequence,
    "cursor before effect": cursor_before_event,
    "drop on full queue": drop_on_full_queue,
    "wall clock in timer": wall_clock_in_timer,
    "non-chained frame": log_mutants.unchained,
    "no short-write loop": log_mutants.no_short_write_loop,
}


def name_of(part: Callable[..., Any]) -> str:
    return getattr(part, "__name__", "")


@pytest.mark.parametrize(("seed", "check"), MUTANTS, ids=name_of)
async def test_seeded_bug_is_caught(seed: Seed, check: Check, monkeypatch: Patch) -> None:
    """A test of the engine that passes with this bug would be worth nothing."""
    seed(monkeypatch)
    noticed = pytest.RaisesExc((AssertionError, HeadraceError, TimeoutError, pytest.fail.Exception))
    with pytest.RaisesGroup(noticed, allow_unwrapped=True, flatten_subgroups=True):
        await check()


@pytest.mark.parametrize("check", dict.fromkeys(check for _, check in MUTANTS), ids=name_of)
async def test_checks_pass_without_a_bug(check: Check) -> None:
    """The checks that the mutants must fail do not fail by themselves."""
    await check()


def test_none_of_the_bugs_that_have_a_name_is_missing() -> None:
    """Each of the twelve stands among the mutants, with a check that must notice it."""
    seeds = {seed for seed, _ in (*MUTANTS, *log_mutants.MUTANTS)}
    assert len(NAMED) == len(set(NAMED.values())) == 12
    assert set(NAMED.values()) <= seeds
