"""`run.race` and `run.map_as_completed`: children in the order of their ends."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.msgpack import decode
from tests.engine.stand import Gate, StepClock, borders, check_live, of_kind, opened, quiet

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


@pytest.mark.slow
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


@pytest.mark.parametrize("how", ["block", "closed"])
async def test_what_is_left_of_named_results_ends_with_their_block(how: str) -> None:
    """A name keeps them, so that leaving the loop says nothing; the end of the block does."""
    app, clock, log, got = App("t"), StepClock(), MemoryLog(), list[Any]()

    @app.task
    async def nap(run: Run, seconds: float) -> float:
        await run.sleep(seconds)
        return seconds

    @app.rule(on("go"), retry=Retry(attempts=2, wait_first=1.0, jitter=0.0))
    async def work(run: Run) -> None:
        results = run.map_as_completed(nap, [1, 50, 60])
        if how == "block":
            async with results:
                async for index, _ in results:
                    got.append(index)
                    break
        else:
            async for index, _ in results:
                got.append(index)
                break
            await results.aclose()
        got.append([step.status for step in run._state.steps.values()])
        got.append([index async for index, _ in results])
        if run.attempt == 1:
            raise OSError("again")

    async with opened(app, log, clock) as engine:
        await engine.emit("go")
        await clock.step(engine, 30)
        await engine.drain()
        await check_live(engine)

    assert got == [0, ["done", "cancelled", "cancelled"], []] * 2
    assert len(of_kind(log, StepRequested)) == 3
    reasons = [record.reason for record in of_kind(log, RunCancelled)]
    assert reasons == ["its results are not wanted any more"] * 2


async def test_results_that_nobody_began_to_loop_over_start_nothing() -> None:
    """Nor does their block do so when it ends; what comes behind has its own place."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def item(n: int) -> int:
        return n

    @app.rule(on("go"))
    async def work(run: Run) -> list[Any]:
        async with run.map_as_completed(item, [1, 2]) as results:
            pass
        return [[n async for _, n in results], await run.call(item, 3)]

    async with opened(app, log, clock) as engine:
        await engine.emit("go")
        await engine.drain()

    assert [(asked.ordinal, asked.kind) for asked in of_kind(log, StepRequested)] == [(3, "call")]


@pytest.mark.parametrize("end", ["stop", "cancel"])
async def test_the_end_of_a_run_in_the_block_is_its_childrens(end: str) -> None:
    """The block does not wait for them, nor give them up on its own account."""
    app, clock, log = App("t"), StepClock(), MemoryLog()

    @app.task
    async def nap(run: Run, seconds: float) -> None:
        await run.sleep(seconds)

    @app.task
    async def work(run: Run) -> None:
        async with run.map_as_completed(nap, [50, 60]) as results:
            async for _ in results:
                pass

    async with opened(app, log, clock) as engine:
        run_id = await engine.launch(work)
        await quiet(engine)
        if end == "cancel":
            await engine.cancel(run_id, "no money")
            await quiet(engine)

    reasons = [record.reason for record in of_kind(log, RunCancelled)]
    assert reasons == ([] if end == "stop" else ["its parent ended"] * 2 + ["no money"])


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
