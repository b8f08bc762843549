"""However a run ends without success: what it and its children have done is undone before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from tests.engine.stand import HANG_S, Gate, StepClock, of_kind, opened, quiet

from headrace import App, Engine, MemoryLog, Run, TaskFailed, on
from headrace.engine.record import RunFailed
from headrace.engine.runs import RunView


def family(did: list[str], *, deadline: float | None = None) -> App:
    """Return an app with a child that has booked and sleeps, as its parent does."""
    app = App("t")

    @app.task
    async def free(what: str) -> None:
        did.append(f"freed {what}")

    @app.task
    async def child(run: Run) -> None:
        await run.compensate(free, "hotel")
        await run.sleep(1000)

    @app.task
    async def parent(run: Run) -> None:
        run.spawn(child)
        await run.sleep(1000)

    @app.task(deadline=deadline)
    async def top(run: Run) -> None:
        run.spawn(parent)
        await run.sleep(1000)

    return app


async def _cancel(engine: Engine, clock: StepClock) -> None:
    (top,) = [run.id for run in engine.runs("active") if run.task == "top"]
    await engine.cancel(top, "no money")


async def _let_be_late(engine: Engine, clock: StepClock) -> None:
    await clock.step(engine, 60)


@pytest.mark.parametrize("end", [_cancel, _let_be_late])
@pytest.mark.parametrize("restarts", [False, True])
async def test_child_that_sleeps_is_undone_with_its_parent(
    end: Callable[[Engine, StepClock], Awaitable[None]],
    restarts: bool,
) -> None:
    """Also after a start, when no code of either is there; and before the end of the parent."""
    did, clock, log = list[str](), StepClock(), MemoryLog()
    app = family(did, deadline=50 if end is _let_be_late else None)
    async with opened(app, log, clock) as engine:
        await engine.launch(app.tasks["top"].function)
        await quiet(engine)
        if not restarts:
            await end(engine, clock)
            await quiet(engine)
    if restarts:
        async with opened(app, log, clock) as engine:
            await end(engine, clock)
            await quiet(engine)
            assert engine.runs("active") == []

    assert did == ["freed hotel"]


def deadly(did: list[str], *, through_child: bool) -> App:
    """Return an app with a run that books, or whose child does, and then kills the process."""
    app = App("t")

    @app.task
    async def free(what: str) -> None:
        did.append(f"freed {what}")

    @app.task
    async def booked(run: Run) -> None:
        await run.compensate(free, "hotel")
        await run.sleep(1000)

    @app.rule(on("a"))
    async def kill(run: Run) -> None:
        if through_child:
            run.spawn(booked)
        else:
            await run.compensate(free, "hotel")
        did.append("killed")
        await run._executor.pipeline.backend.event().wait()  # for ever

    return app


@pytest.mark.parametrize("through_child", [False, True])
async def test_run_that_kills_the_process_is_undone(through_child: bool) -> None:
    """It is given up without its code, and what it has done stays no more than of any other."""
    did, log = list[str](), MemoryLog()
    async with opened(deadly(did, through_child=through_child), log, StepClock()) as engine:
        await engine.emit("a")
        await quiet(engine)
        log = log.copy(engine.log.committed_sequence)
    dead: list[RunView] = []
    while not dead and did.count("killed") < 6:
        async with opened(deadly(did, through_child=through_child), log, StepClock()) as engine:
            await quiet(engine)
            dead = engine.runs("dead")
            log = log.copy(engine.log.committed_sequence)

    assert [run.task for run in dead] == ["kill"]
    assert str(dead[0].error).startswith("ProcessDied")
    assert did[-1] == "freed hotel"
    assert did.count("freed hotel") == 1


async def test_engine_that_closes_in_the_middle_of_an_undo_does_not_wait_for_its_end() -> None:
    """The next start goes on with it: what stopped it has no grace left."""
    app, gate, log = App("t"), Gate(), MemoryLog()
    did, is_late, run_id = list[str](), False, 0

    @app.task
    async def free(what: str) -> None:
        did.append(f"frees {what}")
        await gate.wait()
        did.append(f"freed {what}")

    @app.task
    async def trip(run: Run) -> None:
        await run.compensate(free, "hotel")
        raise ValueError("no trip")

    async def let_it_end(engine: Engine) -> None:
        nonlocal is_late
        await anyio.sleep(HANG_S / 4)
        is_late = True
        for parking in list(engine.opened().runner._waits):
            parking.wake()  # nothing else could end this test

    async with anyio.create_task_group() as group:
        async with opened(app, log) as engine:
            run_id = await engine.launch(trip)
            await quiet(engine)
            assert did == ["frees hotel"]
            group.start_soon(let_it_end, engine)
        group.cancel_scope.cancel()
    assert not is_late

    gate.open()
    async with opened(app, log) as engine:
        with pytest.raises(TaskFailed, match="no trip"):
            await engine.result(run_id)
    assert did == ["frees hotel", "frees hotel", "freed hotel"]


@pytest.mark.parametrize("begun", [True, False])
async def test_engine_can_be_closed_in_the_middle_of_an_undo(*, begun: bool) -> None:
    """It does not wait for the end of that; the next start does."""
    app, log, clock, did = App("t"), MemoryLog(), StepClock(), list[str]()

    @app.task
    async def free(run: Run) -> None:
        did.append("begun")
        if begun:
            await run.sleep(1000)
        did.append("freed")

    @app.task(concurrency=1)
    async def blocker(run: Run) -> None:
        await run._executor.pipeline.backend.event().wait()  # for ever

    @app.task
    async def act(run: Run) -> None:
        await run.compensate(free)
        raise ValueError

    async with opened(app, log, clock, concurrency=None if begun else 1) as engine:
        await engine.launch(act)
        await engine.launch(blocker)
        await quiet(engine)
        assert did == (["begun"] if begun else [])
        assert [run.status for run in engine.runs("compensating")] == ["compensating"]
    assert of_kind(log, RunFailed) == []
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 1000)
        assert len(engine.runs("dead")) == 1
    assert did[-1] == "freed"
    assert did.count("freed") == 1
