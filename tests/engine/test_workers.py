"""How runs share workers: one for all that never wait, others as soon as one does."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.stand import StepClock, opened, quiet

from headrace import App, Emission, Engine, Firing, MemoryLog, Run, on
from headrace.engine.workers import STRAIGHT_MAX


def workers_of(engine: Engine) -> int:
    """Return how many workers there are."""
    return len(engine.opened().runner._workers.crew.scopes)


async def test_runs_that_never_wait_are_executed_by_one_worker() -> None:
    """Nobody is woken for what is done before he has his turn."""
    app, done = App("t"), list[int]()

    @app.rule(on("a", int))
    async def act(firing: Firing[int]) -> None:
        done.append(firing.events[0].data)

    count = 3 * STRAIGHT_MAX
    async with opened(app) as engine:
        await engine.emit_many([("a", number) for number in range(count)])
        await engine.drain()
        assert workers_of(engine) == 1
    assert done == list(range(count))


async def test_runs_that_wait_are_executed_beside_each_other() -> None:
    """The first that waits has others called, which call others: soon there is one for each."""
    app, begun, gate = App("t"), list[int](), anyio.Event()

    @app.rule(on("a", int))
    async def act(firing: Firing[int]) -> None:
        begun.append(firing.events[0].data)
        await gate.wait()

    async with opened(app) as engine:
        await engine.emit_many([("a", number) for number in range(20)])
        await quiet(engine)
        assert begun == list(range(20))
        gate.set()
        await engine.drain()
        assert workers_of(engine) == 20


async def test_children_that_never_wait_are_executed_by_few_workers() -> None:
    """The parent, which waits, does not have one called for each."""
    app, count = App("t"), 300

    @app.task
    async def nothing() -> None:
        pass

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        for handle in [run.spawn(nothing) for _ in range(count)]:
            await handle

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        assert engine.state().runs_ended == {"completed": count + 1}
        assert workers_of(engine) < 10


async def test_others_on_the_loop_have_their_turn_between_runs() -> None:
    """A worker that always finds more to do lets all else go on now and then."""
    app, turns, seen = App("t"), 0, list[int]()

    @app.rule(on("a"))
    async def act() -> None:
        seen.append(turns)

    async def host() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with opened(app) as engine, anyio.create_task_group() as group:
        group.start_soon(host)
        await engine.emit_many([("a", None)] * (10 * STRAIGHT_MAX))
        await engine.drain()
        group.cancel_scope.cancel()
        assert workers_of(engine) == 1
    assert seen[-1] - seen[0] >= 5  # not each pause lets it begin a turn, on trio


async def test_the_next_run_of_a_worker_is_not_stopped_with_the_one_before() -> None:
    """They share a scope only for as long as nobody cancels it."""
    app, clock, done = App("t"), StepClock(), list[str]()

    @app.rule(on("late"), timeout=1)
    async def late() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            done.append("late ends")

    @app.rule(on("next"))
    async def after() -> None:
        await checkpoint()
        done.append("next")

    async with opened(app, clock=clock) as engine:
        for _ in range(3):
            await engine.emit("late")
            await clock.step(engine, 2)
            await engine.emit("next")
            await engine.drain()
        assert workers_of(engine) == 1
    assert done == ["late ends", "next"] * 3


async def test_code_that_goes_on_in_spite_of_its_end_keeps_what_it_comes_to() -> None:
    """And the worker is fit for others."""
    app, clock, done = App("t"), StepClock(), list[str]()

    @app.rule(on("late"), timeout=1)
    async def late(run: Run) -> None:
        with anyio.CancelScope() as scope:
            scope.shield = True
            await clock.sleep_until(clock.monotonic_ns() + 5_000_000_000)
        done.append("late")

    @app.rule(on("next"))
    async def after() -> None:
        await checkpoint()
        done.append("next")

    async with opened(app, clock=clock) as engine:
        await engine.emit("late")
        await clock.step(engine, 10)
        await engine.emit("next")
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 2}
    assert done == ["late", "next"]


SUBJECTS = st.sampled_from(["a", "b", "c.d"])


@pytest.mark.slow
@given(st.lists(st.tuples(SUBJECTS, st.integers(0, 9) | st.text(max_size=2)), max_size=40))
def test_a_batch_is_stored_as_its_events_one_by_one(events: list[tuple[str, Any]]) -> None:
    """Those that lead to nothing go to the log together, and all is as if they had not."""

    async def stored(batch: list[Any]) -> list[bytes]:
        app, log = App("t"), MemoryLog()

        @app.rule(on("a", int).where(lambda event: event.data > 4))
        async def act() -> None: ...

        @app.rule(on("*", int).key(lambda event: event.data % 3).count(2, within=5))
        async def pairs() -> None: ...

        @app.rule(on("rule.fired.>"))
        async def told() -> None: ...

        @app.rule(on("rule.mismatch.act"))
        async def amiss() -> None: ...

        async with opened(app, log, StepClock()) as engine:
            await engine.emit_many(batch)
            await engine.drain()
        return [raw for _, raws in log.read() for raw in raws]

    together = anyio.run(stored, events)
    alone = anyio.run(stored, [Emission(subject, data) for subject, data in events])
    assert together == alone
