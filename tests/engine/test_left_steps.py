"""Code that would leave a wait by a cancel scope of its own, or ask for steps of another run.

What comes next would depend on the machine's clock, so it is one clear error instead: never a
run that goes one way without a crash and another way after it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.engine.stand import (
    GatedLog,
    StepClock,
    check_live,
    of_kind,
    opened,
    quiet,
    until,
)

from headrace import App, Engine, MemoryLog, Retry, Run, StepCancelled, StepFailed, on
from headrace.engine.record import (
    AttemptFailed,
    EventStored,
    RunCancelled,
    RunCompleted,
    RunFailed,
    SignalSent,
)


class House:
    """An app whose run leaves a wait when the test wants it to, and would then go on."""

    def __init__(self, what: str, leave: Callable[..., Awaitable[None]]) -> None:
        """Let the run wait for *what*, inside of *leave*."""
        self.app = App("house")
        self.went_on: list[str] = []
        self.cleaned: list[str] = []
        self.left = anyio.Event()

        @self.app.task
        async def child(run: Run) -> None:
            await run.sleep(1000)

        @self.app.task
        async def item(run: Run, n: int) -> None:
            await run.sleep(1000 * n)

        @self.app.task
        async def act(run: Run) -> str:
            handle = run.spawn(child)
            waits: dict[str, Callable[[], Awaitable[object]]] = {
                "call": lambda: run.call(child),
                "handle": handle.result,
                "map": lambda: run.map(item, [1]),
                "race": lambda: run.race(handle),
                "sleep": lambda: run.sleep(1000),
                "receive": lambda: run.receive("answer"),
                "wait": lambda: run.wait(on("up")),
            }
            await leave(self, waits[what])
            self.went_on.append(what)
            await run.emit("went.on")
            return "went on"

        self.act = act


async def by_scope(house: House, wait: Callable[[], Awaitable[object]]) -> None:
    """Leave as by `anyio.move_on_after`."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_later, house, scope)
            try:
                await wait()
            finally:
                house.cleaned.append("cleaned")


async def cancel_later(house: House, scope: anyio.CancelScope) -> None:
    """Cancel *scope* when the test says so."""
    await house.left.wait()
    scope.cancel()


async def by_swallowing(house: House, wait: Callable[[], Awaitable[object]]) -> None:
    """Catch the cancellation, as code does that knows no better."""
    try:
        await by_scope(house, wait)
    except anyio.get_cancelled_exc_class():
        house.cleaned.append("swallowed")


@pytest.mark.parametrize("leave", [by_scope, by_swallowing])
@pytest.mark.parametrize("what", ["call", "handle", "map", "race", "sleep", "receive", "wait"])
async def test_a_wait_that_the_code_would_leave_is_an_error(what: str, leave: Any) -> None:
    """The run says which one, and what to use instead; it goes no further."""
    house, log, clock = House(what, leave), MemoryLog(), StepClock()

    async with opened(house.app, log, clock=clock) as engine:
        run_id = await engine.launch(house.act)
        await quiet(engine)
        house.left.set()
        await quiet(engine)
        (dead,) = engine.runs("dead")
        assert engine.runs("active") == []
        await check_live(engine)

    assert dead.id == run_id
    number = 1 if what in ("handle", "race") else 2
    for part in (f"StepLeft: <Run {run_id} of act", f"call {number}:", "timeout="):
        assert part in str(dead.error)
    assert of_kind(log, EventStored) == []
    assert house.cleaned[0] == "cleaned"


async def test_after_a_restart_a_run_that_left_its_wait_is_not_stuck() -> None:
    """Nothing of it is open, so nobody waits for what would never come."""
    house, log, clock = House("receive", by_scope), MemoryLog(), StepClock()

    async with opened(house.app, log, clock=clock) as engine:
        await engine.launch(house.act)
        await quiet(engine)
        house.left.set()
        await quiet(engine)
    async with opened(house.app, log, clock=clock) as engine:
        await clock.step(engine, 100)
        assert engine.runs("active") == []
        assert len(engine.kernel.state.timers) == 0


