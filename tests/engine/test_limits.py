"""How many attempts of a task execute at once, and how many begin in a time."""

from __future__ import annotations

import itertools
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import Gate, StepClock, opened, quiet

from headrace import App, Breaker, MemoryLog, Rate, Run, on

NS = 10**9


class Most:
    """How many are inside at once, and how many were at most."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0

    def __enter__(self) -> None:
        self.now += 1
        self.all += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


# ---------------------------------------------------------------- places


async def test_no_more_than_its_concurrency_execute_at_once() -> None:
    """A task that stands for four connections never has five of them."""
    app, most, gate = App("t"), Most(), Gate()

    @app.task(concurrency=4)
    async def work(n: int) -> int:
        with most:
            await gate.wait()
        return n

    async with opened(app) as engine:
        runs = [await engine.launch(work, n) for n in range(20)]
        await quiet(engine)
        assert (most.now, gate.arrived) == (4, 4)
        gate.open()
        assert [await engine.result(run) for run in runs] == list(range(20))
    assert most.most == 4
    assert most.all == 20


async def test_each_key_has_its_own_places() -> None:
    """One customer's flood leaves the places of the others alone."""
    app, gate = App("t"), Gate()
    inside: list[Any] = []

    @app.rule(on("order").key(lambda event: event.data), name="take")
    async def take(run: Run) -> None:
        await run.call(bill)

    @app.task(concurrency=3, concurrency_per_key=1)
    async def bill(run: Run) -> None:
        inside.append(run.key)
        await gate.wait()
        inside.remove(run.key)

    async with opened(app) as engine:
        for key in ("a", "a", "a", "b", "a", "c", "d"):
            await engine.emit("order", key)
        await quiet(engine)
        assert sorted(inside) == ["a", "b", "c"]
        gate.open()
        await engine.drain()


async def test_a_recursion_under_a_concurrency_of_one_ends() -> None:
    """An attempt that waits for its steps gives its place to them: nothing deadlocks."""
    app, most = App("t"), Most()

    @app.task(concurrency=1)
    async def count(run: Run, n: int) -> int:
        with most:
            await checkpoint()
        below: int = await run.call(count, n - 1) if n else 0
        with most:
            await checkpoint()
        return below + 1

    async with opened(app) as engine:
        both = [await engine.launch(count, 30), await engine.launch(count, 30)]
        assert [await engine.result(run) for run in both] == [31, 31]
    assert most.most == 1


async def test_who_goes_on_after_a_wait_waits_for_a_place() -> None:
    """Sleepers that wake all at once do not break the limit either."""
    app, clock, most = App("t"), StepClock(), Most()

    @app.task(concurrency=2)
    async def nap(run: Run) -> None:
        await run.sleep(10)
        with most:
            for _ in range(5):
                await checkpoint()

    async with opened(app, clock=clock) as engine:
        for _ in range(9):
            await engine.launch(nap)
        await clock.step(engine, 20)
        await engine.drain()
    assert (most.most, most.all) == (2, 9)


@pytest.mark.parametrize("kind", ["call", "spawn", "map"])
async def test_children_of_an_unlimited_parent_obey(kind: str) -> None:
    """However a limited task is called, its limit holds."""
    app, most = App("t"), Most()

    @app.task(concurrency=2)
    async def step(n: int) -> int:
        with most:
            await checkpoint()
        return n

    @app.task
    async def parent(run: Run) -> int:
        if kind == "map":
            return sum(await run.map(step, range(6)))
        if kind == "spawn":
            handles = [run.spawn(step, n) for n in range(6)]
            return sum([await handle for handle in handles])
        return sum([await run.call(step, n) for n in range(6)])

    async with opened(app) as engine:
        runs = [await engine.launch(parent) for _ in range(5)]
        assert [await engine.result(run) for run in runs] == [15] * 5
    assert most.most == 2


async def test_a_run_that_waits_for_a_place_can_be_cancelled() -> None:
    """It leaves the queue, and nobody behind it waits for it."""
    app, gate = App("t"), Gate()

    @app.task(concurrency=1)
    async def work() -> None:
        await gate.wait()

    async with opened(app) as engine:
        first, second, third = [await engine.launch(work) for _ in range(3)]
        await quiet(engine)
        await engine.cancel(second)
        await engine.cancel(first)
        await quiet(engine)
        assert gate.arrived == 2
        gate.open()
        await engine.result(third)
        await engine.drain()
        assert {view.id: view.status for view in engine.runs()} == {
            first: "cancelled",
            second: "cancelled",
            third: "completed",
        }


