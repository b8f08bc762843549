"""How runs are executed: how many, how long, where, and what ends them from outside."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.engine.stand import (
    FailingLog,
    Gate,
    StepClock,
    of_kind,
    opened,
    quiet,
    until,
)

import headrace.engine.runner as runner_module
import headrace.engine.threads as threads_module
from headrace import App, DurabilityLost, MemoryLog, Retry, Run, StepFailed, on
from headrace.engine.deadlines import SPARE
from headrace.engine.record import RunCancelled, RunCompleted, RunFailed


def completed(log: MemoryLog) -> int:
    return len(of_kind(log, RunCompleted))


# ---------------------------------------------------------------- how many


@pytest.mark.parametrize("shape", ["plain", "call", "spawn", "deep"])
async def test_no_more_runs_execute_than_allowed(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they call: those that only wait for others do not count, all others do."""
    monkeypatch.setattr(runner_module, "ACTIVE_MAX", 5)
    app, now, most = App("t"), 0, 0

    @app.task
    async def leaf() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        now -= 1

    @app.task
    async def middle(run: Run) -> None:
        await run.call(leaf)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        if shape == "plain":
            await leaf()
        elif shape == "call":
            await run.call(leaf)
        elif shape == "deep":
            await run.call(middle)
        else:
            await run.spawn(leaf)

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit_many([("a", None)] * 40)
        await engine.drain()
        assert engine.state().runs_active == 0

    assert most == 5


async def test_those_who_wait_let_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parents that wait for their children do not keep them from running."""
    monkeypatch.setattr(runner_module, "ACTIVE_MAX", 1)
    app, got = App("t"), list[int]()

    @app.task
    async def tree(run: Run, depth: int) -> int:
        if depth == 0:
            await run.sleep(0)
            return 1
        handles = [run.spawn(tree, depth - 1) for _ in range(3)]
        return sum([await handle for handle in handles])

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        got.append(await run.call(tree, 3))

    async with opened(app) as engine:
        await engine.emit_many([("a", None)] * 3)
        await engine.drain()

    assert got == [27, 27, 27]


async def test_keys_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One busy key does not starve the others."""
    monkeypatch.setattr(runner_module, "ACTIVE_MAX", 1)
    app, gate, order = App("t"), Gate(), list[str]()

    @app.rule(on("a.*").key(lambda e: e.tokens[1]))
    async def act(run: Run) -> None:
        await gate.wait()
        order.append(run.key)

    async with opened(app) as engine:
        await engine.emit_many([("a.busy", None)] * 20 + [("a.calm", None)])
        await quiet(engine)
        gate.open()
        await engine.drain()

    assert order.index("calm") <= 2


@pytest.mark.slow
async def test_sync_tasks_do_not_block_the_loop() -> None:
    """And the number of their threads is bounded."""
    app, log, go, began = App("t"), MemoryLog(), threading.Event(), list[int]()

    @app.rule(on("a"))
    def act() -> int:
        began.append(1)
        go.wait()
        return threading.get_ident()

    async with opened(app, log) as engine:
        await engine.emit_many([("a", None)] * (threads_module.THREADS_MAX + 10))
        await until(lambda: len(began) >= threads_module.THREADS_MAX)
        await quiet(engine)
        assert len(began) == threads_module.THREADS_MAX
        assert await engine.emit("b") > 0
        go.set()
        await engine.drain()

    assert completed(log) == threads_module.THREADS_MAX + 10


# ---------------------------------------------------------------- how long


async def test_attempt_that_takes_too_long_is_stopped() -> None:
    """Its code is interrupted, and the policy decides what next."""
    app, clock, gate, cleaned, log = App("t"), StepClock(), Gate(), list[int](), MemoryLog()

    @app.rule(on("a"), timeout=5, retry=Retry(attempts=2, wait_first=1, jitter=0))
    async def act(run: Run) -> None:
        try:
            await gate.wait()
        finally:
            cleaned.append(run.attempt)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 4.9)
        assert cleaned == []
        await clock.step(engine, 0.1)
        assert cleaned == [1]
        await clock.step(engine, 10)

    (failed,) = of_kind(log, RunFailed)
    assert failed.error == "TimeoutError: the attempt took over 5 s"
    assert cleaned == [1, 2]


