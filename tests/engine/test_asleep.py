"""Runs that sleep through a restart are invoked again when they are due, not before."""

from __future__ import annotations

import anyio
import pytest
from tests.engine.stand import Gate, StepClock, of_kind, opened, quiet

from headrace import App, MemoryLog, Run, on
from headrace.engine.record import RunCancelled, RunCompleted


async def test_sleepers_are_not_invoked_before_they_are_due() -> None:
    """A start with a hundred thousand of them costs their states, not their code."""
    app, log, clock, invoked = App("t"), MemoryLog(), StepClock(), list[int]()

    @app.rule(on("a"))
    async def act(run: Run) -> str:
        invoked.append(run.id)
        await run.sleep(100)
        return "woke"

    async with opened(app, log, clock=clock) as engine:
        await engine.emit_many([("a", None)] * 3)
        await quiet(engine)
        assert len(invoked) == 3
    async with opened(app, log, clock=clock) as engine:
        await clock.step(engine, 50)
        assert len(invoked) == 3
        await clock.step(engine, 50)

    assert sorted(invoked) == sorted(2 * invoked[:3])
    assert len(of_kind(log, RunCompleted)) == 3


async def test_children_of_a_sleeper_go_on_without_it() -> None:
    """Their results are there when it wakes; nothing is executed twice because of it."""
    app, log, clock, executed = App("t"), MemoryLog(), StepClock(), list[str]()
    gate = Gate()

    @app.task
    async def beside() -> int:
        await gate.wait()
        executed.append("beside")
        return 7

    @app.rule(on("a"))
    async def act(run: Run) -> int:
        child = run.spawn(beside)
        executed.append("act")
        await run.sleep(100)
        return await child

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("a")
        await quiet(engine)
    gate.open()
    async with opened(app, log, clock=clock) as engine:
        await clock.step(engine, 50)
        assert executed == ["act", "beside"]
        await clock.step(engine, 50)

    assert executed == ["act", "beside", "act"]
    assert [bytes(done.result) for done in of_kind(log, RunCompleted)] == [b"\x07", b"\x07"]


async def test_a_child_that_sleeps_is_not_invoked_by_its_parent() -> None:
    """The parent comes to its call again, and waits for it as before."""
    app, log, clock, executed = App("t"), MemoryLog(), StepClock(), list[str]()

    @app.task
    async def child(run: Run) -> int:
        executed.append("child")
        await run.sleep(100)
        return 3

    @app.rule(on("a"))
    async def act(run: Run) -> int:
        executed.append("act")
        return await run.call(child)

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("a")
        await quiet(engine)
    async with opened(app, log, clock=clock) as engine:
        await clock.step(engine, 99)
        assert executed == ["act", "child", "act"]
        await clock.step(engine, 1)
        assert executed == ["act", "child", "act", "child"]

    assert len(of_kind(log, RunCompleted)) == 2


@pytest.mark.parametrize("depth", [0, 1])
async def test_a_sleeper_that_is_cancelled_takes_its_children_along(depth: int) -> None:
    """Also those that execute while it sleeps itself, and has not been invoked yet."""
    app, log, clock, left = App("t"), MemoryLog(), StepClock(), list[str]()

    @app.task
    async def busy() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            left.append("busy")

    @app.task
    async def between(run: Run, depth: int) -> None:
        run.spawn(busy) if depth == 0 else run.spawn(between, depth - 1)
        await run.sleep(100)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        run.spawn(between, depth)
        await run.sleep(100)

    async with opened(app, log, clock=clock) as engine:
        await engine.emit("a")
        await quiet(engine)
    left.clear()
    async with opened(app, log, clock=clock) as engine:
        await quiet(engine)
        (top,) = (run.id for run in engine.runs("active") if not run.parent)
        await engine.cancel(top)
        await quiet(engine)
        assert left == ["busy"]
        assert engine.state().runs_active == 0

    assert len(of_kind(log, RunCancelled)) == 3 + depth
