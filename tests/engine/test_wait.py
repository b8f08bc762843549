"""Patterns that a run waits for: look-back, time-outs, restarts, timers of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.stand import (
    FullLog,
    Gate,
    GatedLog,
    StepClock,
    check_live,
    fill_disk,
    make_room,
    of_kind,
    opened,
    quiet,
)

from headrace import (
    App,
    Emission,
    FileLog,
    MemoryLog,
    Retry,
    Run,
    all_of,
    any_of,
    on,
    sequence,
    silent,
)
from headrace.engine.lookback import READ_AT_ONCE
from headrace.engine.record import (
    EventStored,
    RunCancelled,
    RunCompleted,
    RunFailed,
    WaitEnded,
    WaitRequested,
)


class Fan(msgspec.Struct):
    rpm: int


def results(log: MemoryLog) -> list[Any]:
    """Return the results of all runs, in the order of their ends."""
    return [msgspec.msgpack.decode(record.result) for record in of_kind(log, RunCompleted)]


async def test_a_run_goes_on_when_its_pattern_is_met() -> None:
    """It gets the firing, with typed events; what came before the run does not count."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run, fan: str) -> list[Any]:
        firing = await run.wait(on(f"fans.{fan}", Fan).where(lambda e: e.data.rpm > 100))
        assert firing.sequence > firing.sequences[0]
        return [firing.events[0].data.rpm, firing.events[0].subject, firing.at, run.now()]

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("fans.a", Fan(900))
        run_id = await engine.launch(start, "a")
        await clock.step(engine, 5)
        await engine.emit("fans.a", Fan(50))
        await engine.emit("fans.b", Fan(800))
        await engine.emit("fans.a", "no fan")
        await quiet(engine)
        await check_live(engine)
        await engine.emit("fans.a", Fan(700))
        at = engine.kernel.state.at_ns / 1e9
        assert await engine.result(run_id) == [700, "fans.a", at, at]
        await check_live(engine)


async def test_looking_back_sees_an_answer_that_came_before_the_wait() -> None:
    """From a sequence on, or from the cause of the run on; or it is told to wait for another."""
    app, log, clock, gate = App("t"), MemoryLog(), StepClock(), Gate()

    @app.rule(on("go"))
    async def act(run: Run) -> list[int]:
        asked = await run.emit("start")
        await gate.wait()
        found = await run.wait(on("up", int), since=asked)
        again = await run.wait(on("up", int), since=run.cause)
        new = await run.wait(on("up", int), lookback=False)
        return [firing.events[0].data for firing in (found, again, new)]

    async with opened(app, log, clock=clock) as engine:
        await engine.emit_many([("up", 1), ("go", None), ("up", 2)])
        await quiet(engine)
        await engine.emit_many([("up", 3), ("up", 4)])
        gate.open()
        await quiet(engine)
        await engine.emit("up", 5)
        await quiet(engine)
        await check_live(engine)

    assert results(log) == [[3, 2, 5]]


async def test_without_a_firing_it_ends_at_its_timeout() -> None:
    """And what comes after that does not count."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> list[Any]:
        began = run.now()
        return [await run.wait(on("up"), timeout=30), run.now() - began]

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await clock.step(engine, 30)
        await engine.emit("up")
        await quiet(engine)
        await check_live(engine)

    assert results(log) == [[None, 30.0]]
    assert [record.met for record in of_kind(log, WaitEnded)] == [None]


async def test_a_wait_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    """Its pattern has seen what came before the stop, and sees what comes after the start."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> list[int]:
        firing = await run.wait(on("n", int).count(3, within=60))
        return [event.data for event in firing.events]

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("n", 0)
        await engine.launch(start)
        await quiet(engine)
        await engine.emit("n", 1)
        await clock.step(engine, 1)
    async with opened(app, log, clock=clock) as engine:
        await engine.emit("n", 2)  # perhaps before the run is invoked again
        await clock.step(engine, 1)
        await engine.snapshot()
    async with opened(app, log, clock=clock) as engine:
        await clock.step(engine, 1)
        await check_live(engine)
        await engine.emit("n", 3)
        await quiet(engine)

    assert results(log) == [[1, 2, 3]]


