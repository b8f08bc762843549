"""Log time that comes from the events: recorded data plays as it happened."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from tests.engine.stand import Gate, borders, of_kind, opened, quiet, records_of

from headrace import App, Emission, Engine, Firing, MemoryLog, Retry, Run, on, silent
from headrace.engine.record import (
    EngineStarted,
    EngineStopped,
    EventStored,
    RuleFired,
    TimerFired,
)

T0 = 1_400_000_000


def since(at_ns: int) -> float:
    return (at_ns - T0 * 10**9) / 1e9


async def emit(engine: Engine, subject: str, at: float | None, data: Any = None) -> None:
    await engine.emit(subject, data, time=None if at is None else T0 + at)


async def test_log_time_is_that_of_the_events() -> None:
    """And never goes back: an event that comes late has the time of the one before."""
    log = MemoryLog()
    async with opened(App("t"), log, clock="input") as engine:
        for at in (5, 7.25, 6, None, 7.25, 9):
            await emit(engine, "a", at)

    events = of_kind(log, EventStored)
    assert [since(event.at_ns) for event in events] == [5, 7.25, 7.25, 7.25, 7.25, 9]
    assert [event.time_ns and since(event.time_ns) for event in events] == [
        5,
        7.25,
        6,
        None,
        7.25,
        9,
    ]


async def test_nanoseconds_are_kept_exactly() -> None:
    """A float of seconds has not enough digits for those who have more."""
    log = MemoryLog()
    async with opened(App("t"), log, clock="input") as engine:
        await engine.emit_many([Emission("a", time_ns=T0 * 10**9 + 123_456_789)])

    assert of_kind(log, EventStored)[0].at_ns == T0 * 10**9 + 123_456_789


@pytest.mark.parametrize("restarts", [0, 1, 3])
async def test_log_begins_with_its_first_event(restarts: int) -> None:
    """A clock rule does not fire its way up from 1970, however often nothing was played."""
    app, log, fired = App("t"), MemoryLog(), list[float]()

    @app.every(60)
    async def tick(firing: Firing[Any]) -> None:
        fired.append(firing.at - T0)

    for _ in range(restarts):
        async with opened(app, log, clock="input"):
            pass
    async with opened(app, log, clock="input") as engine:
        for at in (0, 30, 130):
            await emit(engine, "a", at)
        await engine.drain()

    assert fired == [60, 120]
    assert of_kind(log, EngineStarted)[0].at_ns == T0 * 10**9
    assert log.committed_sequence < 20


async def test_timers_fire_before_the_event_that_is_later() -> None:
    """L3, at their own time: also those that they arm on the way."""
    app, log, order = App("t"), MemoryLog(), list[tuple[str, float]]()

    @app.rule(silent(on("beat"), for_=10, repeat="every"))
    async def too_quiet(run: Run, firing: Firing[Any]) -> None:
        order.append(("silent", run.now() - T0))

    @app.rule(on("beat"))
    async def beat(run: Run) -> None:
        order.append(("beat", run.now() - T0))

    async with opened(app, log, clock="input") as engine:
        await emit(engine, "beat", 0)
        await emit(engine, "beat", 35)
        await emit(engine, "beat", 45)  # at exactly the end: the timer wins
        await engine.drain()

    assert order == [
        ("beat", 0),
        ("silent", 10),
        ("silent", 20),
        ("silent", 30),
        ("beat", 35),
        ("silent", 45),
        ("beat", 45),
    ]
    assert [fired.at_ns for fired in of_kind(log, TimerFired)] == [
        fired.due_ns for fired in of_kind(log, TimerFired)
    ]


async def test_time_stands_still_while_a_run_works() -> None:
    """What a run does has the time of the event that it answers, however slow the machine is."""
    app, log, go = App("t"), MemoryLog(), threading.Event()

    @app.task
    def slow(n: int) -> int:
        go.wait(10)
        return n

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(slow, 1)
        await run.emit("done", run.now() - T0)

    async with opened(app, log, clock="input") as engine:
        await emit(engine, "a", 1)
        async with anyio.create_task_group() as group:
            group.start_soon(emit, engine, "b", 100)
            await quiet(engine)
            assert [event.subject for event in of_kind(log, EventStored)] == ["a"]
            go.set()

    events = [(event.subject, since(event.at_ns)) for event in of_kind(log, EventStored)]
    assert events == [("a", 1), ("done", 1), ("b", 100)]


async def test_sleeps_and_retries_end_at_their_time_between_the_events() -> None:
    """Recorded data of a week is played in a moment, and each wait is where it belongs."""
    app, log = App("t"), MemoryLog()

    @app.task(retry=Retry(attempts=3, wait_first=10, jitter=0))
    async def flaky(run: Run) -> int:
        if run.attempt < 3:
            raise OSError
        return run.attempt

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.sleep(5)
        await run.emit("slept")
        await run.call(flaky)
        await run.emit("tried")
        await run.sleep(604_800)
        await run.emit("late")

    async with opened(app, log, clock="input") as engine:
        await emit(engine, "a", 0)
        await emit(engine, "b", 20)
        await emit(engine, "c", 40)
        await engine.drain()

    events = [(event.subject, since(event.at_ns)) for event in of_kind(log, EventStored)]
    assert events == [
        ("a", 0),
        ("slept", 5),
        ("b", 20),
        ("tried", 35),
        ("c", 40),
        ("late", 604_840 - 5),
    ]


async def test_emitters_keep_their_order() -> None:
    """Two sources that wait for the same run do not overtake each other."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async with opened(app, log, clock="input") as engine:
        await emit(engine, "a", 0)
        async with anyio.create_task_group() as group:
            for n in range(1, 6):
                group.start_soon(emit, engine, f"n{n}", n)
                await quiet(engine)
            gate.open()

    assert [event.subject for event in of_kind(log, EventStored)] == [
        "a",
        *(f"n{n}" for n in range(1, 6)),
    ]


