"""A run ends by its deadline, and an attempt that falls silent has failed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.engine.stand import Gate, StepClock, of_kind, opened, quiet, until

from headrace import App, MemoryLog, Retry, Run, StepFailed, TaskFailed, on
from headrace.engine.record import AttemptFailed, RunFailed

NS = 10**9


async def error_of(engine: Any, run: int) -> str:
    """Return what a dead letter died of."""
    with pytest.raises(TaskFailed) as caught:
        await engine.result(run)
    return caught.value.error


# ---------------------------------------------------------------- deadlines


async def test_the_deadline_bounds_all_attempts_together() -> None:
    """Attempts and back-offs count; what would begin after it is not waited for."""
    app, clock, log, began = App("t"), StepClock(), MemoryLog(), list[float]()

    @app.task(deadline=10, retry=Retry(attempts=50, wait_first=4, wait_max=4, jitter=0))
    async def work() -> None:
        began.append(clock.monotonic_ns() / NS)
        raise OSError("no")

    async with opened(app, log, clock) as engine:
        run = await engine.launch(work)
        await clock.step(engine, 8)
        # The third would be tried again at 12: it is given up at once instead.
        error = await error_of(engine, run)
    assert began == [0, 4, 8]
    assert error == "OSError: no (not tried again: the deadline of 10 s would come first)"
    assert len(of_kind(log, AttemptFailed)) == 2


async def test_an_attempt_that_executes_is_stopped_by_the_deadline() -> None:
    """And not tried again, whatever its policy says."""
    app, clock, gate = App("t"), StepClock(), Gate()

    @app.task(deadline=10, retry=Retry(attempts=5, wait_first=0))
    async def work() -> None:
        await gate.wait()

    async with opened(app, clock=clock) as engine:
        run = await engine.launch(work)
        await clock.step(engine, 9)
        assert engine.runs("active") != []
        await clock.step(engine, 1)
        error = await error_of(engine, run)
    assert error == "TimeoutError: the run was not at its end within its deadline of 10 s"
    assert gate.arrived == 1


@pytest.mark.parametrize("how", ["sleep", "step", "retry", "place"])
async def test_whatever_a_run_waits_for_the_deadline_ends_it(how: str) -> None:
    """A sleep, a step, a back-off that was recorded before, a place."""
    app, clock, gate = App("t"), StepClock(), Gate()

    @app.task
    async def step() -> None:
        await gate.wait()

    @app.task(deadline=10, concurrency=1)
    async def work(run: Run) -> None:
        if how == "sleep":
            await run.sleep(1000)
        elif how == "step":
            await run.call(step)
        else:
            await gate.wait()

    async with opened(app, clock=clock) as engine:
        runs = [await engine.launch(work) for _ in range(3)]
        await clock.step(engine, 10)
        for run in runs:
            assert (await error_of(engine, run)).startswith(
                "TimeoutError: the run was not at its end"
            )
        await quiet(engine)
        assert engine.runs("active") == []
        assert len(engine.kernel.state.timers) == 0


@pytest.mark.parametrize("how", ["sleep", "retry", "step"])
@pytest.mark.parametrize("crash", [True, False])
async def test_a_deadline_holds_over_restarts(how: str, *, crash: bool) -> None:
    """Also while the run sleeps or backs off, and is not invoked at all."""
    app, clock, log, invoked = App("t"), StepClock(), MemoryLog(), list[int]()
    policy = Retry(attempts=5, wait_first=25, wait_max=25, jitter=0)

    @app.task
    async def nap(run: Run) -> None:
        await run.sleep(1000)

    @app.task(deadline=30, retry=policy)
    async def work(run: Run) -> None:
        invoked.append(run.attempt)
        if how == "sleep":
            await run.sleep(1000)
        if how == "step":
            await run.call(nap)
        if run.attempt == 2:
            await run.sleep(1000)
        raise OSError

    async with opened(app, log, clock) as engine:
        run = await engine.launch(work)
        await clock.step(engine, 5)
        left = log.copy(engine.kernel.sequence)
    clock.pass_by(20)
    async with opened(app, left if crash else log, clock) as engine:
        await clock.step(engine, 4)
        assert [view.id for view in engine.runs() if view.ended_at_ns is None][-1] == run
        await clock.step(engine, 1)
        await quiet(engine)
        (view,) = [view for view in engine.runs() if view.id == run]
        assert view.status == "dead"
        assert view.error == "TimeoutError: the run was not at its end within its deadline of 30 s"
        assert engine.runs("active") == engine.runs("retrying") == []


async def test_a_deadline_that_fell_into_a_downtime_ends_the_run_at_the_start() -> None:
    """Its code is not invoked any more."""
    app, clock, log, invoked = App("t"), StepClock(), MemoryLog(), list[int]()
    gate = Gate()

    @app.task(deadline=30)
    async def work() -> None:
        invoked.append(1)
        await gate.wait()

    async with opened(app, log, clock) as engine:
        await engine.launch(work)
        await quiet(engine)
    clock.pass_by(100)
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 0.1)
        assert [view.status for view in engine.runs()] == ["dead"]


async def test_a_step_has_a_deadline_of_its_own() -> None:
    """For its parent it is a step that failed."""
    app, clock, gate, caught = App("t"), StepClock(), Gate(), list[str]()

    @app.task(deadline=5)
    async def step() -> None:
        await gate.wait()

    @app.task
    async def parent(run: Run) -> str:
        try:
            await run.call(step)
        except StepFailed as error:
            caught.append(error.error)
        return "on"

    async with opened(app, clock=clock) as engine:
        run = await engine.launch(parent)
        await clock.step(engine, 5)
        assert await engine.result(run) == "on"
    assert caught == ["TimeoutError: the run was not at its end within its deadline of 5 s"]


async def test_a_redriven_run_has_its_time_anew() -> None:
    """Or it would die again at once."""
    app, clock, gate = App("t"), StepClock(), Gate()

    @app.task(deadline=5)
    async def work() -> str:
        await gate.wait()
        return "done"

    async with opened(app, clock=clock) as engine:
        run = await engine.launch(work)
        await clock.step(engine, 100)
        assert [view.status for view in engine.runs()] == ["dead"]
        await engine.redrive(run)
        await clock.step(engine, 4)
        gate.open()
        assert await engine.result(run) == "done"


async def test_by_input_a_deadline_is_one_of_log_time() -> None:
    """A run that wakes after its deadline has failed, however fast the file was read."""
    app = App("t")

    @app.rule(on("go"))
    async def go(run: Run) -> None:
        await run.launch(work)

    @app.task(deadline=10)
    async def work(run: Run) -> None:
        await run.sleep(100)

    async with opened(app, clock="input") as engine:
        await engine.emit("go", time=1000.0)
        await engine.emit("tick", time=2000.0)
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 1, "dead": 1}


async def test_deadlines_of_ended_runs_take_no_memory() -> None:
    """Also if one run lives on whose deadline comes before theirs."""
    app, gate = App("t"), Gate()

    @app.task(deadline=3000)
    async def long() -> None:
        await gate.wait()

    @app.task(deadline=3600)
    async def short() -> None: ...

    async with opened(app) as engine:
        await engine.launch(long)
        for _ in range(300):
            await engine.launch(short)
        await quiet(engine)
        assert len(engine._core.runner._deadlines._runs) < 80
        gate.open()
        await engine.drain()


# ---------------------------------------------------------------- heartbeats


async def test_an_attempt_that_falls_silent_has_failed() -> None:
    """And is tried again, as with any failure."""
    app, clock, log, gate = App("t"), StepClock(), MemoryLog(), Gate()

    @app.task(heartbeat=5, retry=Retry(attempts=2, wait_first=0))
    async def work(run: Run) -> str:
        for n in range(3):
            await clock.sleep_until(clock.monotonic_ns() + 4 * NS)
            run.progress(n, 3)
        if run.attempt == 1:
            await gate.wait()
        return "done"

    async with opened(app, log, clock) as engine:
        run = await engine.launch(work)
        await clock.step(engine, 16)
        assert of_kind(log, AttemptFailed) == []
        await clock.step(engine, 1)
        (failed,) = of_kind(log, AttemptFailed)
        await clock.step(engine, 20)
        assert await engine.result(run) == "done"
    assert failed.error == "TimeoutError: the attempt did not call run.progress(...) for 5 s"


async def test_waiting_for_a_step_is_no_silence() -> None:
    """The step has a heartbeat of its own, if it is to have one."""
    app, clock = App("t"), StepClock()

    @app.task(heartbeat=5)
    async def work(run: Run) -> str:
        await run.sleep(60)
        await clock.sleep_until(clock.monotonic_ns() + 4 * NS)
        return "done"

    async with opened(app, clock=clock) as engine:
        run = await engine.launch(work)
        await clock.step(engine, 70)
        assert await engine.result(run) == "done"


async def test_after_a_step_the_whole_time_is_there_again() -> None:
    """What was left of it when the wait began does not count."""
    app, clock = App("t"), StepClock()

    @app.task(heartbeat=20)
    async def work(run: Run) -> str:
        await clock.sleep_until(clock.monotonic_ns() + 1 * NS)
        await run.sleep(18)
        await clock.sleep_until(clock.monotonic_ns() + 19 * NS)
        return "done"

    async with opened(app, clock=clock) as engine:
        run = await engine.launch(work)
        await clock.step(engine, 100)
        assert await engine.result(run) == "done"


async def test_waiting_for_a_place_is_no_silence() -> None:
    """Its wait is over, and another has the place: nothing of its own is late."""
    app, clock = App("t"), StepClock()

    @app.task(concurrency=1, heartbeat=5)
    async def work(run: Run, sleeps: bool) -> None:
        if sleeps:
            await run.sleep(1)
            await clock.sleep_until(clock.monotonic_ns() + 4 * NS)
            return
        for n in range(20):
            await clock.sleep_until(clock.monotonic_ns() + NS)
            run.progress(n)

    async with opened(app, clock=clock) as engine:
        await engine.launch(work, sleeps=True)
        await quiet(engine)
        await engine.launch(work, sleeps=False)
        await clock.step(engine, 30)
        assert engine.state().runs_ended == {"completed": 2}


async def test_progress_is_shown_and_not_recorded() -> None:
    """`Engine.runs` says how far each has come."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.task
    async def work(run: Run) -> None:
        run.progress(3, 10)
        await gate.wait()

    async with opened(app, log) as engine:
        await engine.launch(work)
        await quiet(engine)
        last = engine.kernel.sequence
        assert [view.progress for view in engine.runs()] == [(3, 10)]
        assert engine.kernel.sequence == last
        gate.open()
        await engine.drain()
        assert [view.progress for view in engine.runs()] == [None]


async def test_a_sync_task_says_so_from_its_thread() -> None:
    """``run.progress`` may be called from anywhere."""
    app, done = App("t"), threading.Event()

    @app.task(heartbeat=60)
    def work(run: Run) -> str:
        run.progress(1)
        done.wait(10)
        run.progress(2)
        return threading.current_thread().name

    async with opened(app) as engine:
        run = await engine.launch(work)
        await until(lambda: [view.progress for view in engine.runs()] == [(1, None)])
        done.set()
        assert await engine.result(run) != threading.main_thread().name


async def test_a_final_failure_of_a_silent_run_is_a_dead_letter() -> None:
    """Without a policy it is given up."""
    app, clock, log, gate = App("t"), StepClock(), MemoryLog(), Gate()

    @app.rule(on("a"), name="act")
    async def act(run: Run) -> None:
        await run.call(work)

    @app.task(heartbeat=5)
    async def work() -> None:
        await gate.wait()

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 5)
        await engine.drain()
    assert [failed.error.partition(":")[0] for failed in of_kind(log, RunFailed)] == [
        "TimeoutError",
        "StepFailed",
    ]
