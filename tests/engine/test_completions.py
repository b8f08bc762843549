"""`run.race` and `run.map_as_completed`: children in the order of their ends."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.msgpack import decode
from tests.engine.stand import Gate, StepClock, borders, of_kind, opened, quiet

from headrace import App, MemoryLog, Retry, Run, StepFailed, on
from headrace.engine.record import RunCancelled, RunCompleted, StepRequested


def racing(got: list[Any], executed: list[str] | None = None) -> App:
    """Return an app whose rule lets naps race, and puts what it returns into *got*."""
    app = App("t")

    @app.task
    async def nap(run: Run, seconds: float, name: str) -> str:
        if executed is not None:
            executed.append(name)
        await run.sleep(seconds)
        if name == "bad":
            raise ValueError(name)
        return name

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        handles = [run.spawn(nap, 3, "slow"), run.spawn(nap, 2, "fast"), run.spawn(nap, 9, "last")]
        got.append(await run.race(*handles))
        got.append([handle.status for handle in handles])
        await run.sleep(20)

    @app.rule(on("bad"))
    async def fails(run: Run) -> None:
        try:
            await run.race(run.spawn(nap, 3, "slow"), run.spawn(nap, 2, "bad"))
        except StepFailed as error:
            got.append(error.error)

    @app.rule(on("each"))
    async def each(run: Run) -> None:
        async for index, name in run.map_as_completed(nap_of, [5, 1, 3], max_concurrency=2):
            got.append((index, name))
            await run.sleep(1)

    @app.task
    async def nap_of(run: Run, seconds: float) -> float:
        if executed is not None:
            executed.append(str(seconds))
        await run.sleep(seconds)
        if seconds == 4:
            raise ValueError("four")
        return seconds

    @app.rule(on("leave"))
    async def leave(run: Run) -> None:
        async for index, _ in run.map_as_completed(nap_of, [50, 1, 60]):
            got.append(index)
            break
        got.append("left")
        await run.sleep(10)

    @app.rule(on("broken"))
    async def broken(run: Run) -> None:
        try:
            async for index, _ in run.map_as_completed(nap_of, [50, 1, 4]):
                got.append(index)
        except StepFailed as error:
            got.append(error.error)

    return app


async def test_first_to_end_wins_and_the_others_are_cancelled() -> None:
    """Who wants the fastest answer pays for no other; all have ended when it is there."""
    got, clock, log = list[Any](), StepClock(), MemoryLog()
    async with opened(racing(got), log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 2)
        assert got == ["fast", ["cancelled", "done", "cancelled"]]
        await clock.step(engine, 30)
        await engine.drain()

    reasons = [record.reason for record in of_kind(log, RunCancelled)]
    assert reasons == ["another one won the race"] * 2


async def test_failure_of_the_first_is_raised() -> None:
    """A failure is an end as any other."""
    got, clock = list[Any](), StepClock()
    async with opened(racing(got), None, clock) as engine:
        await engine.emit("bad")
        await clock.step(engine, 30)
        await engine.drain()

    assert got == ["ValueError: bad"]


async def test_same_one_wins_after_a_restart() -> None:
    """The log says who was first, also if others have ended since, at the same time."""
    app, clock, log = App("t"), StepClock(), MemoryLog()
    got, gate = list[Any](), Gate()

    @app.task
    async def nap(run: Run, name: str) -> str:
        await run.sleep(2)
        return name

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        second, first = run.spawn(nap, "second"), run.spawn(nap, "first")
        if not got:
            await gate.wait()
        got.append(await run.race(first, second))
        await run.sleep(20)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 2)
        first_to_end, _ = [decode(record.result) for record in of_kind(log, RunCompleted)]
        gate.open()
        await quiet(engine)
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 30)
        await engine.drain()

    assert got == [first_to_end] * 2


@pytest.mark.parametrize("handles", ["none", "foreign", "no handle"])
async def test_race_of_what_cannot_race_is_refused(handles: str) -> None:
    """The error names the run and says what is expected."""
    app, got, kept = App("t"), list[str](), list[Any]()

    @app.task
    async def one() -> int:
        return 1

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        kept.append(run.spawn(one))
        other: Any = {"none": [], "foreign": kept[:1], "no handle": [3]}[handles]
        if len(kept) > 1:
            with pytest.raises(ValueError, match=r"<Run \d+ of act.*expected") as caught:
                await run.race(*other)
            got.append(str(caught.value))

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        await engine.emit("a")
        await engine.drain()

    assert len(got) == 1


async def test_retry_does_not_run_the_losers_again() -> None:
    """What was decided in an attempt stays decided in the next."""
    app, clock, log, got = App("t"), StepClock(), MemoryLog(), list[str]()

    @app.task
    async def nap(run: Run, seconds: float) -> str:
        await run.sleep(seconds)
        return f"{seconds}"

    @app.rule(on("a"), retry=Retry(attempts=2, wait_first=1, jitter=0))
    async def act(run: Run) -> None:
        got.append(await run.race(run.spawn(nap, 5), run.spawn(nap, 2)))
        if run.attempt == 1:
            raise OSError

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 10)
        await engine.drain()

    assert got == ["2.0", "2.0"]
    assert len(of_kind(log, StepRequested)) == 2


async def test_results_come_as_they_end() -> None:
    """The first result need not wait for the slowest; each comes with its place."""
    got, clock = list[Any](), StepClock()
    async with opened(racing(got), None, clock) as engine:
        await engine.emit("each")
        await clock.step(engine, 30)
        await engine.drain()

    assert got == [(1, 1), (2, 3), (0, 5)]


async def test_results_come_in_the_same_order_after_a_crash_anywhere() -> None:
    """No crash changes the order, and no item whose result is recorded runs again."""
    got, clock, log = list[Any](), StepClock(), MemoryLog()
    async with opened(racing(got), log, clock) as engine:
        await engine.emit("each")
        await clock.step(engine, 30)
        await engine.drain()
    expected = list(got)

    for upto in borders(log)[3:]:
        left, executed = log.copy(upto), list[str]()
        done = len(of_kind(left, RunCompleted))
        got.clear()
        late = StepClock()
        async with opened(racing(got, executed), left, late) as engine:
            await late.step(engine, 60)
            await engine.drain()
        assert got in (expected, []), upto
        assert len(executed) <= 2 * (3 - min(done, 3)), upto


async def test_leaving_the_loop_cancels_the_rest() -> None:
    """Whoever has seen enough need not wait for what nobody wants."""
    got, clock, log = list[Any](), StepClock(), MemoryLog()
    async with opened(racing(got), log, clock) as engine:
        await engine.emit("leave")
        await clock.step(engine, 2)
        assert got == [1, "left"]
        assert len(of_kind(log, RunCancelled)) == 2
        await clock.step(engine, 30)
        await engine.drain()


async def test_stop_in_the_loop_leaves_the_children_open() -> None:
    """That the engine stops is no wish of the code: the next start goes on with them."""
    got, clock, log = list[Any](), StepClock(), MemoryLog()
    async with opened(racing(got), log, clock) as engine:
        await engine.emit("each")
        await clock.step(engine, 1)
    assert of_kind(log, RunCancelled) == []
    async with opened(racing(got), log, clock) as engine:
        await clock.step(engine, 30)
        await engine.drain()

    assert of_kind(log, RunCancelled) == []
    assert got[-3:] == [(1, 1), (2, 3), (0, 5)]


async def test_failure_cancels_the_others_and_is_raised() -> None:
    """As in `map`, but what ended before has been handed on."""
    got, clock, log = list[Any](), StepClock(), MemoryLog()
    async with opened(racing(got), log, clock) as engine:
        await engine.emit("broken")
        await clock.step(engine, 10)
        await engine.drain()

    assert got == [1, "ValueError: four"]
    assert [record.reason for record in of_kind(log, RunCancelled)] == ["a sibling failed"]
