"""Signals: sent to a run by name, received in order, each once, over crashes and retries."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.engine.stand import StepClock, check_live, of_kind, opened, quiet

from headrace import App, EventRefused, MemoryLog, Retry, Run, RunNotFound, on
from headrace.engine.errors import SignalMismatch, SignalRefused
from headrace.engine.record import (
    AttemptFailed,
    RunCancelled,
    RunCompleted,
    RunFailed,
    SignalSent,
    TimerFired,
    WaitRequested,
)
from headrace.engine.waiting import SIGNALS_MAX


class Answer(msgspec.Struct):
    approved: bool


def results(log: MemoryLog) -> list[Any]:
    """Return the results of all runs, oldest first."""
    return [msgspec.msgpack.decode(record.result) for record in of_kind(log, RunCompleted)]


async def test_a_signal_wakes_who_waits_for_it() -> None:
    """It comes as the type that was asked for, at the time at which it was sent."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> list[Any]:
        began = run.now()
        answer = await run.receive("answer", Answer)
        return [answer.approved, run.now() - began]

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(ask)
        await clock.step(engine, 30)
        await engine.signal(run_id, "other", 1)
        await quiet(engine)
        assert engine.runs("active")
        await engine.signal(run_id, "answer", Answer(approved=True))
        assert await engine.result(run_id) == [True, 30.0]
        await check_live(engine)


async def test_signals_are_received_in_their_order_also_before_they_are_asked_for() -> None:
    """Each `receive` takes one, the oldest of its name."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> list[Any]:
        await run.sleep(10)
        got = [await run.receive("a"), await run.receive("b"), await run.receive("a", int)]
        return [*got, await run.receive("a")]

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(ask)
        for name, data in (("a", 1), ("a", 2), ("b", "x")):
            await engine.signal(run_id, name, data)
        await check_live(engine)
        await clock.step(engine, 10)
        await engine.signal(run_id, "a", {"n": 3})
        assert await engine.result(run_id) == [1, "x", 2, {"n": 3}]
        await check_live(engine)


async def test_without_a_signal_it_ends_at_its_timeout() -> None:
    """At its time exactly; a signal that comes later is for the next."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> list[Any]:
        began = run.now()
        first = await run.receive("answer", int, timeout=timedelta(minutes=1))
        after = run.now() - began
        return [first, after, await run.receive("answer", int, timeout=60)]

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(ask)
        await clock.step(engine, 59)
        assert not of_kind(log, TimerFired)
        await clock.step(engine, 1)
        await engine.signal(run_id, "answer", 7)
        assert await engine.result(run_id) == [None, 60.0, 7]
        await clock.step(engine, 100)
        await check_live(engine)

    assert len(of_kind(log, TimerFired)) == 1


async def test_a_restart_does_not_invoke_who_waits_for_a_signal() -> None:
    """Its code goes on with the signal, or with the time-out, and no sooner."""
    app, log, clock, invoked = App("t"), MemoryLog(), StepClock(), list[int]()

    @app.task
    async def ask(run: Run) -> Any:
        invoked.append(run.id)
        return await run.receive("answer", timeout=100)

    async with opened(app, log, clock=clock) as engine:
        told, left = await engine.launch(ask), await engine.launch(ask)
        await quiet(engine)
    async with opened(app, log, clock=clock) as engine:
        await clock.step(engine, 50)
        assert invoked == [told, left]
        await check_live(engine)
        await engine.signal(told, "answer", "yes")
        await quiet(engine)
        assert invoked == [told, left, told]
        await clock.step(engine, 50)

    assert invoked == [told, left, told, left]
    assert results(log) == ["yes", None]


async def test_a_retry_keeps_a_signal_and_a_forgotten_one_is_received_again() -> None:
    """What was received before the failure is a success; what came of it is repeated."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def broken(attempt: int) -> None:
        if attempt == 1:
            raise ValueError("once")

    @app.rule(on("a"), retry=Retry(attempts=2, wait_first=1.0, jitter=0.0))
    async def act(run: Run) -> list[int]:
        first = await run.receive("n", int)
        try:
            await run.call(broken, run.attempt)
        except Exception:
            await run.receive("n", int)
            raise
        return [first, await run.receive("n", int), await run.receive("n", int)]

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        run_id = engine.runs("active")[0].id
        for n in (1, 2, 3):
            await engine.signal(run_id, "n", n)
        await quiet(engine)
        await check_live(engine)
        await clock.step(engine, 10)
        await check_live(engine)

    assert len(of_kind(log, AttemptFailed)) == 1
    assert [1, 2, 3] in results(log)


async def test_a_signal_of_another_type_is_one_clear_error() -> None:
    """It names the run, the call, the signal and both sides; the signal is taken."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> bool:
        try:
            await run.receive("answer", Answer)
        except SignalMismatch as error:
            await run.emit("wrong", str(error))
        return (await run.receive("answer", Answer)).approved

    @app.task
    async def careless(run: Run) -> Any:
        return await run.receive("answer", Answer)

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(ask)
        await engine.signal(run_id, "answer", 17)
        await engine.signal(run_id, "answer", {"approved": False})
        assert await engine.result(run_id) is False
        other = await engine.launch(careless)
        await engine.signal(other, "answer", {"approved": "maybe"})
        await quiet(engine)

    (failed,) = of_kind(log, RunFailed)
    assert failed.run == other
    for part in (f"run {other}, call 1", "signal 'answer'", "expected Answer", "maybe"):
        assert part in failed.error


