"""Launches: from outside and from runs, under keys, and what they come to."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from tests.engine.stand import (
    FailingLog,
    FullLog,
    Gate,
    StepClock,
    borders,
    check_live,
    fill_disk,
    make_room,
    of_kind,
    opened,
    quiet,
    refolded,
)

from headrace import (
    App,
    DurabilityLost,
    EngineClosed,
    Firing,
    MemoryLog,
    Run,
    RunNotFound,
    TaskCancelled,
    TaskFailed,
    on,
)
from headrace.engine import launches as launches_module
from headrace.engine.record import RunCompleted, RunLaunched
from headrace.engine.snapshot import Snapshot, load


def billing(gate: Gate | None = None) -> tuple[App, list[int]]:
    """Return an app that bills, and what was billed."""
    app, billed = App("t"), list[int]()

    @app.task
    async def bill(order: int) -> str:
        if gate is not None:
            await gate.wait()
        billed.append(order)
        if order < 0:
            raise ValueError("no such order")
        return f"bill {order}"

    return app, billed


async def test_a_launch_runs_the_task_and_gives_its_result() -> None:
    """No event and no rule is needed to have something done durably."""
    app, billed = billing()
    bill = app.tasks["bill"].function

    async with opened(app) as engine:
        run_id = await engine.launch(bill, 17)

        assert await engine.result(run_id) == "bill 17"
        assert billed == [17]
        (view,) = engine.runs("completed")
        assert (view.id, view.task) == (run_id, "bill")
        await check_live(engine)


async def test_a_result_is_of_the_type_that_the_task_says() -> None:
    """As that of a step is."""
    app = App("t")

    @app.task
    async def pair() -> tuple[int, str]:
        return 1, "one"

    async with opened(app) as engine:
        assert await engine.result(await engine.launch(pair)) == (1, "one")


async def test_a_failure_and_a_cancellation_are_raised() -> None:
    """Whoever waits learns how it ended, and of which run."""
    gate, log = Gate(), MemoryLog()
    app, _ = billing(gate)
    bill = app.tasks["bill"].function

    async with opened(app, log) as engine:
        failing, slow = await engine.launch(bill, -1), await engine.launch(bill, 2)
        await quiet(engine)
        await engine.cancel(slow, "too slow")
        with pytest.raises(TaskCancelled, match="too slow"):
            await engine.result(slow)
        gate.open()
        with pytest.raises(TaskFailed, match=rf"run {failing} of 'bill'.*ValueError") as caught:
            await engine.result(failing)
        assert (caught.value.task, caught.value.run_id) == ("bill", failing)
        with pytest.raises(TaskFailed):  # it is a dead letter, and kept
            await engine.result(failing)
    async with opened(app, log) as engine:
        with pytest.raises(RunNotFound, match="not open"):
            await engine.result(slow)


async def test_a_key_is_held_while_its_run_is_open() -> None:
    """A client that asks twice has one thing done, whatever it says the second time."""
    gate, log = Gate(), MemoryLog()
    app, billed = billing(gate)
    bill = app.tasks["bill"].function

    async with opened(app, log) as engine:
        first = await engine.keyed("order-1").launch(bill, 1)
        second = await engine.keyed("order-1").launch(bill, 9)
        other = await engine.keyed("order-2").launch(bill, 2)
        assert first == second != other
        await quiet(engine)
        gate.open()
        await engine.drain()
        assert sorted(billed) == [1, 2]

        again = await engine.keyed("order-1").launch(bill, 1)
        assert again not in (first, other)
        assert await engine.result(again) == "bill 1"
        await check_live(engine)
    assert len(of_kind(log, RunLaunched)) == 3


async def test_the_same_key_of_two_tasks_is_two_keys() -> None:
    """A key says which of a task's runs is meant."""
    app, _ = billing()

    @app.task
    async def ship(order: int) -> int:
        return order

    async with opened(app) as engine:
        bill = app.tasks["bill"].function
        one = await engine.keyed("k", window=60).launch(bill, 1)
        two = await engine.keyed("k", window=60).launch(ship, 1)
        assert one != two


async def test_a_window_keeps_the_key_and_the_result() -> None:
    """Asking again later gives the answer of before, until the window is over."""
    clock, log = StepClock(), MemoryLog()
    app, billed = billing()
    bill = app.tasks["bill"].function

    async with opened(app, log, clock) as engine:
        first = await engine.keyed("k", window=60).launch(bill, 1)
        assert await engine.result(first) == "bill 1"
    async with opened(app, log, clock) as engine:  # also over a restart
        await clock.step(engine, 59)
        assert await engine.keyed("k", window=60).launch(bill, 1) == first
        assert await engine.result(first) == "bill 1"
        await clock.step(engine, 2)
        with pytest.raises(RunNotFound):
            await engine.result(first)
        second = await engine.keyed("k", window=60).launch(bill, 1)
        assert second != first
        await engine.result(second)
        assert billed == [1, 1]
        await check_live(engine)