async def test_what_met_it_before_its_timeout_counts_if_nothing_ran_at_that_time() -> None:
    """The event is in the log, the process died before it was seen, and the time has run out."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> Any:
        firing = await run.wait(on("up", int), timeout=30)
        return firing and firing.events[0].data

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await clock.step(engine, 10)
        sequence = await engine.emit("up", 1)
    left = log.copy(sequence)
    clock.pass_by(100)
    async with opened(app, left, clock=clock) as engine:
        await engine.emit("up", 2)
        await quiet(engine)
        await check_live(engine)

    assert results(left) == [1]


async def test_what_came_after_its_timeout_does_not_count_if_nothing_ran_at_that_time() -> None:
    """Though the run is invoked only behind it, and looks at all that was stored."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> Any:
        firing = await run.wait(on("up", int), timeout=30)
        return firing and firing.events[0].data

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await clock.step(engine, 10)
    clock.pass_by(100)
    async with opened(app, log, clock=clock) as engine:
        await engine.emit("up", 2)
        await quiet(engine)
        await check_live(engine)

    assert results(log) == [None]


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_event_that_matches_twice_counts_once(restarted: bool) -> None:
    """By two of the pattern's subjects; live, and as it is read from the log."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> list[int]:
        both = any_of(on("n.*", int), on("n.a", int))
        return [e.data for e in (await run.wait(both.count(3, within=60))).events]

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await quiet(engine)
        await engine.emit_many([("n.a", 1), ("n.a", 2)])
        await quiet(engine)
        if not restarted:
            await engine.emit("n.a", 3)
    async with opened(app, log, clock=clock) as engine:
        await quiet(engine)
        if restarted:
            await engine.emit("n.a", 3)
        await quiet(engine)

    assert results(log) == [[1, 2, 3]]


async def test_a_silence_that_each_event_puts_off_does_not_grow() -> None:
    """One that beats a thousand times a second is waited for as cheaply as a quiet one."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run, subject: str) -> float:
        began = run.now()
        return (await run.wait(silent(on(subject), for_=3600))).at - began

    async with opened(app, log, clock=clock) as engine:
        for subject in ("x", "y"):
            await engine.launch(start, subject)
        await quiet(engine)
        for _ in range(1000):
            clock.pass_by(0.01)
            await engine.emit_many([("x", None), ("y", None)])
        await quiet(engine)
        waits = engine._core.pipeline.waits
        assert waits is not None
        assert len(waits._due) < 100
        await clock.step(engine, 4000)
        await check_live(engine)

    assert results(log) == [3610.0, 3610.0]


async def test_timers_of_a_pattern_are_its_own() -> None:
    """A hold that is over, an absence, and a step that ran out of time, without any rule."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> list[Any]:
        began = run.now()
        high = on("level", int).where(lambda e: e.data > 5)
        held = await run.wait(high.hold(for_=20))
        at = [run.now() - began]
        quiet_since = await run.wait(silent(on("beat"), for_=15))
        at.append(run.now() - began)
        both = await run.wait(all_of(on("a"), on("b"), within=10), timeout=25)
        at.append(run.now() - began)
        assert quiet_since.due_ns is not None
        return [held.events[0].data, both, at]

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await clock.step(engine, 1)
        await engine.emit("level", 7)
        await clock.step(engine, 20)
        await engine.emit("beat")
        await clock.step(engine, 15)
        await engine.emit("a")
        await clock.step(engine, 11)
        await engine.emit("b")
        await clock.step(engine, 20)
        await check_live(engine)

    ((data, both, at),) = results(log)
    assert (data, both) == (7, None)
    assert at == [21.0, 36.0, 61.0]


async def test_a_pattern_by_time_that_was_due_in_a_downtime_fires_at_the_start() -> None:
    """And before a time-out that was due later, in the same downtime."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> bool:
        return await run.wait(silent(on("beat"), for_=15, expect=[None]), timeout=20) is not None

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await quiet(engine)
    clock.pass_by(100)
    async with opened(app, log, clock=clock) as engine:
        await quiet(engine)
        await check_live(engine)

    assert results(log) == [True]


async def test_by_input_patterns_fire_at_their_own_times() -> None:
    """Log time stands still while a run catches up, and moves on to the pattern's timer."""
    app, log = App("t"), MemoryLog()

    @app.rule(on("go"))
    async def act(run: Run) -> list[Any]:
        held = await run.wait(on("level", int).where(lambda e: e.data > 5).hold(for_=20))
        late = await run.wait(silent(on("beat"), for_=15))
        none = await run.wait(on("never"), timeout=5)
        return [held.at, late.at, none, run.now()]

    def at(time: float, subject: str, data: Any = None) -> Emission:
        return Emission(subject, data, source="f", position=int(time), time=time)

    async with opened(app, log, clock="input") as engine:
        await engine.emit_many([at(10, "go"), at(12, "level", 9), at(40, "beat")])
        await engine.drain()
        await check_live(engine)

    assert results(log) == [[32.0, 55.0, None, 60.0]]