async def test_time_limit_holds_for_steps_and_their_caller_alike() -> None:
    """A step that takes too long fails for its parent; a parent takes its steps with it."""
    app, clock, gate, log = App("t"), StepClock(), Gate(), MemoryLog()

    @app.task(timeout=3)
    async def slow() -> None:
        await gate.wait()

    @app.rule(on("step"))
    async def waits(run: Run) -> str:
        try:
            await run.call(slow)
        except StepFailed as error:
            return error.error
        return ""

    @app.rule(on("parent"), timeout=2)
    async def impatient(run: Run) -> None:
        await run.call(slow)

    async with opened(app, log, clock) as engine:
        await engine.emit("step")
        await engine.emit("parent")
        await clock.step(engine, 10)
        assert engine.state().runs_ended == {
            "failed": 1,
            "completed": 1,
            "cancelled": 1,
            "dead": 1,
        }


@pytest.mark.parametrize("where", ["back-off", "second attempt", "asleep"])
async def test_step_ends_with_the_attempt_that_asked_for_it(where: str) -> None:
    """After a time-out the step is not left to run beside that of the next attempt."""
    app, clock, gate, now, most = App("t"), StepClock(), Gate(), 0, 0

    @app.task(retry=Retry(attempts=3, wait_first=3, jitter=0))
    async def step(run: Run) -> None:
        nonlocal now, most
        if run.attempt == 1 and where != "asleep":
            raise OSError
        if where == "back-off":
            raise AssertionError("tried again although nobody waits for it")
        now += 1
        most = max(most, now)
        try:
            await (run.sleep(50) if where == "asleep" else gate.wait())
        finally:
            now -= 1

    limit = 2 if where == "back-off" else 5

    @app.rule(on("a"), timeout=limit, retry=Retry(attempts=2, wait_first=1, jitter=0))
    async def act(run: Run) -> None:
        await run.call(step)

    async with opened(app, clock=clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 1000)
        assert engine.state().runs_active == 0
        assert engine.state().timers == 0
        assert engine.state().runs_ended == {"dead": 1, "cancelled": 2}

    assert now == 0
    assert most <= 1


async def test_deadlines_of_ended_attempts_take_no_memory() -> None:
    """Also if one run lives on whose deadline comes before theirs."""
    app, gate = App("t"), Gate()

    @app.rule(on("long"), timeout=3600)
    async def long() -> None:
        await gate.wait()

    @app.rule(on("short"), timeout=3600)
    async def short() -> None: ...

    async with opened(app) as engine:
        await engine.emit("long")
        for _ in range(20):
            await engine.emit_many([("short", None)] * 100)
            await quiet(engine)
        assert len(engine._core.runner._deadlines.times) < 300
        gate.open()
        await engine.drain()


@pytest.mark.slow
async def test_nothing_of_ended_runs_is_kept() -> None:
    """A service that runs for months does not grow by its runs."""
    app, refs = App("t"), list[weakref.ref[Any]]()

    @app.task(retry=Retry(attempts=2, wait_first=0))
    async def step(run: Run, n: int) -> int:
        refs.append(weakref.ref(run))
        if run.attempt == 1:
            raise OSError
        return n

    @app.rule(on("a"), timeout=60)
    async def act(run: Run) -> None:
        refs.append(weakref.ref(run))
        await run.map(step, range(3))
        await run.call(step, 1)
        run.spawn(step, 4)
        await run.sleep(0)
        await run.emit("b")

    async with opened(app) as engine:
        await engine.emit_many([("a", None)] * 20)
        await engine.drain()
        await quiet(engine)
        gc.collect()
        runner = engine._core.runner
        assert len(refs) == 20 * 11
        # Deadlines of ended attempts are thrown away once there are too many of them.
        assert sum(ref() is not None for ref in refs) <= SPARE
        assert (runner._ended, runner._attempts, runner._parked) == ({}, {}, 0)
        assert (len(runner._queue), runner._queued) == (0, set())
        assert len(engine.kernel.state.timers) == 0


# ---------------------------------------------------------------- from outside


async def test_what_does_not_end_in_the_grace_period_resumes_at_the_next_start() -> None:
    """A stop is no failure: the run stays open, and its steps are not done again."""
    app, gate, log, steps = App("t"), Gate(), MemoryLog(), list[int]()

    @app.task
    async def step() -> None:
        steps.append(1)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(step)
        await gate.wait()

    async with opened(app, log, grace_s=0.02) as engine:
        await engine.emit("a")
        await quiet(engine)
    assert of_kind(log, RunCancelled) == []
    gate.open()
    async with opened(app, log) as engine:
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 2}

    assert steps == [1]