async def test_a_retry_asks_again_for_what_was_left() -> None:
    """The signal that comes then is for the one wait that there is."""
    app, log, clock, left = App("t"), MemoryLog(), StepClock(), anyio.Event()

    @app.task(retry=Retry(attempts=2, wait_first=10.0, jitter=0.0))
    async def act(run: Run) -> Any:
        if run.attempt > 1:
            return await run.receive("answer")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def leave() -> None:
                    await left.wait()
                    scope.cancel()

                group.start_soon(leave)
                await run.receive("answer")
        return "went on"

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(act)
        await quiet(engine)
        left.set()
        await clock.step(engine, 10)
        await engine.signal(run_id, "answer", 7)
        assert await engine.result(run_id) == 7
        await check_live(engine)

    (failed,) = of_kind(log, AttemptFailed)
    assert failed.error.startswith("StepLeft: ")
    assert len(of_kind(log, SignalSent)) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("is_caught", [True, False])
@pytest.mark.parametrize("what", ["call", "receive"])
async def test_a_timeout_of_asyncio_is_an_error_too(what: str, is_caught: bool) -> None:
    """Its own if the code does not catch it."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def child(run: Run) -> None:
        await run.sleep(1000)

    @app.task
    async def act(run: Run) -> None:
        try:
            async with asyncio.timeout(0):
                await (run.call(child) if what == "call" else run.receive("answer"))
        except TimeoutError:
            if not is_caught:
                raise
        await run.emit("went.on")

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(act)
        await until(lambda: engine.runs("dead"))
        await quiet(engine)
        (dead,) = engine.runs("dead")
        assert engine.runs("active") == []
        await check_live(engine)

    assert dead.id == run_id
    assert str(dead.error).startswith("StepLeft: " if is_caught else "TimeoutError")
    assert [e.subject for e in of_kind(log, EventStored)] in ([], ["went.on"])


async def test_an_error_that_ends_a_wait_is_the_runs_own() -> None:
    """Of a task group, say: it says more than that the wait was left."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    async def look() -> None:
        raise LookupError("nobody there")

    @app.task
    async def act(run: Run) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(look)
            await run.sleep(1000)

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(act)
        await quiet(engine)
        assert engine.runs("active") == []

    (failed,) = of_kind(log, RunFailed)
    assert "LookupError: nobody there" in failed.traceback


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("asks", [False, True])
def test_ctrl_c_in_one_run_leaves_the_others_open(
    backend: str, asks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Their code is cancelled with all else, which is not its doing; nor that of their callers."""
    app, log, cleaned = App("t"), MemoryLog(), list[str]()

    @app.task
    async def child(run: Run) -> None:
        await run.sleep(1000)

    @app.task
    async def wait(run: Run, what: str) -> None:
        try:
            await (run.sleep(1000) if what == "sleep" else run.call(child))
        finally:
            cleaned.append(what)
            if asks:
                await run.emit("cleaned")

    @app.task
    async def interrupt() -> None:
        raise KeyboardInterrupt

    async def first() -> None:
        async with opened(app, log) as engine:
            for what in ("sleep", "call", "sleep"):
                await engine.launch(wait, what)
            await quiet(engine)
            await engine.launch(interrupt)
            await anyio.sleep_forever()

    with caplog.at_level(logging.CRITICAL, "asyncio"):
        with pytest.raises(KeyboardInterrupt):
            anyio.run(first, backend=backend)
        gc.collect()
    assert sorted(cleaned) == ["call", "sleep", "sleep"]
    assert of_kind(log, RunCancelled) == []
    assert of_kind(log, RunFailed) == []


@pytest.mark.parametrize("asks", [False, True])
def test_a_run_that_is_cancelled_with_its_loop_stays_open(asks: bool) -> None:
    """By asyncio itself, one task after the other, which is no doing of the code."""
    app, log, hosts, cleaned = App("t"), MemoryLog(), list[Any](), list[str]()

    @app.task
    async def act(run: Run) -> None:
        hosts.append(asyncio.current_task())
        try:
            await run.sleep(1000)
        finally:
            for _ in range(5):  # it may take its time
                await asyncio.sleep(0)
            cleaned.append("slowly")
            if asks:
                await run.emit("cleaned")

    async def live() -> None:
        async with opened(app, log) as engine:
            await engine.launch(act)
            await anyio.sleep_forever()

    async def end() -> None:
        await until(lambda: hosts)
        for _ in range(100):
            await asyncio.sleep(0)
        # As `asyncio.run` does after Ctrl-C, but the run's own comes first.
        others = asyncio.all_tasks() - {asyncio.current_task(), *hosts}
        for tasks in (hosts, others):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def both() -> None:
        task = asyncio.ensure_future(live())
        await end()
        assert task.done()

    asyncio.run(both())
    assert cleaned == ["slowly"]
    assert of_kind(log, RunCancelled) == []
    assert of_kind(log, RunFailed) == []


async def test_a_child_whose_parent_leaves_it_is_cancelled() -> None:
    """It did nothing wrong: what it says is that its parent ended."""
    house, log, clock = House("call", by_scope), MemoryLog(), StepClock()

    async with opened(house.app, log, clock=clock) as engine:
        await engine.launch(house.act)
        await quiet(engine)
        house.left.set()
        await quiet(engine)

    reasons = [record.reason for record in of_kind(log, RunCancelled)]
    assert reasons == ["its parent ended"] * 2


async def test_an_emit_that_is_left_before_it_is_stored_is_an_error() -> None:
    """The event is in the log all the same, and the code that went on would not know."""
    app, log, clock, left = App("t"), GatedLog(), StepClock(), anyio.Event()

    @app.task
    async def act(run: Run) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def leave() -> None:
                    await left.wait()
                    scope.cancel()

                group.start_soon(leave)
                log.hold = True
                await run.emit("slow")
        await run.emit("went.on")

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(act)
        await quiet(engine)
        left.set()
        await quiet(engine)
        log.release()
        await quiet(engine)

    assert [e.subject for e in of_kind(log, EventStored)] == ["slow"]
    (failed,) = of_kind(log, RunFailed)
    assert failed.error.startswith("StepLeft: ")


async def _cancelled(engine: Engine, run_id: int) -> None:
    await engine.cancel(run_id, "no money")


async def _stopped(engine: Engine, run_id: int) -> None:
    engine._core.runner.stop()


@pytest.mark.parametrize("end", [_cancelled, _stopped])
async def test_who_is_cancelled_from_outside_has_left_nothing(end: Any) -> None:
    """Neither by the end of the run nor by that of the engine, in whatever scope it waits."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def child(run: Run) -> None:
        await run.sleep(1000)

    @app.task
    async def act(run: Run) -> None:
        with anyio.move_on_after(1000):
            await run.call(child)

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(act)
        await quiet(engine)
        await end(engine, run_id)
        await quiet(engine)

    assert of_kind(log, RunFailed) == []
    reasons = [(record.run, record.reason) for record in of_kind(log, RunCancelled)]
    ended = [(run_id + 1, "its parent ended"), (run_id, "no money")]
    assert reasons == ([] if end is _stopped else ended)


# ---------------------------------------------------------------- steps of another run


@pytest.mark.parametrize("how", ["emit", "spawn", "patched", "race"])
async def test_a_child_cannot_ask_for_steps_of_its_parent(how: str) -> None:
    """It has the same asyncio task; after a crash behind its end its parent had one step less."""
    app, log, clock, kept = App("t"), MemoryLog(), StepClock(), dict[str, Run]()

    @app.task
    async def other() -> None: ...

    @app.task
    async def child() -> int:
        run = kept["run"]
        if how == "emit":
            await run.emit("note")
        elif how == "spawn":
            _ = run.spawn(other)
        elif how == "patched":
            run.patched("tax")
        else:
            await run.race()
        return 1

    @app.task
    async def act(run: Run) -> None:
        kept["run"] = run
        await run.call(child)

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(act)
        await quiet(engine)

    assert [failed.error.split(":")[0] for failed in of_kind(log, RunFailed)] == [
        "ConcurrentSteps",
        "StepFailed",
    ]
    assert of_kind(log, EventStored) == []


async def test_a_parent_goes_on_once_its_child_has_ended() -> None:
    """However that came: it may ask again, and the child of a child as well."""
    app, log, clock = App("t"), MemoryLog(), StepClock()

    @app.task
    async def leaf(run: Run) -> None:
        await run.emit("leaf")
        raise LookupError

    @app.task
    async def child(run: Run) -> None:
        try:
            await run.call(leaf)
        except StepFailed:
            await run.emit("caught")
            raise

    @app.task
    async def act(run: Run) -> None:
        handle = run.spawn(child)
        handle.cancel()
        try:
            await run.call(child)
        except StepFailed:
            await run.emit("failed")
        try:
            await handle
        except StepCancelled:
            await run.emit("cancelled")

    async with opened(app, log, clock=clock) as engine:
        await engine.launch(act)
        await quiet(engine)
        await check_live(engine)

    assert [e.subject for e in of_kind(log, EventStored)] == [
        "leaf",
        "caught",
        "failed",
        "cancelled",
    ]
    assert len(of_kind(log, RunCompleted)) == 1