async def test_children_that_end_with_their_parent_free_their_places() -> None:
    """Places are not lost with runs that end while they wait for one."""
    app, gate = App("t"), Gate()

    @app.task(concurrency=2)
    async def step() -> None:
        await gate.wait()

    @app.task
    async def parent(run: Run) -> None:
        for _ in range(6):
            run.spawn(step)
        await run.sleep(1000)

    async with opened(app) as engine:
        run = await engine.launch(parent)
        await quiet(engine)
        await engine.cancel(run)
        await quiet(engine)
        assert [view.status for view in engine.runs("active")] == []
        gate.open()
        again = [await engine.launch(step) for _ in range(4)]
        for launched in again:
            await engine.result(launched)
        await engine.drain()


async def test_the_engine_has_a_limit_of_its_own() -> None:
    """``app.open(concurrency=…)`` holds for all tasks together."""
    app, most, gate = App("t"), Most(), Gate()

    @app.task
    async def work() -> None:
        with most:
            await gate.wait()

    async with opened(app, concurrency=3) as engine:
        for _ in range(10):
            await engine.launch(work)
        await quiet(engine)
        assert most.now == 3
        gate.open()
        await engine.drain()
    assert most.most == 3


async def test_a_full_task_does_not_hold_up_others() -> None:
    """What waits for a place takes none of the engine's."""
    app, gate = App("t"), Gate()

    @app.task(concurrency=1)
    async def slow() -> None:
        await gate.wait()

    @app.task
    async def fast() -> int:
        return 1

    async with opened(app, concurrency=2) as engine:
        for _ in range(5):
            await engine.launch(slow)
        assert await engine.result(await engine.launch(fast)) == 1
        gate.open()
        await engine.drain()


async def test_a_place_of_the_task_and_one_of_the_engine_do_not_deadlock() -> None:
    """Who comes back from a wait and who is about to begin do not wait for each other."""
    app, clock = App("t"), StepClock()

    @app.task(concurrency=1)
    async def nap(run: Run) -> None:
        for _ in range(4):
            await run.sleep(1)
            await checkpoint()

    async with opened(app, clock=clock, concurrency=1) as engine:
        for _ in range(6):
            await engine.launch(nap)
        await clock.step(engine, 60)
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 6}