async def test_grace_period_lets_runs_end() -> None:
    """What needs a moment more gets it, and the engine closes as soon as nothing runs."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await gate.wait()
        await run.emit("b")

    async with anyio.create_task_group() as group, opened(app, log, grace_s=15) as engine:
        await engine.emit("a")
        await quiet(engine)

        async def open_later() -> None:
            await quiet(engine)
            gate.open()

        group.start_soon(open_later)

    assert completed(log) == 1


async def test_sleeping_runs_do_not_hold_up_the_end() -> None:
    """Who only waits for a timer goes on sleeping in the log."""
    app, log = App("t"), MemoryLog()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.sleep(3600)

    async with opened(app, log, grace_s=15) as engine:
        await engine.emit("a")
        await quiet(engine)


async def test_nothing_begins_once_the_engine_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that wait for a worker wait for the next start, also those of timers."""
    monkeypatch.setattr(runner_module, "ACTIVE_MAX", 3)
    app, gate, log, began = App("t"), Gate(), MemoryLog(), list[int]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        began.append(run.id)
        await gate.wait()

    async with opened(app, log) as engine:
        await engine.emit_many([("a", None)] * 10)
        await quiet(engine)
    assert len(began) == 3
    gate.open()
    async with opened(app, log) as engine:
        await engine.drain()
    assert len(began) == 3 + 10
    assert completed(log) == 10


async def test_exception_of_the_body_is_raised_as_it_is() -> None:
    """Not wrapped in a group, with the log closed in good order and runs left open."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    errors = [LookupError("of the host"), ExceptionGroup("of the host", [ValueError()])]
    for error in errors:
        with pytest.raises(type(error)) as caught:
            async with opened(app, log) as engine:
                await engine.emit("a")
                await quiet(engine)
                raise error
        assert caught.value is error
    gate.open()
    async with opened(app, log) as engine:
        await engine.drain()
    assert completed(log) == 2


@pytest.mark.parametrize("grace_s", [0, 0.02])
async def test_host_that_is_cancelled_closes_the_engine_in_good_order(grace_s: float) -> None:
    """A time-out around the engine leaves its runs open for the next start."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.task
    async def child() -> None:
        await gate.wait()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        run.spawn(child)
        await run.call(child)

    with anyio.CancelScope() as scope:
        async with opened(app, log, grace_s=grace_s) as engine:
            await engine.emit("a")
            await quiet(engine)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert of_kind(log, RunCancelled) == []
    gate.open()
    async with opened(app, log) as engine:
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 3}