@pytest.mark.parametrize("restarted", [False, True])
async def test_who_waits_can_be_cancelled(restarted: bool) -> None:
    """What comes then meets nothing any more."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> Any:
        await run.wait(on("up"), timeout=50)

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(start)
        await quiet(engine)
        if not restarted:
            await engine.cancel(run_id)
            await quiet(engine)
            await engine.emit("up")
    async with opened(app, log, clock=clock) as engine:
        if restarted:
            await engine.cancel(run_id)
            await quiet(engine)
        await engine.emit("up")
        await clock.step(engine, 100)
        await check_live(engine)

    assert [record.run for record in of_kind(log, RunCancelled)] == [run_id]
    assert not of_kind(log, WaitEnded)


async def test_a_retry_keeps_what_met_the_pattern() -> None:
    """The next attempt gets the same firing, and not the event that came meanwhile."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.rule(on("a"), retry=Retry(attempts=2, wait_first=10.0, jitter=0.0))
    async def act(run: Run) -> int:
        firing = await run.wait(on("up", int).key(lambda e: e.subject))
        assert firing.key == "up"
        if run.attempt == 1:
            raise ValueError("once")
        return firing.events[0].data

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        await engine.emit_many([("up", 1), ("up", 2)])
        await clock.step(engine, 10)

    assert results(log) == [1]


async def test_another_pattern_at_its_place_is_a_divergence() -> None:
    """The error has both sides; a pattern that says the same is none, whatever it closes over."""
    app, changed, log, clock = App("t"), App("t"), MemoryLog(), StepClock()

    @app.task(name="start")
    async def start(run: Run) -> Any:
        await run.wait(on("up", int).where(lambda e: e.data > 1))

    @changed.task(name="start")
    async def restart(run: Run) -> Any:
        await run.wait(on("up", int).where(lambda e: e.data > 2))

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(start)
        await quiet(engine)
    same = log.copy(log.committed_sequence)
    async with opened(app, same, clock=clock) as engine:
        await engine.emit("up", 2)
        await quiet(engine)
    async with opened(changed, log, clock=clock) as engine:
        await quiet(engine)

    assert results(same) == [None]
    (failed,) = of_kind(log, RunFailed)
    for part in (f"run {run_id}, call 1", "wait on('up'", "fingerprint"):
        assert part in failed.error, failed.error


async def test_many_waits_are_met_by_the_same_event() -> None:
    """Each has a state of its own, and its run goes on once."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run, n: int) -> list[int]:
        firing = await run.wait(sequence(on("a"), on("b", int)))
        return [n, firing.events[1].data]

    async with opened(app, log, clock=clock) as engine:
        for n in range(20):
            await engine.launch(start, n)
        await quiet(engine)
        await engine.emit_many([("b", 0), ("a", None), ("b", 1), ("b", 2)])
        await quiet(engine)
        await check_live(engine)

    assert sorted(results(log)) == [[n, 1] for n in range(20)]


async def test_events_during_the_look_back_are_seen_in_their_order() -> None:
    """A log that is slow to commit lets many come meanwhile: no gap, no overlap."""
    app, log, clock = App("t"), GatedLog(), StepClock()

    @app.task
    async def start(run: Run, since: int) -> list[int]:
        firing = await run.wait(on("n", int).count(5, within=60), since=since)
        return [event.data for event in firing.events]

    async with opened(app, log, clock=clock) as engine:
        first = await engine.emit("n", 0)
        await engine.emit("n", 1)
        await engine.launch(start, first)
        log.hold = True
        async with anyio.create_task_group() as group:
            group.start_soon(engine.emit_many, [("n", n) for n in range(2, 7)])
            await quiet(engine)
            assert not of_kind(log, WaitEnded)
            log.release()
        await quiet(engine)
        await check_live(engine)

    assert results(log) == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("arguments", "how", "part"),
    [
        (("up",), {}, "expected a pattern"),
        ((on("up"),), {"timeout": -1}, "expected 0 to 1e9"),
        ((on("up"),), {"since": 10**9}, "expected a sequence of the log"),
        ((on("up"),), {"since": "then"}, "expected a sequence"),
        ((on("up"),), {"since": -1}, "expected a sequence of the log"),
        ((on("up"),), {"since": 1, "lookback": False}, "expected one of them"),
    ],
)
async def test_bad_waits_are_refused(arguments: Any, how: Any, part: str) -> None:
    """A call that cannot work fails the run with its reason, and is not recorded."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> Any:
        await run.wait(*arguments, **how)

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await quiet(engine)

    (failed,) = of_kind(log, RunFailed)
    assert part in failed.error
    assert not of_kind(log, WaitRequested)