async def test_emit_cancelled_while_time_stands_still_stores_nothing() -> None:
    """And lets the next one in."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async with opened(app, log, clock="input") as engine:
        await emit(engine, "a", 0)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(emit, engine, "never", 5)
                await quiet(engine)
                scope.cancel()
        gate.open()
        await emit(engine, "b", 6)

    assert [event.subject for event in of_kind(log, EventStored)] == ["a", "b"]


async def test_drain_moves_time_until_no_run_waits_for_it() -> None:
    """But not further: watchdogs and clock rules would never be done."""
    app, log, fired = App("t"), MemoryLog(), list[float]()

    @app.every(3)
    async def tick(firing: Firing[Any]) -> None:
        fired.append(firing.at - T0)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.sleep(10)

    async with opened(app, log, clock="input") as engine:
        await emit(engine, "a", 0)
        await engine.drain()
        assert engine.state().at_ns == (T0 + 10) * 10**9
        await engine.drain()

    assert fired == [3, 6, 9]


async def test_cancelled_sleeper_does_not_let_time_slip_by() -> None:
    """It has something to do from the moment it is stopped, though its code has no turn yet."""
    app, log = App("t"), MemoryLog()

    @app.task
    async def child(run: Run) -> None:
        await run.sleep(1000)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        handle = run.spawn(child)
        await run.sleep(3)
        handle.cancel()
        with pytest.raises(Exception, match="cancelled by its parent"):
            await handle
        await run.emit("ended", run.now() - T0)

    async with opened(app, log, clock="input") as engine:
        await emit(engine, "a", 0)
        for at in range(1, 10):
            await emit(engine, "b", at)
        await engine.drain()

    (ended,) = [event for event in of_kind(log, EventStored) if event.subject == "ended"]
    assert ended.at_ns == (T0 + 3) * 10**9


async def test_event_at_the_time_of_a_timer_comes_after_what_the_timer_leads_to() -> None:
    """Also if a crash came between the two: time does not move then, and still it waits."""
    app, log = App("t"), MemoryLog()

    @app.task
    async def step() -> None: ...

    @app.rule(on("a"), mode="single")
    async def act(run: Run) -> None:
        await run.sleep(4)
        await run.call(step)

    async def play(log: MemoryLog) -> list[str]:
        async with opened(app, log, clock="input") as engine:
            done = engine.cursor("file")
            for position, at in enumerate((0, 4, 4, 8)):
                if done is None or position > done:
                    await engine.emit_many(
                        [Emission("a", source="file", position=position, time=T0 + at)]
                    )
            await engine.drain()
        return [fired.outcome for fired in of_kind(log, RuleFired)]

    assert await play(log) == ["run", "run", "dropped", "run"]
    for upto in borders(log):
        assert await play(log.copy(upto)) == ["run", "run", "dropped", "run"], upto


async def test_code_of_a_run_may_emit_through_the_engine() -> None:
    """Without a time of its own the event does not wait for the run that emits it."""
    app, log, engines = App("t"), MemoryLog(), list[Engine]()

    @app.rule(on("a"))
    async def act() -> None:
        await engines[0].emit("b")

    async with opened(app, log, clock="input") as engine:
        engines.append(engine)
        await emit(engine, "a", 0)
        await emit(engine, "c", 1)

    assert [event.subject for event in of_kind(log, EventStored)] == ["a", "b", "c"]


async def test_reopened_log_goes_on_at_its_own_time() -> None:
    """The time of the machine is nowhere in it."""
    app, log = App("t"), MemoryLog()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.sleep(10)
        await run.emit("woken")

    async with opened(app, log, clock="input") as engine:
        await emit(engine, "a", 0)
    async with opened(app, log, clock="input") as engine:
        await emit(engine, "b", 4)
        await engine.drain()

    found: list[Any] = [record for _, record in records_of(log)]
    times = [(type(r), since(r.at_ns)) for r in found if hasattr(r, "at_ns")]
    assert [at for kind, at in times if kind is EngineStarted] == [0, 0]
    assert [at for kind, at in times if kind is EngineStopped] == [0, 10]
    assert max(at for _, at in times) == 10


async def test_play_is_the_same_whatever_the_pace() -> None:
    """Events one by one, all at once, or with pauses: the same log, record for record."""
    app = App("t")

    @app.task
    def in_thread(n: int) -> int:
        return n

    @app.rule(on("a.*").key(lambda e: e.tokens[1]).count(2, within=5))
    async def act(run: Run) -> None:
        await run.call(in_thread, 1)
        await run.sleep(2.5)
        await run.emit("out")

    events = [("a.x", n * 0.7) for n in range(12)] + [("a.y", 9), ("a.y", 9.5)]

    async def play(pace: str) -> MemoryLog:
        log = MemoryLog(b"the same log id.")
        async with opened(app, log, clock="input") as engine:
            if pace == "all":
                await engine.emit_many([Emission(name, time=T0 + at) for name, at in events])
            else:
                for name, at in events:
                    await emit(engine, name, at)
                    if pace == "pauses":
                        await quiet(engine)
            await engine.drain()
        return log

    logs = [await play(pace) for pace in ("one", "all", "pauses")]
    contents = [[raw for _, batch in log.read() for raw in batch] for log in logs]
    assert contents[0] == contents[1] == contents[2]
    assert len(borders(logs[0])) > 30


@pytest.mark.parametrize("kind", ["every", "silent"])
async def test_drain_ends_though_the_clock_goes_on_starting_runs_that_wait(kind: str) -> None:
    """The end of the input is the end of the command, whatever beats on; what it left resumes."""
    app, done = App("t"), list[str]()

    async def beat(run: Run) -> None:
        await run.sleep(5)  # longer than the beat, so that some run always waits

    if kind == "every":
        app.every(1, name="beat")(beat)
    else:
        app.rule(silent(on("a"), for_=1, repeat="every"), name="beat")(beat)

    @app.rule(on("a"))
    async def work(run: Run) -> None:
        await run.sleep(7)
        done.append("slept")
        await run.launch(later)

    @app.task
    async def later(run: Run) -> None:
        await run.sleep(3)
        done.append("launched")

    log = MemoryLog()
    async with app.open(log, clock="input", grace_s=0) as engine:
        await engine.emit_many([Emission("a", time=1000.0), Emission("b", time=1003.0)])
        with anyio.fail_after(5):
            await engine.drain()

        assert done == ["slept", "launched"]
        assert {run.task for run in engine.runs() if run.ended_at_ns is None} == {"beat"}