async def test_native_cancellation_goes_through(anyio_backend_name: str) -> None:
    """Asyncio's own `Task.cancel` and `timeout` end the host, and are not swallowed."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio")
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            async with opened(app, log) as engine:
                await engine.emit("a")
                await asyncio.sleep(3600)
    assert of_kind(log, RunCancelled) == []

    async def host() -> None:
        async with opened(app, log):
            await asyncio.sleep(3600)

    task = asyncio.create_task(host())
    while log._notify is None:  # not open yet
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log._notify is None
    assert of_kind(log, RunCancelled) == []


async def test_second_native_cancellation_ends_the_grace_period(anyio_backend_name: str) -> None:
    """Who presses Ctrl-C twice does not want to wait; still nothing is lost or left behind."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio")
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async def host() -> None:
        async with opened(app, log, grace_s=3600) as engine:
            await engine.emit("a")
            await asyncio.sleep(3600)

    before = len(anyio.get_running_tasks())
    task = asyncio.create_task(host())
    await until(lambda: gate.arrived)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(anyio.get_running_tasks()) == before
    assert of_kind(log, RunCancelled) == []
    gate.open()
    async with opened(app, log) as engine:
        await engine.drain()
    assert completed(log) == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_in_a_task_leaves_its_run_open(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The signal may hit any code; the run that it hits has done nothing wrong."""
    app, log, hit = App("t"), MemoryLog(), list[int]()

    @app.rule(on("a"))
    async def act() -> None:
        if not hit:
            hit.append(1)
            raise KeyboardInterrupt

    async def first() -> None:
        async with opened(app, log) as engine:
            await engine.emit("a")
            await anyio.sleep_forever()

    async def second() -> None:
        async with opened(app, log) as engine:
            await engine.drain()

    with caplog.at_level(logging.CRITICAL, "asyncio"):
        with pytest.raises(KeyboardInterrupt):
            anyio.run(first, backend=backend)
        gc.collect()
    assert of_kind(log, RunCancelled) == []
    anyio.run(second, backend=backend)
    assert completed(log) == 1


async def test_cancellation_of_something_else_is_an_error_like_any_other(
    anyio_backend_name: str,
) -> None:
    """Asyncio says with one exception that this task or that another one was cancelled."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio")
    app, log = App("t"), MemoryLog()

    async def doomed() -> None:
        task = asyncio.create_task(asyncio.sleep(3600))
        task.cancel()
        await task

    @app.task
    async def child() -> None:
        await doomed()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        try:
            await run.call(child)
        except StepFailed:
            await doomed()

    @app.rule(on("b"))
    async def cancelled_before() -> None:
        await anyio.sleep_forever()

    async with opened(app, log) as engine:
        await engine.emit("b")
        await quiet(engine)
        await engine.cancel(engine.runs("active")[0].id)
        await engine.drain()
        await engine.emit("a")
        await engine.drain()
        assert engine.state().runs_ended == {"cancelled": 1, "failed": 1, "dead": 1}
        assert await engine.emit("c") > 0

    assert [failed.error for failed in of_kind(log, RunFailed)] == ["CancelledError"] * 2


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        StopAsyncIteration(),
        BaseExceptionGroup("both", [ValueError(), SystemExit()]),
        ExceptionGroup("two", [ValueError("one"), TypeError("two")]),
        type("Odd", (BaseException,), {})("odd"),
        type("Mute", (Exception,), {"__str__": lambda self: 1 / 0})(),
    ],
    ids=["exit", "stop", "base group", "group", "base", "mute"],
)
@pytest.mark.parametrize("in_thread", [False, True])
async def test_whatever_a_task_raises_is_its_own_failure(
    error: BaseException, in_thread: bool
) -> None:
    """One bad task ends neither the engine nor other runs."""
    app, log = App("t"), MemoryLog()

    def fail() -> None:
        raise error

    @app.rule(on("a"), name="in_loop")
    async def in_loop() -> None:
        if not in_thread:
            fail()

    @app.rule(on("a"), name="in_thread")
    def threaded() -> None:
        if in_thread:
            fail()

    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()
        assert engine.state().runs_ended == {"dead": 1, "completed": 1}


async def test_lost_disk_while_children_end_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A parent that waits for its child's thread learns that nothing can be recorded any more."""
    monkeypatch.setattr(threads_module, "CANCEL_GRACE_S", 0.05)
    app, log, go, began = App("t"), FailingLog(), threading.Event(), list[int]()

    @app.task
    def child() -> None:
        began.append(1)
        go.wait()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        run.spawn(child)
        await until(lambda: began)
        raise ValueError

    try:
        with pytest.raises(DurabilityLost):
            async with opened(app, log) as engine:
                await engine.emit("a")
                await until(lambda: began)
                await quiet(engine)
                log.die()
                await anyio.sleep_forever()
    finally:
        go.set()


@pytest.mark.parametrize("count", [1, 50])
async def test_tasks_of_the_engine_end_with_it(
    count: int, anyio_backend_name: str, recwarn: pytest.WarningsRecorder
) -> None:
    """No worker is left behind in the host's loop."""
    app, gate = App("t"), Gate()
    before = len(anyio.get_running_tasks())

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await gate.wait()

    for _ in range(3):
        async with opened(app) as engine:
            await engine.emit_many([("a", None)] * count)
            await quiet(engine)
            assert len(anyio.get_running_tasks()) > before
        assert len(anyio.get_running_tasks()) == before


def _names(threads: list[threading.Thread]) -> list[str]:
    return sorted(thread.name for thread in threads if "AnyIO" not in thread.name)


async def test_threads_of_the_engine_end_with_it(tmp_path: Any) -> None:
    """A host that embeds the engine has its threads to itself again."""
    app = App("t")
    before = _names(threading.enumerate())
    make: Callable[[], Any] = lambda: app.open(tmp_path / "log", grace_s=0)  # noqa: E731
    async with make() as engine:
        await engine.emit("a")
        assert len(_names(threading.enumerate())) == len(before) + 1
    assert _names(threading.enumerate()) == before
