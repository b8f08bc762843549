"""A host may cancel whatever it awaits, at any turn of the loop: nothing is lost, doubled, left.

Each coroutine that an engine offers is cancelled after 0, 1, 2 … turns, until it comes to its
end before that.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import check_live, records_of

from headrace import App, Emission, Engine, MemoryLog, Run, RunNotFound, on
from headrace.engine.record import EventStored

TURNS_MAX = 400
Call = Callable[[Engine], Awaitable[object]]


def plant() -> App:
    """Return an app with a rule, a step and a run that goes on sleeping."""
    app = App("plant")

    @app.task
    async def step(number: int) -> int:
        await checkpoint()
        return number + 1

    @app.rule(on("work", int).key(lambda e: e.data % 2))
    async def work(run: Run) -> int:
        return await run.call(step, await run.call(step, 1))

    @app.rule(on("nap"))
    async def nap(run: Run) -> None:
        await run.sleep(10_000)

    return app


async def cancel_a_run(engine: Engine) -> None:
    """Cancel the run that sleeps."""
    (run,) = (run for run in engine.runs("active") if run.task == "nap")
    await engine.cancel(run.id)


async def signal_a_run(engine: Engine) -> None:
    """Send a signal to the run that sleeps, which never receives it."""
    (run,) = (run for run in engine.runs("active") if run.task == "nap")
    await engine.signal(run.id, "wake", "up")


async def add_a_rule(engine: Engine) -> None:
    """Add a rule that was not declared."""

    async def added() -> None:
        """Do nothing."""

    await engine.add_rule(on("added"), added, version="1")


CALLS: dict[str, Call] = {
    "emit": lambda engine: engine.emit("work", 1, id="x", source="s"),
    "emit_many": lambda engine: engine.emit_many(
        [Emission("work", 1, id="x", source="s"), Emission("work", 2, id="y", source="s")]
    ),
    "cancel": cancel_a_run,
    "signal": signal_a_run,
    "snapshot": lambda engine: engine.snapshot(),
    "pause": lambda engine: engine.pause("work"),
    "resume": lambda engine: engine.resume("work"),
    "remove_rule": lambda engine: engine.remove_rule("work"),
    "add_rule": add_a_rule,
    "ready": lambda engine: engine.ready(),
}


async def interrupt(call: Callable[[], Awaitable[object]], turns: int) -> bool:
    """Await *call* for so many turns of the loop; say whether it came to its end."""
    ended = False

    async def victim() -> None:
        nonlocal ended
        await call()
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        for _ in range(turns):
            await checkpoint()
        group.cancel_scope.cancel()
    return ended


def task_ids() -> set[int]:
    """Return what stands for each task that runs."""
    return {task.id for task in anyio.get_running_tasks()}


def stored_ids(log: MemoryLog) -> list[str]:
    """Return the ids of all events, in the order of the log."""
    return [
        record.id
        for _, record in records_of(log)
        if isinstance(record, EventStored) and record.id is not None
    ]


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_is_cancelled_at_any_turn(name: str) -> None:
    """The engine works as before; what was asked for has happened once, or not at all."""
    before = task_ids()
    for turns in range(TURNS_MAX):
        log = MemoryLog()
        async with plant().open(log, grace_s=0) as engine:
            await engine.emit("nap")
            ended = await interrupt(lambda: CALLS[name](engine), turns)
            events = [Emission("work", 1, id="x", source="s")]
            await engine.emit_many(events)
            assert stored_ids(log).count("x") == 1
            await check_live(engine)
        assert task_ids() == before
        if ended:
            return
    raise AssertionError(f"{name} did not end within {TURNS_MAX} turns")


async def test_a_host_that_is_cancelled_at_any_turn() -> None:
    """Opening, living and closing: the log can be opened again at once, and nothing runs on."""
    before, threads = task_ids(), set(threading.enumerate())
    for turns in range(TURNS_MAX):
        log = MemoryLog()

        async def host(log: MemoryLog = log) -> None:
            async with plant().open(log, grace_s=0) as engine:
                for number in range(3):
                    await engine.emit("work", number, id=f"e{number}", source="s")

        ended = await interrupt(host, turns)
        assert task_ids() == before
        done = len(stored_ids(log))
        async with plant().open(log, grace_s=0) as engine:
            for number in range(3):
                await engine.emit("work", number, id=f"e{number}", source="s")
            await engine.drain()
            assert engine.state().runs_ended == {"completed": 9}
        assert stored_ids(log) == ["e0", "e1", "e2"]
        assert done <= 3
        if ended:
            break
    assert set(threading.enumerate()) - threads <= worker_threads()


def worker_threads() -> set[Any]:
    """Return the threads that the event loop's library keeps for later."""
    return {t for t in threading.enumerate() if "AnyIO" in t.name or "Trio" in t.name}


def workshop() -> App:
    """Return an app whose one run does all that a run can."""
    app = App("workshop")

    @app.task
    async def leaf(number: int) -> int:
        await checkpoint()
        return number

    @app.task
    async def branch(run: Run, number: int) -> int:
        return sum(await run.map(leaf, range(number), max_concurrency=2))

    @app.rule(on("go"))
    async def tree(run: Run) -> int:
        beside = run.spawn(branch, 3)
        first = await run.call(branch, 2)
        await run.emit("said", first)
        await run.sleep(0)
        await run.launch(leaf, 7)
        return first + await beside

    return app


async def test_a_run_that_is_cancelled_at_any_turn() -> None:
    """It ends as cancelled, with all its children, unless it had ended; the rest goes on."""
    statuses: list[str] = []
    for turns in range(TURNS_MAX):
        async with workshop().open(MemoryLog(), grace_s=0) as engine:
            await engine.emit("go")
            (tree,) = (run.id for run in engine.runs() if run.task == "tree")
            for _ in range(turns):
                await checkpoint()
            try:
                await engine.cancel(tree)
            except RunNotFound:
                break
            await engine.drain()
            (ended,) = (run for run in engine.runs() if run.id == tree)
            statuses.append(ended.status)
            assert engine.state().runs_active == 0
            assert engine.state().timers == 0
            await engine.emit("go")
            await engine.drain()
            assert sum(run.status == "completed" for run in engine.runs() if run.task == "tree")
            await check_live(engine)

    assert set(statuses) <= {"cancelled", "completed"}
    assert statuses.count("cancelled") > 10