async def test_places_are_free_after_a_restart() -> None:
    """Whatever was in flight when the engine stopped holds no place any more."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.task(concurrency=1)
    async def work() -> None:
        await gate.wait()

    async with opened(app, log) as engine:
        for _ in range(3):
            await engine.launch(work)
        await quiet(engine)
    gate.open()
    async with opened(app, log) as engine:
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 3}


# ---------------------------------------------------------------- rates


async def starts_of(rate: Any, count: int, log: MemoryLog | None = None) -> list[float]:
    """Return when each of *count* runs of a task with *rate* began, in seconds of the clock."""
    app, clock, began = App("t"), StepClock(), list[float]()

    @app.task(rate=rate)
    async def work() -> None:
        began.append(clock.monotonic_ns() / NS)

    async with opened(app, log, clock) as engine:
        for _ in range(count):
            await engine.launch(work)
        await clock.step(engine, 1000)
        await engine.drain()
    return began


async def test_attempts_begin_evenly() -> None:
    """A rate without a burst: each begins when its turn has come, and not before."""
    assert await starts_of("10/s", 5) == [0, 0.1, 0.2, 0.3, 0.4]
    assert await starts_of("6/min", 3) == [0, 10, 20]
    assert await starts_of(Rate(2, per=30), 3) == [0, 15, 30]


async def test_a_burst_may_begin_at_once() -> None:
    """After a pause, as many as was said; then at the rate."""
    assert await starts_of(Rate(10, per=1.0, burst=3), 6) == [0, 0, 0, 0.1, 0.2, 0.3]


async def test_a_rate_holds_over_a_crash() -> None:
    """Nobody knows what began just before, so a burst is taken to have."""
    app, clock, log, began = App("t"), StepClock(), MemoryLog(), list[float]()

    @app.task(rate=Rate(1, per=10.0, burst=2))
    async def work() -> None:
        began.append(clock.monotonic_ns() / NS)

    async with opened(app, log, clock) as engine:
        for _ in range(3):
            await engine.launch(work)
        await quiet(engine)
        left = log.copy(engine.kernel.sequence)  # without the record of a stop
        assert began == [0, 0]
    async with opened(app, left, clock) as engine:
        await clock.step(engine, 9)
        assert began == [0, 0]
        await clock.step(engine, 20)
        await engine.drain()
    assert began == [0, 0, 10]


async def test_a_rate_is_rested_after_a_clean_downtime() -> None:
    """An engine that was closed for long lets a burst begin at once."""
    app, clock, log, began = App("t"), StepClock(), MemoryLog(), list[float]()

    @app.task(rate=Rate(1, per=10.0, burst=2))
    async def work() -> None:
        began.append(clock.monotonic_ns() / NS)

    async with opened(app, log, clock) as engine:
        await engine.launch(work)
        await engine.drain()
    clock.pass_by(100)
    async with opened(app, log, clock) as engine:
        for _ in range(3):
            await engine.launch(work)
        await quiet(engine)
        assert began == [0, 100, 100]
        await clock.step(engine, 10)
        await engine.drain()
    assert began == [0, 100, 100, 110]


async def test_in_any_stretch_no_more_begin_than_the_rate_lets() -> None:
    """Also if they come in lumps: burst and n/per for the length of the stretch."""
    app, clock, began = App("t"), StepClock(), list[int]()

    @app.task(rate=Rate(3, per=1.0, burst=4))
    async def work() -> None:
        began.append(clock.monotonic_ns())

    async with opened(app, clock=clock) as engine:
        for lump in (9, 1, 0, 0, 7, 2):
            for _ in range(lump):
                await engine.launch(work)
            await clock.step(engine, 1.3)
        await clock.step(engine, 30)
        await engine.drain()
    assert len(began) == 19
    for first, last in itertools.combinations(range(len(began)), 2):
        length_ns = began[last] - began[first]
        assert last - first + 1 <= 4 + length_ns * 3 // NS


# ---------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"concurrency": True},
        {"concurrency_per_key": 1.5},
        {"rate": "fast"},
        {"rate": "0/s"},
        {"rate": "5/0s"},
        {"rate": 5},
        {"priority": 1.5},
        {"priority": 10_000},
        {"deadline": 0},
        {"deadline": "soon"},
        {"heartbeat": -1},
        {"breaker": 5},
        {"concurency": 5},
    ],
    ids=str,
)
def test_a_limit_that_cannot_work_is_refused_where_it_is_written(wrong: dict[str, Any]) -> None:
    """The message names the task and what would be right."""
    app = App("t")
    with pytest.raises((TypeError, ValueError), match="expected"):

        @app.task(**wrong)  # type: ignore[untyped-decorator]
        async def work() -> None: ...


@pytest.mark.parametrize(
    "wrong",
    [
        {"failures": 0},
        {"failures": 1000},
        {"within": 0},
        {"open_for": float("nan")},
        {"while_open": "hope"},
    ],
    ids=str,
)
def test_a_breaker_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    """Not when the first failures come."""
    with pytest.raises((TypeError, ValueError), match=r"Breaker.*expected"):
        Breaker(**wrong)


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"crash_attempts_max": 1}])
def test_options_of_an_engine_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    """Before anything is opened."""
    with pytest.raises(ValueError, match="expected"):
        App("t").open(MemoryLog(), **wrong)  # type: ignore[arg-type]


async def test_limited_runs_of_a_sync_task_obey_too() -> None:
    """In threads it counts when they execute, as in the loop."""
    app, most = App("t"), Most()

    @app.task(concurrency=2)
    def work() -> None:
        with most:
            pass

    async with opened(app) as engine:
        for _ in range(10):
            await engine.launch(work)
        with anyio.fail_after(10):
            await engine.drain()
    assert most.most <= 2
    assert most.all == 10
