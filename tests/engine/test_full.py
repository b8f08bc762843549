"""A full disk: nothing is acknowledged wrongly, and the engine goes on once there is room."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest
from tests.engine.stand import (
    FullLog,
    Gate,
    GatedLog,
    StepClock,
    of_kind,
    opened,
    quiet,
    until,
)
from tests.reference.shell import fold

from headrace import App, DurabilityLost, Emission, Engine, Firing, LogFull, Retry, Run, on
from headrace.engine.defaults import PROBE_S
from headrace.engine.log.memory import MemorySnapshot
from headrace.engine.record import (
    EngineStarted,
    EngineStopped,
    EventStored,
    RunCompleted,
    StepRequested,
)


async def fill(engine: Engine, log: FullLog) -> None:
    """Let the disk be full, everybody know it, and the engine wait for room."""
    before = engine.kernel
    log.fill()
    await until(lambda: engine.kernel is not before)
    await quiet(engine)


async def go_on(engine: Engine, log: FullLog, clock: StepClock) -> None:
    """Make room, and let the engine find it."""
    log.room = True
    await clock.step(engine, PROBE_S)
    await step_until_ready(engine, clock)
    log.room = False


async def step_until_ready(engine: Engine, clock: StepClock) -> None:
    """Let time pass until events are taken: a thread rebuilds the state before that."""
    while not engine.state().ready and isinstance(engine.log.failure, LogFull):
        await clock.step(engine, PROBE_S)
    await engine.ready()


def check_fold(app: App, engine: Engine, log: FullLog) -> None:
    """The state is that of the log, and a replay finds nothing else in it."""
    folded = fold(app.decider, [raw for _, batch in log.read() for raw in batch])
    assert folded.divergences == []
    assert folded.dump() == engine.kernel.dump()


async def test_who_emits_is_told_that_nothing_was_written() -> None:
    """`LogFull` is certain: the event can be emitted again, even without an id."""
    app, log, clock = App("t"), FullLog(full_at=2), StepClock()
    async with opened(app, log, clock) as engine:
        await engine.emit("a", 1)
        with pytest.raises(LogFull, match="the disk of the test is full") as full:
            await engine.emit("a", 2)
        assert (full.value.not_written, full.value.stored) == (True, [])
        await go_on(engine, log, clock)
        await engine.emit("a", 2)
        check_fold(app, engine, log)

    assert [bytes(event.data) for event in of_kind(log, EventStored)] == [b"\x01", b"\x02"]


async def test_all_who_wait_are_told_each_for_itself() -> None:
    """Those whose records are durable are acknowledged; all others get the error, no one hangs."""
    log, clock, told = GatedLog(), StepClock(), dict[str, object]()

    async def ask(name: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            told[name] = await call()
        except LogFull as full:
            told[name] = (full.stored, full.not_written)

    async with opened(App("t"), log, clock) as engine, anyio.create_task_group() as group:
        log.hold = True
        group.start_soon(ask, "one", lambda: engine.emit("a"))
        await quiet(engine)
        group.start_soon(ask, "many", lambda: engine.emit_many([("a", None)] * 3))
        await quiet(engine)
        log._committed = 4  # the disk took the first of them, and one of the others
        log.failure = LogFull("no room")
        log.hold = False
        log._check_open()()
        await quiet(engine)
        await step_until_ready(engine, clock)
        assert told == {"one": 2, "many": ([3, 4], False)}
        assert await engine.emit("a") == 6  # after another `EngineStarted`


async def test_nothing_is_taken_while_the_disk_is_full() -> None:
    """`emit` and `cancel` say so at once, and whoever looks on sees that it is not ready."""
    app, gate, log, clock = App("t"), Gate(), FullLog(), StepClock()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        assert engine.state().ready
        await fill(engine, log)
        assert not engine.state().ready
        for call in (
            lambda: engine.emit("a"),
            lambda: engine.emit_many([("a", None)]),
            lambda: engine.cancel(engine.runs("active")[0].id),
        ):
            with pytest.raises(LogFull):
                await call()
        await go_on(engine, log, clock)
        assert engine.state().ready
    assert not engine.state().ready


async def test_what_is_stored_can_be_read_meanwhile() -> None:
    """State, runs and cursors are those of the log, without what was not written."""
    app, gate, log, clock = App("t"), Gate(), FullLog(), StepClock()

    @app.rule(on("a"))
    async def act(run: Run, firing: Firing[int]) -> int:
        await gate.wait()
        return firing.events[0].data

    async with opened(app, log, clock) as engine:
        await engine.emit("a", 7, source="file", position=10)
        await quiet(engine)
        stored, before = log.committed_sequence, engine.kernel
        log.full_at = log.commits + 1
        with pytest.raises(LogFull):
            await engine.emit("a", 8, source="file", position=20)
        await until(lambda: engine.kernel is not before)
        state = engine.state()
        assert (state.sequence, state.events, state.sources) == (stored, 1, {"file": 10})
        assert [run.status for run in engine.runs()] == ["active"]
        assert engine.cursor("file") == 10
        assert sum(len(batch) for _, batch in log.read()) == stored
        check_fold(app, engine, log)
        await go_on(engine, log, clock)


async def test_runs_go_on_as_after_a_crash() -> None:
    """Their code is interrupted; recorded steps are not executed again, the others are."""
    app, gate, log, clock = App("t"), Gate(), FullLog(), StepClock()
    executed = list[str]()

    @app.task
    async def step(name: str) -> str:
        executed.append(name)
        if name == "second":
            await gate.wait()
        return name

    @app.rule(on("a"))
    async def act(run: Run) -> list[str]:
        executed.append("run")
        return [await run.call(step, "first"), await run.call(step, "second")]

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert executed == ["run", "first", "second"]
        await fill(engine, log)
        assert gate.arrived == 1
        gate.open()
        await quiet(engine)
        assert executed == ["run", "first", "second"]
        await go_on(engine, log, clock)
        await engine.drain()
        check_fold(app, engine, log)

    assert executed == ["run", "first", "second", "run", "second"]
    assert len(of_kind(log, StepRequested)) == 2
    assert len(of_kind(log, EngineStarted)) == 2


async def test_a_result_that_found_no_room_is_made_again() -> None:
    """A run whose end could not be stored has not ended, whatever it knew itself."""
    app, log, clock, executed = App("t"), FullLog(), StepClock(), list[int]()

    @app.task
    async def step(n: int) -> int:
        executed.append(n)
        log.full_at = log.commits + 1 if len(executed) == 1 else 0
        return n

    @app.rule(on("a"))
    async def act(run: Run) -> int:
        return await run.call(step, 5)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert executed == [5]
        assert of_kind(log, RunCompleted) == []
        await go_on(engine, log, clock)
        await engine.drain()
        check_fold(app, engine, log)

    assert executed == [5, 5]
    assert [bytes(ended.result) for ended in of_kind(log, RunCompleted)] == [b"\x05", b"\x05"]


async def test_retries_and_sleeps_are_kept() -> None:
    """Timers come from the log too; those that were due meanwhile fire when it goes on."""
    app, log, clock, attempts = App("t"), FullLog(), StepClock(), list[int]()

    @app.rule(on("a"), retry=Retry(attempts=3, wait_first=60, wait_max=60, jitter=0))
    async def act(run: Run) -> None:
        attempts.append(run.attempt)
        if run.attempt == 1:
            raise OSError
        await run.sleep(60)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 30)
        await fill(engine, log)
        await clock.step(engine, 300)
        assert attempts == [1]
        assert log.probes == 300 / PROBE_S
        await go_on(engine, log, clock)
        assert attempts == [1, 2]
        await clock.step(engine, 59)
        assert len(engine.runs("active")) == 1
        await clock.step(engine, 1)
        await engine.drain()
        check_fold(app, engine, log)


async def test_a_worker_may_be_the_first_to_learn_of_it() -> None:
    """The end of a run that cannot be recorded ends neither its worker nor the engine."""
    app, gate, log, clock = App("t"), Gate(), FullLog(), StepClock()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        log.full_at_append = True
        gate.open()
        await quiet(engine)
        assert not engine.state().ready
        await go_on(engine, log, clock)
        await engine.drain()
    assert len(of_kind(log, RunCompleted)) == 1


async def test_a_timer_may_be_the_first_to_learn_of_it() -> None:
    """A timer that cannot be recorded fires once there is room."""
    app, log, clock, woken = App("t"), FullLog(), StepClock(), list[float]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.sleep(10)
        woken.append(run.now())

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        log.full_at_append = True
        await clock.step(engine, 11)
        assert (engine.state().ready, woken) == (False, [])
        await go_on(engine, log, clock)
        await engine.drain()
    assert len(woken) == 1


async def test_schedules_do_not_catch_up_one_by_one() -> None:
    """A schedule that fell into the time without room fires once and tells how often it missed."""
    app, log, clock, missed = App("t"), FullLog(), StepClock(), list[int]()

    @app.every(10)
    async def beat(firing: Firing[None]) -> None:
        missed.append(firing.missed)

    async with opened(app, log, clock) as engine:
        await clock.step(engine, 10)
        await fill(engine, log)
        await clock.step(engine, 93)
        await go_on(engine, log, clock)
        assert missed == [0, 8]
        check_fold(app, engine, log)


async def test_drain_waits_for_room() -> None:
    """Who drains wants all to be done, and it will be: nobody has to catch anything."""
    app, gate, log, clock = App("t"), Gate(), FullLog(), StepClock()
    drained = anyio.Event()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async def drain(engine: Engine) -> None:
        await engine.drain()
        drained.set()

    async with opened(app, log, clock) as engine, anyio.create_task_group() as group:
        await engine.emit("a")
        group.start_soon(drain, engine)
        await quiet(engine)
        await fill(engine, log)
        gate.open()
        await clock.step(engine, 60)
        assert not drained.is_set()
        await go_on(engine, log, clock)
        await drained.wait()
        assert len(of_kind(log, RunCompleted)) == 1


async def test_the_disk_may_fill_up_again_and_again() -> None:
    """Each time the engine goes on; what was acknowledged in between is there once."""
    app, log, clock = App("t"), FullLog(), StepClock()
    executed, acknowledged = list[int](), list[int]()

    @app.rule(on("a"))
    async def act(firing: Firing[int]) -> None:
        executed.append(firing.events[0].data)

    async with opened(app, log, clock) as engine:
        for number in range(12):
            log.full_at = log.commits + 1 + number % 4
            while True:
                try:
                    await engine.emit("a", number)
                except LogFull:
                    await go_on(engine, log, clock)
                else:
                    break
            acknowledged.append(number)
            await quiet(engine)
            if not engine.state().ready:
                await go_on(engine, log, clock)
        await engine.drain()
        check_fold(app, engine, log)

    assert [bytes(event.data)[0] for event in of_kind(log, EventStored)] == acknowledged
    assert set(executed) == set(acknowledged)


# ---------------------------------------------------------------- the end


async def test_closing_while_the_disk_is_full_says_so() -> None:
    """What was going on is open in the log: whoever thinks that it is done must learn of it."""
    app, gate, log, clock = App("t"), Gate(), FullLog(), StepClock()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    with pytest.raises(LogFull, match="is full"):
        async with opened(app, log, clock, grace_s=10) as engine:
            await engine.emit("a")
            await fill(engine, log)
    gate.open()
    async with opened(app, log, clock) as engine:
        await engine.drain()

    assert of_kind(log, EngineStopped) != []
    assert len(of_kind(log, RunCompleted)) == 1


async def test_no_room_for_the_mark_of_the_end_is_no_loss() -> None:
    """All that was asked for is stored: there is nothing to complain of."""
    log = FullLog()
    async with opened(App("t"), log) as engine:
        await engine.emit("a")
        await engine.drain()
        log.full_at = log.commits + 1
    assert of_kind(log, EngineStopped) == []
    assert len(of_kind(log, EventStored)) == 1


async def test_an_error_of_the_body_is_not_hidden_by_the_full_disk() -> None:
    """What ended the program is what it hears of."""
    log = FullLog()
    with pytest.raises(ZeroDivisionError):
        async with opened(App("t"), log) as engine:
            await fill(engine, log)
            raise ZeroDivisionError


async def test_cancelling_while_the_disk_is_full_works_at_once() -> None:
    """A time-out of the host neither waits for room nor turns into another error."""
    log, clock = FullLog(), StepClock()
    with anyio.CancelScope() as scope:
        async with opened(App("t"), log, clock, grace_s=1000) as engine:
            await fill(engine, log)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    async with opened(App("t"), log, clock) as engine:
        await engine.emit("a")


async def test_who_waits_for_room_learns_that_the_engine_closes() -> None:
    """`ready` and `drain` in other tasks of the host do not hang."""
    app, gate, log, errors = App("t"), Gate(), FullLog(), list[BaseException]()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async def wait(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except LogFull as error:
            errors.append(error)

    async with anyio.create_task_group() as host:
        with pytest.raises(LogFull):
            async with opened(app, log) as engine:
                await engine.emit("a")
                host.start_soon(wait, engine.drain)
                await quiet(engine)
                await fill(engine, log)
                host.start_soon(wait, engine.ready)
                await quiet(engine)
    assert len(errors) == 2


async def test_a_stopped_engine_finishes_its_runs_after_a_full_disk() -> None:
    """`stop` refuses events, not runs: they go on when there is room."""
    app, gate, log, clock = App("t"), Gate(), FullLog(), StepClock()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        engine.stop()
        await fill(engine, log)
        gate.open()
        await go_on(engine, log, clock)
        await engine.drain()
        assert not engine.state().ready
    assert len(of_kind(log, RunCompleted)) == 1


async def test_a_disk_that_fails_while_it_is_full_ends_the_engine() -> None:
    """There is no going on from `DurabilityLost`: the body is cancelled, all who wait are told."""

    class Doomed(FullLog):
        def resume(self) -> bool:
            raise DurabilityLost("and then it died")

    app, log, clock, errors = App("t"), Doomed(), StepClock(), list[BaseException]()

    async def wait(engine: Engine) -> None:
        try:
            await engine.ready()
        except DurabilityLost as error:
            errors.append(error)

    async with anyio.create_task_group() as host:
        with pytest.raises(DurabilityLost, match="and then it died"):
            async with opened(app, log, clock) as engine:
                await fill(engine, log)
                host.start_soon(wait, engine)
                await clock.step(engine, PROBE_S)
                await anyio.sleep_forever()
    assert len(errors) == 1


async def test_a_log_that_is_full_from_the_beginning() -> None:
    """An engine that finds no room for its start opens, is not ready, and begins with room."""
    app, log, clock, ran = App("t"), FullLog(full_at=1), StepClock(), list[int]()

    @app.rule(on("a"))
    async def act() -> None:
        ran.append(1)

    async with opened(app, log, clock) as engine:
        await quiet(engine)
        assert not engine.state().ready
        await go_on(engine, log, clock)
        await engine.emit("a")
        await engine.drain()
    assert ran == [1]


@pytest.mark.parametrize("full_at", [1, 2])
async def test_by_input_it_goes_on_too(full_at: int) -> None:
    """Log time comes from the events: it begins, or stands still, until they can be stored."""
    app, log = App("t"), FullLog(full_at)

    @app.rule(on("a"))
    async def act(run: Run) -> float:
        await run.sleep(5)
        return run.now()

    async with opened(app, log, "input", probe_s=0.001) as engine:
        with pytest.raises(LogFull):
            for at in (1000.0, 1002.0):
                await engine.emit_many([Emission("a", time=at)])
        log.room = True
        await engine.drain()
        await engine.emit_many([Emission("a", time=1010.0)])
        await engine.drain()
        check_fold(app, engine, log)
    assert of_kind(log, EventStored)[-1].at_ns == 1010 * 10**9


async def test_snapshot_that_finds_no_room_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for while the disk is full it fails; once there is room, the next one is taken."""
    app, log, clock = App("t"), FullLog(), StepClock()

    @app.rule(on("a").count(3, within=60))
    async def act() -> None: ...

    def no_room(_sequence: int) -> MemorySnapshot:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await fill(engine, log)
        with monkeypatch.context() as full, pytest.raises(OSError, match="No space"):
            full.setattr(log.snapshots, "begin", no_room)
            await engine.snapshot()
        await go_on(engine, log, clock)
        await engine.emit("a")
        assert await engine.snapshot() == engine.kernel.sequence
        check_fold(app, engine, log)