async def test_a_run_launches_under_a_key() -> None:
    """From a run it is the same, and a retry of the run finds what it has launched."""
    app, billed, log = App("t"), list[int](), MemoryLog()

    @app.task
    async def bill(order: int) -> None:
        billed.append(order)

    @app.rule(on("order", int))
    async def take(run: Run, firing: Firing[int]) -> int:
        return await run.keyed("today", window=60).launch(bill, firing.events[0].data)

    async with opened(app, log) as engine:
        await engine.emit_many([("order", 1), ("order", 2)])
        await engine.drain()
        await check_live(engine)

    assert billed == [1]
    takes = [ended.result for ended in of_kind(log, RunCompleted) if bytes(ended.result) != b"\xc0"]
    assert len(takes) == 2
    assert bytes(takes[0]) == bytes(takes[1])


async def test_a_crash_never_makes_two_of_one_key() -> None:
    """Wherever it comes, the same launch afterwards finds the run of before, or starts it."""
    app, _ = billing()
    bill, log = app.tasks["bill"].function, MemoryLog()
    async with opened(app, log) as engine:
        await engine.result(await engine.keyed("k", window=1e6).launch(bill, 1))

    for upto in borders(log):
        app, billed = billing()
        left = log.copy(upto)
        before = len(of_kind(left, RunCompleted))
        async with opened(app, left) as engine:
            run_id = await engine.keyed("k", window=1e6).launch(app.tasks["bill"].function, 1)
            assert await engine.result(run_id) == "bill 1"
        assert len(of_kind(left, RunLaunched)) == 1, upto
        assert len(billed) == 1 - before, upto


async def test_who_waits_is_told_when_the_disk_dies() -> None:
    """Nobody waits for ever."""
    gate, log = Gate(), FailingLog()
    app, _ = billing(gate)
    caught: list[type[Exception]] = []

    with pytest.raises(DurabilityLost):
        async with opened(app, log) as engine:
            run_id = await engine.launch(app.tasks["bill"].function, 1)

            async def wait() -> None:
                with anyio.CancelScope(shield=True):
                    try:
                        await engine.result(run_id)
                    except DurabilityLost as error:
                        caught.append(type(error))

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await quiet(engine)
                log.die()
    assert caught == [DurabilityLost]


async def test_who_waits_goes_on_after_a_full_disk() -> None:
    """The run goes on once there is room, and so does the wait."""
    gate, log, clock = Gate(), FullLog(), StepClock()
    app, _ = billing(gate)
    results: list[Any] = []

    async with opened(app, log, clock) as engine:
        run_id = await engine.launch(app.tasks["bill"].function, 1)

        async def wait() -> None:
            results.append(await engine.result(run_id))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await quiet(engine)
            await fill_disk(engine, log)
            await make_room(engine, log, clock)
            gate.open()
    assert results == ["bill 1"]


async def test_closed_engines_launch_nothing() -> None:
    """As they take no events."""
    app, _ = billing()
    async with opened(app) as engine:
        pass
    with pytest.raises(EngineClosed):
        await engine.launch(app.tasks["bill"].function, 1)


async def test_wrong_calls_are_refused_before_anything_is_stored() -> None:
    """A mistake is the caller's, at the call."""
    app, _ = billing()
    bill, log = app.tasks["bill"].function, MemoryLog()

    async with opened(app, log) as engine:
        with pytest.raises(TypeError, match="no task"):
            await engine.launch(quiet, engine)
        with pytest.raises(TypeError, match="missing"):
            await engine.launch(bill)
        with pytest.raises(ValueError, match="1 to 500"):
            engine.keyed("")
        with pytest.raises(TypeError, match="text"):
            engine.keyed(17)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="window"):
            engine.keyed("k", window=-1)
    assert of_kind(log, RunLaunched) == []


async def test_results_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest make way, and a snapshot has the same."""
    monkeypatch.setattr(launches_module, "KEYED_ENDED_MAX", 3)
    app, _ = billing()
    bill, log = app.tasks["bill"].function, MemoryLog()

    async with opened(app, log) as engine:
        runs = [await engine.keyed(f"k{n}", window=1e6).launch(bill, n) for n in range(5)]
        await engine.drain()
        assert len(engine.kernel.state.launches) == 3
        assert await engine.result(runs[4]) == "bill 4"
        await check_live(engine)

        loaded = refolded(MemoryLog(), app.decider())
        load(loaded, Snapshot(engine.kernel).parts(2))
        assert loaded.dump() == engine.kernel.dump()