async def test_a_long_look_back_is_read_beside_the_loop() -> None:
    """More than is read at once; what it finds is the same."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run, since: int) -> list[int]:
        firing = await run.wait(on("n", int).where(lambda e: e.data % 1500 == 7), since=since)
        other = await run.wait(on("other"), since=since)
        return [firing.events[0].data, other.events[0].sequence]

    async with opened(app, log, clock=clock) as engine:
        first = await engine.emit("n", 7)
        await engine.emit_many([("n", n) for n in range(8, READ_AT_ONCE + 1000)])
        other = await engine.emit("other")
        run_id = await engine.launch(start, first)
        assert await engine.result(run_id) == [1507, other]
        await check_live(engine)


async def test_an_open_wait_keeps_the_log_from_its_beginning_on() -> None:
    """A snapshot says that it needs what the wait would read after a restart."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run, since: int) -> None:
        await run.wait(on("up"), since=since)

    async with opened(app, log, clock=clock, snapshot_every=0) as engine:
        first = await engine.emit("n")
        await engine.emit_many([("n", None)] * 10)
        await engine.launch(start, first)
        await quiet(engine)
        held = await engine.snapshot()
        await engine.emit("up")
        await quiet(engine)
        assert not engine.runs("active")
        free = await engine.snapshot()

    needs = log.snapshots.needs()
    assert needs[held] == first, "its time is where the pattern begins"
    assert needs[free] > first + 10


async def test_a_wait_goes_on_though_retention_has_removed_all_that_it_may(tmp_path: Path) -> None:
    """Each record has a segment of its own, so the log begins where the wait needs it to."""
    app, clock = App("t"), StepClock()

    def log() -> FileLog:
        return FileLog(tmp_path / "log", segment_bytes_max=1, keep_bytes=1)

    @app.task
    async def start(run: Run, since: int) -> int:
        return (await run.wait(on("up", int), since=since)).events[0].data

    async with opened(app, log(), clock=clock, snapshot_every=0) as engine:
        await engine.emit_many([("n", None)] * 4)
        first = await engine.emit("n")
        await engine.emit_many([("n", None)] * 5)
        run_id = await engine.launch(start, first)
        await quiet(engine)
        for n in range(2):  # an older snapshot is kept too
            await engine.emit("n", n)
            await engine.snapshot()
    trimmed = log()
    async with opened(app, trimmed, clock=clock, snapshot_every=0):
        begins = trimmed.retain(trimmed.committed_sequence).first_sequence
    async with opened(app, log(), clock=clock, snapshot_every=0) as engine:
        await engine.emit("up", 42)
        assert await engine.result(run_id) == 42
    assert begins == first, "it has removed what it may, and no more"


async def test_what_cannot_be_recorded_is_one_clear_error() -> None:
    """The event is stored all the same, and everybody else goes on."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def start(run: Run) -> None:
        await run.wait(on("n").batch(2, within=60).aggregate(lambda _: "x" * 2_000_000))

    @app.task
    async def other(run: Run) -> int:
        return len((await run.wait(on("n").batch(2, within=60))).events)

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(start)
        await engine.launch(other)
        await quiet(engine)
        await engine.emit_many([("n", 1), ("n", 2)])
        await quiet(engine)
        await check_live(engine)

    (failed,) = of_kind(log, RunFailed)
    assert failed.run == run_id
    for part in (f"run {run_id}, call 1", "on('n')", "expected at most"):
        assert part in failed.error
    assert results(log) == [2]


async def test_a_full_disk_lets_waits_go_on_once_there_is_room() -> None:
    """With another life of the kernel, which reads again what the pattern has seen."""
    app, log, clock = App("t"), FullLog(), StepClock()

    @app.task
    async def start(run: Run) -> list[Any]:
        firing = await run.wait(on("n", int).count(2, within=600))
        return [[event.data for event in firing.events], await run.receive("go")]

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(start)
        await quiet(engine)
        await engine.emit("n", 1)
        await fill_disk(engine, log)
        await make_room(engine, log, clock)
        await engine.emit("n", 2)
        await engine.signal(run_id, "go", "on")
        await quiet(engine)
        await check_live(engine)

    assert results(log) == [[[1, 2], "on"]]


async def test_lifecycle_events_meet_patterns_too() -> None:
    """Such as the end of another run, which is an event that the engine itself stores."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def short(run: Run) -> None:
        await run.sleep(10)

    @app.task
    async def start(run: Run) -> int:
        launched = await run.launch(short)
        firing = await run.wait(on("run.completed.short"), since=launched)
        return int(firing.events[0].data["run"] == launched)

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(start)
        await quiet(engine)
        await engine.snapshot()
    async with opened(app, log, clock=clock) as engine:
        await clock.step(engine, 10)
        await engine.launch(short)  # of which nobody wants to know
        await clock.step(engine, 10)
        await check_live(engine)

    assert results(log) == [None, 1, None]
    assert [e.subject for e in of_kind(log, EventStored)] == ["run.completed.short"]
