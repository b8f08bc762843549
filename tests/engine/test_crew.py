"""The tasks of workers: nobody outlives the group, errors come out, cancellations reach all."""

from __future__ import annotations

import asyncio
import gc
import inspect
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import opened, quiet, until

from headrace import App, EngineClosed, MemoryLog, Run, on
from headrace.engine.backend import current_backend
from headrace.engine.crew import NAME, Crew, PlainCrew

WAITING_BYTES_MAX = 7000  # with what tables grow in steps; `benchmarks/tasks.py` has the figure


class Worker:
    """Does some work in a scope, as a worker does."""

    def __init__(self, crew: Crew, work: Callable[[], Any]) -> None:
        self.crew = crew
        self.work = work
        self.has_begun = False

    async def __call__(self) -> None:
        """Do it, until the crew is ending."""
        while not self.crew.is_ending:
            with anyio.CancelScope() as scope:
                self.crew.scopes[current_backend().current_task()] = scope
                self.has_begun = True
                await self.work()


async def _recruited(crew: Crew, *workers: Worker, then: Callable[[], Any]) -> None:
    """Start the *workers*; when they have begun, do *then*, and end them."""

    async def recruit() -> None:
        try:
            for worker in workers:
                crew.start(worker(), group)
            await anyio.sleep_forever()
        finally:
            await crew.end()

    async with anyio.create_task_group() as group:
        group.start_soon(recruit)
        await until(lambda: all(worker.has_begun for worker in workers))
        await then()
        group.cancel_scope.cancel()


async def test_all_have_ended_when_the_group_is_left() -> None:
    """Also who cleans up for long behind a shield, and who swallows cancellations."""
    crew, left = current_backend().crew(), list[str]()

    async def shielded() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(10):
                    await checkpoint()
                left.append("shielded")

    async def stubborn() -> None:
        for _ in range(3):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                left.append("again")
        await anyio.sleep_forever()

    await _recruited(crew, Worker(crew, shielded), Worker(crew, stubborn), then=checkpoint)
    assert sorted(left) == ["again", "again", "again", "shielded"]


async def test_an_error_of_one_ends_all_and_comes_out() -> None:
    """As of a child of the group."""
    crew, ended, go_on = current_backend().crew(), list[str](), anyio.Event()

    async def failing() -> None:
        await go_on.wait()
        raise ValueError("mine")

    async def waiting() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("other")

    async def fail() -> None:
        go_on.set()
        await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await _recruited(crew, Worker(crew, failing), Worker(crew, waiting), then=fail)
    inner = caught.value.exceptions[0]
    if isinstance(inner, BaseExceptionGroup):
        (inner,) = inner.exceptions
    assert repr(inner) == "ValueError('mine')"
    assert ended == ["other"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nobody_is_left_by_a_host_that_cancels_all_tasks_again() -> None:
    """Also who waits for the workers is one of them; code that cleans up does so within."""
    app, seen = App("t"), list[str]()
    begun, cleaning = anyio.Event(), anyio.Event()

    @app.task
    async def stubborn() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                cleaning.set()
                with suppress(asyncio.CancelledError):
                    await anyio.sleep_forever()
                for _ in range(20):
                    await checkpoint()
                seen.append("cleaned")

    async def host() -> None:
        try:
            async with app.open(MemoryLog(), grace_s=0) as engine:
                await engine.launch(stubborn)
                await anyio.sleep_forever()
        finally:
            seen.append("closed")

    def cancel_all() -> None:
        for each in asyncio.all_tasks() - before:
            each.cancel()

    before = asyncio.all_tasks()  # the test's
    task = asyncio.create_task(host())
    await begun.wait()
    cancel_all()
    await cleaning.wait()
    for _ in range(10):
        await checkpoint()
    cancel_all()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cleaned", "closed"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_a_shield_lets_end_well_is_recorded_though_the_host_is_in_a_hurry() -> None:
    """It cancels once more while the engine closes; the next start does not do it again."""
    app, log, seen = App("t"), MemoryLog(), list[str]()
    begun, go_on = anyio.Event(), anyio.Event()

    @app.task
    async def pay() -> None:
        seen.append("paid")
        begun.set()
        with anyio.CancelScope(shield=True):
            await go_on.wait()

    async def host() -> None:
        async with app.open(log) as engine:
            await engine.launch(pay)
            await anyio.sleep_forever()

    task = asyncio.create_task(host())
    await begun.wait()
    for _ in range(2):
        task.cancel()
        for _ in range(10):
            await checkpoint()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with app.open(log) as engine:
        await engine.drain()
    assert seen == ["paid"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_executes_a_run_can_be_looked_at() -> None:
    """As any task of asyncio: where it is, and whether it runs or waits."""
    app, states = App("t"), list[str]()

    @app.task
    async def waiting() -> None:
        states.append(inspect.getcoroutinestate(task_of(asyncio.current_task())))
        await anyio.sleep_forever()

    def task_of(task: asyncio.Task[Any] | None) -> Any:
        assert task is not None
        return task.get_coro()

    async with opened(app) as engine:
        await engine.launch(waiting)
        await quiet(engine)
        (worker,) = (task for task in asyncio.all_tasks() if task.get_name() == NAME)
        states.append(inspect.getcoroutinestate(task_of(worker)))
        assert worker.get_stack()[0].f_code.co_name == "_work"
        assert "runner.py" in repr(worker)
    assert states == [inspect.CORO_RUNNING, inspect.CORO_SUSPENDED]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_has_not_begun_does_not_begin() -> None:
    """It is called when everything ends already, and is waited for nevertheless."""
    crew, done = PlainCrew(asyncio.get_running_loop()), list[str]()

    async def work() -> None:
        done.append("worked")

    worker = Worker(crew, work)
    async with anyio.create_task_group() as group:
        crew.start(worker(), group)
        await crew.end()
    assert not worker.has_begun
    assert done == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_factory_of_the_host_does_not_begin_workers() -> None:
    """Such as the eager one of Python 3.12, within a callback."""
    crew, made = PlainCrew(asyncio.get_running_loop()), list[str]()
    loop = asyncio.get_running_loop()

    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        made.append(options.get("name", ""))
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        async with anyio.create_task_group() as group:
            crew.start(Worker(crew, checkpoint)(), group)
            await crew.end()
    finally:
        loop.set_task_factory(None)
    assert made == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", ["headrace worker", "headrace recruiter"])
async def test_who_cancels_a_task_of_the_engine_is_told(name: str) -> None:
    """The engine ends with one clear line, and the next start goes on with what was open."""
    app, log, done = App("t"), MemoryLog(), list[int]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        done.append(run.id)

    @app.task
    async def nothing() -> None:
        pass

    with pytest.raises(EngineClosed, match="only the engine ends its tasks"):
        async with opened(app, log) as engine:
            await engine.result(await engine.launch(nothing))  # so that there is a worker
            for task in asyncio.all_tasks():
                if task.get_name() == name:
                    task.cancel()
            await anyio.sleep_forever()
    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()
    assert len(done) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_that_waits_is_light() -> None:
    """All of it: its state, its code, its timer and the task that executes it."""
    app, count = App("t"), 500

    @app.task
    async def sleeper(run: Run) -> None:
        await run.sleep(86_400)

    async with opened(app) as engine:
        for _ in range(50):
            await engine.launch(sleeper)
        await quiet(engine)
        gc.collect()
        tracemalloc.start()
        try:
            for _ in range(count):
                await engine.launch(sleeper)
            await quiet(engine)
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(engine.runs()) == count + 50
    assert held / count < WAITING_BYTES_MAX
