"""Whoever ends a run ends what is below it first, each with a record and an event of its own."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio import CancelScope
from anyio.lowlevel import checkpoint
from tests.engine.stand import (
    Gate,
    StepClock,
    borders,
    check_live,
    of_kind,
    opened,
    quiet,
    records_of,
)

from headrace import App, Firing, MemoryLog, Retry, Run, on
from headrace.engine.record import (
    CancelRequested,
    RunCancelled,
    RunCompleted,
    RunFailed,
    StepRequested,
)


def family(invoked: list[str], *, depth: int = 2, deadline: float | None = None) -> App:
    """Return an app with a run and descendants that all sleep, two of each parent."""
    app = App("t")

    @app.task
    async def child(run: Run, depth: int) -> None:
        invoked.append("child")
        if depth:
            for _ in range(2):
                run.spawn(child, depth - 1)
        await run.sleep(1000)

    @app.task(deadline=deadline)
    async def top(run: Run) -> None:
        invoked.append("top")
        run.spawn(child, depth - 1)
        await run.sleep(1000)

    return app


def check_order(log: MemoryLog) -> None:
    """Check that no run ended before its children."""
    kinds = RunCompleted, RunCancelled, RunFailed
    ended = [record.run for _, record in records_of(log) if isinstance(record, kinds)]
    for sequence, asked in records_of(log):
        if isinstance(asked, StepRequested) and asked.kind != "compensate":
            assert ended.index(sequence) < ended.index(asked.parent)


@pytest.mark.parametrize("end", ["cancel", "deadline"])
@pytest.mark.parametrize("restarts", [False, True])
async def test_each_run_of_a_family_ends_with_a_record_and_an_event(
    end: str, *, restarts: bool
) -> None:
    """Also after a start, when no code of any is there: a rule sees the same."""
    invoked, told, clock, log = list[str](), list[int](), StepClock(), MemoryLog()
    app = family(invoked, depth=3, deadline=50 if end == "deadline" else None)

    @app.rule(on("run.cancelled.>", dict), name="tell")
    async def tell(firing: Firing[dict[str, Any]]) -> None:
        told.append(firing.events[0].data["run"])

    async with opened(app, log, clock) as engine:
        top = await engine.launch(app.tasks["top"].function)
        await quiet(engine)
        if restarts:
            log = log.copy(engine.kernel.sequence)
    invoked.clear()
    async with opened(app, log, clock) as engine:
        await quiet(engine)
        if end == "cancel":
            await engine.cancel(top)
        await clock.step(engine, 60)
        await engine.drain()
        assert engine.state().runs_active == engine.state().timers == 0
        await check_live(engine)

    assert invoked == []
    cancelled = [record.run for record in of_kind(log, RunCancelled)]
    assert len(cancelled) == 7 + (end == "cancel")
    assert sorted(told) == sorted(cancelled)
    assert [record.run for record in of_kind(log, RunFailed)] == ([top] if end != "cancel" else [])
    check_order(log)


@pytest.mark.slow
@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_long_line_of_sleepers_ends_at_once(*, is_busy: bool) -> None:
    """However deep: it is gone through, not called.  Also if there is code at its end."""
    app, log, clock, left = App("t"), MemoryLog(), StepClock(), list[str]()

    @app.task
    async def nest(run: Run, depth: int) -> None:
        if depth:
            run.spawn(nest, depth - 1)
        elif is_busy:
            try:
                await anyio.sleep_forever()
            finally:
                left.append("busy")
        await run.sleep(1000)

    async with opened(app, log, clock) as engine:
        top = await engine.launch(nest, 1200)
        await quiet(engine)
        log = log.copy(engine.kernel.sequence)
    left.clear()
    async with opened(app, log, clock) as engine:
        await quiet(engine)
        await engine.cancel(top)
        await quiet(engine)
        assert engine.state().runs_active == 0
    assert len(of_kind(log, RunCancelled)) == 1201
    assert left == ["busy"] * is_busy
    check_order(log)


async def test_an_end_needs_no_place_of_the_engine() -> None:
    """A child executes and takes the only one, which another waits for; its parent sleeps."""
    app, log, clock, gate, did = App("t"), MemoryLog(), StepClock(), Gate(), list[str]()

    @app.task
    async def busy() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            did.append("ended")

    @app.task
    async def parent(run: Run) -> None:
        run.spawn(busy)
        did.append("invoked")
        await run.sleep(1000)

    @app.task
    async def other() -> None:
        await gate.wait()

    async with opened(app, log, clock) as engine:
        top = await engine.launch(parent)
        await quiet(engine)
        log = log.copy(engine.kernel.sequence)
    did.clear()
    async with opened(app, log, clock, concurrency=1) as engine:
        await engine.launch(other)
        await quiet(engine)
        assert gate.arrived == 0
        await engine.cancel(top)
        await quiet(engine)
        assert gate.arrived == 1
        assert [run.task for run in engine.runs("active")] == [engine.runs()[0].task]
        gate.open()
    assert did == ["ended"]
    assert len(of_kind(log, RunCancelled)) == 2


async def test_a_family_that_is_ending_when_the_engine_stops_is_waited_for() -> None:
    """As long as code executes: then both ends are in the log."""
    app, log, ending = App("t"), MemoryLog(), list[str]()

    @app.task
    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ending.append("child")
            with CancelScope(shield=True):
                for _ in range(50):
                    await checkpoint()

    @app.task
    async def parent(run: Run) -> None:
        await run.spawn(child)

    async with opened(app, log) as engine:
        top = await engine.launch(parent)
        await quiet(engine)
        await engine.cancel(top)
        while not ending:
            await checkpoint()
        assert of_kind(log, RunCancelled) == []
    assert len(of_kind(log, RunCancelled)) == 2


async def test_code_that_executes_ends_its_own_children() -> None:
    """It may still wait for them, to clean up; also if its parent only sleeps."""
    app, log, clock, gate, got = App("t"), MemoryLog(), StepClock(), Gate(), list[int]()

    @app.task
    async def below() -> int:
        await gate.wait()
        return 7

    @app.task
    async def child(run: Run) -> None:
        handle = run.spawn(below)
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                got.append(await handle)

    @app.task
    async def parent(run: Run) -> None:
        run.spawn(child)
        await run.sleep(1000)

    async with opened(app, log, clock) as engine:
        top = await engine.launch(parent)
        await quiet(engine)
        log = log.copy(engine.kernel.sequence)
        gate.open()
    got.clear()
    gate = Gate()
    async with opened(app, log, clock) as engine:
        await quiet(engine)
        await engine.cancel(top)
        await quiet(engine)
        gate.open()
        await quiet(engine)
        assert engine.state().runs_ended == {"completed": 1, "cancelled": 2}
    assert got == [7]
    check_order(log)


async def test_a_child_that_undoes_is_not_interrupted_by_the_end_of_its_parent() -> None:
    """Nor is what it executes for that, wherever the process died."""
    app, log, clock, did = App("t"), MemoryLog(), StepClock(), list[str]()

    @app.task
    async def undo(run: Run) -> None:
        await run.sleep(100)
        did.append("undone")

    @app.task
    async def child(run: Run) -> None:
        await run.compensate(undo)
        raise ValueError

    @app.task
    async def parent(run: Run) -> None:
        run.spawn(child)
        await run.sleep(1000)

    async with opened(app, log, clock) as engine:
        top = await engine.launch(parent)
        await clock.step(engine, 1)
        await engine.cancel(top, "enough")
        await quiet(engine)
        log = log.copy(engine.kernel.sequence)
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 200)
        await engine.drain()
        assert engine.state().runs_active == 0
        (failed,) = engine.runs("failed")
        assert failed.error == "ValueError"
    assert did == ["undone"]
    check_order(log)


async def test_a_run_whose_code_is_gone_can_be_cancelled_with_its_children() -> None:
    """Its children execute, since it sleeps; it ends once they have."""
    app, log, clock, gates = App("t"), MemoryLog(), StepClock(), [Gate(), Gate()]
    lives = [0]

    @app.task(name="busy")
    async def busy() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                await gates[lives[0]].wait()

    @app.task
    async def parent(run: Run) -> None:
        run.spawn(busy)
        await run.sleep(1000)

    async with opened(app, log, clock) as engine:
        top = await engine.launch(parent)
        await quiet(engine)
        log = log.copy(engine.kernel.sequence)
        gates[0].open()
    lives[0] = 1
    other = App("t")
    other.task(name="busy")(busy)
    async with opened(other, log, clock) as engine:
        await quiet(engine)
        await engine.cancel(top)
        await quiet(engine)
        assert len(engine.runs("active")) == 2
        gates[1].open()
        await quiet(engine)
        assert engine.runs("active") == []
    assert len(of_kind(log, RunCancelled)) == 2


async def test_a_cancellation_that_a_crash_cut_short_goes_on_at_the_start() -> None:
    """Wherever it was in the family, with the records that there are."""
    invoked, clock, log = list[str](), StepClock(), MemoryLog()
    app = family(invoked)
    async with opened(app, log, clock) as engine:
        top = await engine.launch(app.tasks["top"].function)
        await quiet(engine)
        await engine.cancel(top)
        await quiet(engine)
    invoked.clear()
    (asked,) = [n for n, record in records_of(log) if isinstance(record, CancelRequested)]
    for upto in borders(log):
        if upto > asked:
            left = log.copy(upto)
            async with opened(app, left, clock) as engine:
                await quiet(engine)
                assert engine.state().runs_active == 0
                await check_live(engine)
            assert len(of_kind(left, RunCancelled)) == 4
            check_order(left)
    assert invoked == []


async def test_a_child_that_has_failed_and_waits_for_its_own_is_not_tried_again() -> None:
    """Its parent ends and waits for it: not until its back-off is over."""
    app, clock, log, gate = App("t"), StepClock(), MemoryLog(), Gate()

    @app.task
    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                await gate.wait()

    @app.task(retry=Retry(attempts=9, wait_first=1000, wait_max=1000))
    async def child(run: Run) -> None:
        run.spawn(slow)
        await run.sleep(1)
        raise OSError

    @app.task
    async def parent(run: Run) -> None:
        await run.spawn(child)

    async with opened(app, log, clock) as engine:
        top = await engine.launch(parent)
        await clock.step(engine, 2)
        assert gate.arrived == 1
        await engine.cancel(top)
        await quiet(engine)
        gate.open()
        await quiet(engine)
        assert engine.state().runs_active == 0
    assert len(of_kind(log, RunCancelled)) == 3
    check_order(log)


async def test_by_input_time_moves_on_while_a_child_undoes() -> None:
    """What undoes it sleeps; the parent that is to end waits for that, and does nothing."""
    app, did, log = App("t"), list[str](), MemoryLog()

    @app.task
    async def undo(run: Run) -> None:
        await run.sleep(5)
        did.append("undone")

    @app.task
    async def child(run: Run) -> None:
        await run.compensate(undo)
        await run.sleep(1000)

    @app.rule(on("go"))
    async def go(run: Run) -> None:
        run.spawn(child)
        await run.sleep(1)
        raise ValueError

    async with opened(app, log, "input") as engine:
        await engine.emit("go", time=1000.0)
        await engine.emit("tick", time=1100.0)
        await engine.drain()
        assert did == ["undone"]
        assert engine.state().runs_active == 0
        await check_live(engine)
