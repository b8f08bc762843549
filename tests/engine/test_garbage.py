"""Runs that have ended are freed by reference counts: no cycle waits for the collector.

`headrace run` lets the collector look seldom, so what only that can free would pile up.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import StepClock, opened, quiet

from headrace import App, Engine, Retry, Run, StepFailed, on

COUNT = 20

GIVEN_UP = {"failing", "failing_late", "failing_in_thread", "too_long", "undoing", "never_in_time"}


def _declare_endings(app: App) -> None:
    """Declare a task for each way in which one alone can end."""

    @app.task
    async def plain() -> str:
        return "done"

    @app.task
    async def waiting() -> str:
        await checkpoint()
        return "done"

    @app.task
    def in_thread() -> str:
        return "done"

    @app.task
    async def sleeping(run: Run) -> None:
        await run.sleep(1)

    @app.task(retry=Retry(attempts=1))
    async def failing() -> None:
        raise OSError("at once")

    @app.task(retry=Retry(attempts=1))
    async def failing_late() -> None:
        await checkpoint()
        raise OSError("late")

    @app.task(retry=Retry(attempts=1))
    def failing_in_thread() -> None:
        raise OSError("in a thread")

    @app.task(retry=Retry(attempts=3, wait_first=0.1))
    async def retried(run: Run) -> None:
        await checkpoint()
        if run.attempt < 3:
            raise OSError("again")

    @app.task(timeout=1)
    async def too_long() -> None:
        await anyio.sleep_forever()

    @app.task(deadline=1, retry=Retry(attempts=9, wait_first=0.3))
    async def never_in_time() -> None:
        await checkpoint()
        raise OSError("again")


def _declare_calls(app: App) -> None:
    """Declare tasks that call others, and wait for what there is to wait for."""
    plain, waiting, sleeping, failing, failing_late = (
        app.tasks[name].function
        for name in ("plain", "waiting", "sleeping", "failing", "failing_late")
    )

    @app.task
    async def echo(number: int) -> int:
        return number

    @app.task(retry=Retry(attempts=1))
    async def refusing(number: int) -> int:
        await checkpoint()
        raise OSError(str(number))

    @app.task
    async def calling(run: Run) -> None:
        await run.call(plain)
        await run.call(waiting)
        with pytest.raises(StepFailed):
            await run.call(failing)
        with pytest.raises(StepFailed):
            await run.call(failing_late)

    @app.task
    async def spawning(run: Run) -> None:
        for handle in [run.spawn(waiting), run.spawn(plain)]:
            await handle

    @app.task
    async def racing(run: Run) -> None:
        await run.race(run.spawn(waiting), run.spawn(sleeping))

    @app.task
    async def mapping(run: Run) -> None:
        await run.map(echo, [1, 2, 3], max_concurrency=2)
        with pytest.raises(StepFailed):
            await run.map(refusing, [1, 2])

    @app.task
    async def expecting(run: Run) -> None:
        assert await run.receive("never", int, timeout=1) is None
        assert await run.wait(on("never"), timeout=1) is None

    @app.task(retry=Retry(attempts=1))
    async def undoing(run: Run) -> None:
        await run.compensate(plain)
        await run.call(waiting)
        raise OSError("after that")

    @app.task
    async def at_its_own_limit(run: Run) -> None:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        await run.sleep(0.1)


def app_of_endings() -> App:
    """Return an app of all of these."""
    app = App("t")
    _declare_endings(app)
    _declare_calls(app)
    return app


async def _steps(engine: Engine, clock: StepClock, ids: list[int]) -> None:
    active = engine.opened().kernel.state.runs.active
    while any(run_id in active for run_id in ids):
        await clock.step(engine, 1)


async def _garbage_of(engine: Engine, act: Callable[[], Any]) -> Counter[str]:
    """Return the kinds of objects that only the collector frees after *act*."""
    await act()  # once for what comes to be only then
    gc.collect()
    before = gc.get_debug()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await act()
        gc.collect()
        return Counter(type(found).__qualname__ for found in gc.garbage)
    finally:
        gc.set_debug(before)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", sorted(set(app_of_endings().tasks) - {"echo", "refusing"}))
async def test_a_run_that_has_ended_leaves_no_garbage(name: str) -> None:
    """However it ended: nothing of ours is in a circle, from its frames to its error."""
    app, clock = app_of_endings(), StepClock()

    async with opened(app, clock=clock) as engine:

        async def act() -> None:
            task = app.tasks[name].function
            ids = [await engine.launch(task) for _ in range(COUNT)]
            await _steps(engine, clock, ids)
            await quiet(engine)

        assert await _garbage_of(engine, act) == Counter()
        failed = len(engine.opened().kernel.state.dead)
        assert failed == (2 * COUNT if name in GIVEN_UP else 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_that_is_cancelled_leaves_no_garbage() -> None:
    """Neither where it sleeps, nor where its code waits for anything else."""
    app, clock = app_of_endings(), StepClock()

    async with opened(app, clock=clock) as engine:

        async def act() -> None:
            for name in ("sleeping", "too_long"):
                ids = [await engine.launch(app.tasks[name].function) for _ in range(COUNT)]
                await quiet(engine)
                for run_id in ids:
                    await engine.cancel(run_id)
                await _steps(engine, clock, ids)
            await quiet(engine)

        assert await _garbage_of(engine, act) == Counter()