async def test_a_signal_to_a_run_that_is_not_open_is_refused() -> None:
    """Nothing is stored of it."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def short() -> None: ...

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(short)
        await engine.result(run_id)
        for number in (run_id, 999):
            with pytest.raises(RunNotFound, match=f"run {number} is not open"):
                await engine.signal(number, "a")

    assert not of_kind(log, SignalSent)


async def test_too_many_signals_are_refused() -> None:
    """A run that does not receive has a bound; once it has received some there is room."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> int:
        await run.sleep(10)
        await run.receive("n")
        await run.sleep(10)
        return 1

    async with opened(app, log, clock=clock, snapshot_every=0) as engine:
        run_id = await engine.launch(ask)
        await engine.signal(run_id, "big", b"x" * 900_000)
        for n in range(SIGNALS_MAX - 1):
            await engine.signal(run_id, "n", n)
        with pytest.raises(SignalRefused, match=rf"run {run_id}: .*found {SIGNALS_MAX} of"):
            await engine.signal(run_id, "n", 0)
        await clock.step(engine, 10)
        await engine.signal(run_id, "n", 0)


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("", 1, ValueError),
        (7, 1, TypeError),
        ("a", object(), EventRefused),
        ("x" * 300, 1, ValueError),
        # As it comes from another process, encoded already.
        ("", Raw(b"\xc0"), ValueError),
        ("x" * 300, Raw(b"\xc0"), ValueError),
    ],
)
async def test_bad_signals_are_refused(name: Any, data: Any, error: type[Exception]) -> None:
    """What cannot be a signal is said, and nothing is stored."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> Any:
        return await run.receive("a")

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(ask)
        with pytest.raises(error):
            await engine.signal(run_id, name, data)

    assert not of_kind(log, SignalSent)


@pytest.mark.parametrize(
    ("arguments", "how", "part"),
    [
        (("",), {}, "a name of 1 to"),
        ((3,), {}, "name as text"),
        (("a", 3), {}, "msgspec cannot decode"),
        (("a",), {"timeout": -1}, "expected 0 to 1e9"),
        (("a",), {"timeout": "soon"}, "expected seconds"),
        (("a",), {"timeout": float("nan")}, "expected 0 to 1e9"),
    ],
)
async def test_bad_receives_are_refused(arguments: Any, how: Any, part: str) -> None:
    """A call that cannot work fails the run with its reason, and is not recorded."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> Any:
        return await run.receive(*arguments, **how)

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(ask)
        await quiet(engine)

    (failed,) = of_kind(log, RunFailed)
    assert part in failed.error
    assert not of_kind(log, WaitRequested)


@pytest.mark.parametrize("restarted", [False, True])
async def test_who_waits_for_a_signal_can_be_cancelled(restarted: bool) -> None:
    """Its timer goes with it, also if its code is not there."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> Any:
        return await run.receive("a", timeout=50)

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(ask)
        await quiet(engine)
        if not restarted:
            await engine.cancel(run_id)
            await quiet(engine)
    async with opened(app, log, clock=clock) as engine:
        if restarted:
            await engine.cancel(run_id)
        await clock.step(engine, 100)
        await check_live(engine)

    assert [record.run for record in of_kind(log, RunCancelled)] == [run_id]
    assert not of_kind(log, TimerFired)


async def test_a_redrive_from_the_start_receives_again() -> None:
    """The signals of the attempts before are there for it, in their order."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> list[int]:
        await run.sleep(1)
        got = [await run.receive("n", int), await run.receive("n", int)]
        if run.attempt == 1:
            raise ValueError("broken")
        return got

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(ask)
        for n in (1, 2, 3):
            await engine.signal(run_id, "n", n)
        await clock.step(engine, 1)
        await engine.redrive(run_id, from_start=True)
        await clock.step(engine, 1)
        assert await engine.result(run_id) == [1, 2]
        await check_live(engine)


async def test_signals_survive_a_snapshot() -> None:
    """Queued ones and those that were received are as a fold of the log says."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def ask(run: Run) -> list[Any]:
        first = await run.receive("n")
        await run.sleep(10)
        return [first, await run.receive("n"), await run.receive("late", timeout=5)]

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(ask)
        await engine.signal(run_id, "n", 1)
        await engine.signal(run_id, "n", {"two": 2})
        await quiet(engine)
        await engine.snapshot()
    async with opened(app, log, clock=clock) as engine:
        await check_live(engine)
        await clock.step(engine, 10)
        await engine.snapshot()
    async with opened(app, log, clock=clock) as engine:
        await check_live(engine)
        await clock.step(engine, 10)

    assert results(log) == [[1, {"two": 2}, None]]