async def test_code_that_does_not_let_go_is_waited_for() -> None:
    """No run is resumed while its interrupted code may still act."""
    app, log, clock = App("t"), FullLog(), StepClock()
    inside, let_go = list[str](), anyio.Event()

    @app.rule(on("a"))
    async def act() -> None:
        inside.append("in")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await let_go.wait()
            inside.append("out")

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        log.room = True
        log.fill()
        await clock.step(engine, 60)
        assert inside == ["in"]
        let_go.set()
        await step_until_ready(engine, clock)
        await quiet(engine)
        assert inside == ["in", "out", "in"]


async def test_one_line_when_the_disk_is_full_and_one_when_it_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever reads the diagnostics knows what to do, and that it has helped."""
    log, clock = FullLog(), StepClock()
    with caplog.at_level(logging.WARNING, "headrace"):
        async with opened(App("t"), log, clock) as engine:
            await fill(engine, log)
            await clock.step(engine, 10 * PROBE_S)
            await go_on(engine, log, clock)
    full, room = caplog.messages
    assert "disk_full" in full
    assert "the disk of the test is full" in full
    assert "disk_has_room" in room


@pytest.mark.parametrize("probe_s", [0, -1, float("nan")])
def test_probing_without_a_pause_is_refused(probe_s: float) -> None:
    """It would take all of a processor."""
    with pytest.raises(ValueError, match="expected more than 0"):
        App("t").open(FullLog(), probe_s=probe_s)
