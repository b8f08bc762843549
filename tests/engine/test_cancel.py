"""A run can be cancelled wherever it is, and takes its children with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tests.engine.stand import (
    Gate,
    GatedLog,
    StepClock,
    of_kind,
    opened,
    quiet,
    records_of,
    until,
)

import headrace.engine.runner as runner_module
import headrace.engine.threads as threads_module
from headrace import App, Engine, EventRefused, MemoryLog, Retry, Run, StepCancelled, on
from headrace.engine.record import (
    AttemptFailed,
    CancelRequested,
    RunCancelled,
    RunCompleted,
    StepRequested,
)


def status_of(engine: Engine) -> dict[str, str]:
    """Return the last status of each task."""
    return {run.task: run.status for run in reversed(engine.runs())}


def id_of(engine: Engine, task: str) -> int:
    """Return the id of the newest open run of *task*."""
    return next(run.id for run in engine.runs() if run.task == task and run.ended_at_ns is None)


async def _active(run: Run, gate: Gate) -> None:
    await gate.wait()


async def _asleep(run: Run, gate: Gate) -> None:
    await run.sleep(1000)


async def _in_back_off(run: Run, gate: Gate) -> None:
    raise OSError


PLACES: list[Callable[[Run, Gate], Any]] = [_active, _asleep, _in_back_off]


@pytest.mark.parametrize("body", PLACES)
async def test_cancelled_run_ends_at_once_wherever_it_is(body: Any) -> None:
    """Its code gets no further, its timers are gone, and the log says why."""
    app, clock, gate, log = App("t"), StepClock(), Gate(), MemoryLog()

    @app.rule(on("a"), retry=Retry(attempts=9, wait_first=100, wait_max=100))
    async def act(run: Run) -> None:
        await body(run, gate)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        await engine.cancel(id_of(engine, "act"), "enough")
        await quiet(engine)
        (run,) = engine.runs("cancelled")
        assert run.error == "enough"
        assert engine.state().timers == 0
        await engine.drain()
        await clock.step(engine, 10_000)
        assert engine.state().runs_ended == {"cancelled": 1}

    assert [record.reason for record in of_kind(log, RunCancelled)] == ["enough"]


@pytest.mark.parametrize("body", PLACES)
async def test_cancellation_that_a_crash_cut_short_is_carried_out_at_the_start(body: Any) -> None:
    """Once the request is durable it holds, whatever happens next."""
    app, clock, gate, log = App("t"), StepClock(), Gate(), GatedLog()
    executed = list[int]()

    @app.rule(on("a"), retry=Retry(attempts=9, wait_first=100, wait_max=100))
    async def act(run: Run) -> None:
        executed.append(1)
        await body(run, gate)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        await engine.cancel(id_of(engine, "act"), "enough")
        # Cut behind the request and what follows from it, before the run's end.
        upto = max(s for s in range(log.next_sequence) if not of_kind(log.copy(s), RunCancelled))
        left = log.copy(upto)
    assert of_kind(left, CancelRequested)
    executed.clear()
    async with opened(app, left, clock) as engine:
        await engine.drain()
        assert [run.error for run in engine.runs("cancelled")] == ["enough"]

    assert executed == []


async def test_cancel_returns_when_the_request_is_durable() -> None:
    """Whoever asked may rely on it, though the run may still be ending."""
    app, gate, log, asked = App("t"), Gate(), GatedLog(), list[int]()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async with opened(app, log) as engine, anyio.create_task_group() as group:
        await engine.emit("a")
        await quiet(engine)
        log.hold = True

        async def ask() -> None:
            await engine.cancel(id_of(engine, "act"))
            asked.append(1)

        group.start_soon(ask)
        await quiet(engine)
        assert asked == []
        assert engine.runs("active")[0].task == "act", "ended before the request was durable"
        log.release()
        await engine.drain()
        assert status_of(engine) == {"act": "cancelled"}


async def test_run_that_fails_while_it_is_being_cancelled_is_not_tried_again() -> None:
    """The request is on its way to the disk; what comes first does not matter."""
    app, gate, log = App("t"), Gate(), GatedLog()

    @app.rule(on("a"), retry=Retry(attempts=5, wait_first=1))
    async def act() -> None:
        await gate.wait()
        raise OSError

    async with opened(app, log) as engine, anyio.create_task_group() as group:
        await engine.emit("a")
        await quiet(engine)
        log.hold = True
        group.start_soon(engine.cancel, id_of(engine, "act"), "enough")
        await quiet(engine)
        gate.open()
        await quiet(engine)
        log.release()
        await engine.drain()
        assert [run.error for run in engine.runs("cancelled")] == ["enough"]
        assert engine.state().retries == 0


@pytest.mark.parametrize("reason", ["\udcff", "half a \ud800"])
async def test_reason_that_cannot_be_stored_is_refused(reason: str) -> None:
    """And nothing else is disturbed by it."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async with opened(app, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        run_id = id_of(engine, "act")
        with pytest.raises(EventRefused):
            await engine.cancel(run_id, reason)
        await engine.cancel(run_id, "x" * 2_000_000)
        await engine.drain()
        assert await engine.emit("b") == log.committed_sequence

    async with opened(app, log) as engine:
        assert engine.state().runs_ended == {"cancelled": 1}


async def test_waiting_run_can_be_cancelled() -> None:
    """Mode restart: the one that has not begun goes, the one before it ends as it was told."""
    app, log, executed, stuck = App("t"), MemoryLog(), list[int](), threading.Event()

    @app.rule(on("a"), mode="restart")
    def act() -> None:
        executed.append(1)
        stuck.wait()

    async with opened(app, log) as engine:
        await engine.emit("a")
        await until(lambda: executed)
        await engine.emit("a")
        await quiet(engine)
        (waiting,) = engine.runs("waiting")
        await engine.cancel(waiting.id, "not this one")
        await quiet(engine)
        assert [run.error for run in engine.runs("cancelled")] == ["not this one"]
        stuck.set()
        await engine.drain()

    assert executed == [1]


async def test_run_that_waits_for_a_worker_can_be_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its code is never called."""
    monkeypatch.setattr(runner_module, "ACTIVE_MAX", 1)
    app, gate, executed = App("t"), Gate(), list[str]()

    @app.rule(on("first"))
    async def first() -> None:
        await gate.wait()

    @app.rule(on("second"))
    async def second() -> None:
        executed.append("second")

    async with opened(app) as engine:
        await engine.emit("first")
        await engine.emit("second")
        await quiet(engine)
        await engine.cancel(id_of(engine, "second"))
        await quiet(engine)
        assert status_of(engine) == {"first": "active", "second": "cancelled"}
        gate.open()
        await engine.drain()

    assert executed == []


async def test_run_that_waits_for_a_thread_can_be_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once: no thread of its own is running that one would have to wait for."""
    monkeypatch.setattr(threads_module, "THREADS_MAX", 1)
    app, go, executed = App("t"), threading.Event(), list[int]()

    @app.rule(on("a"))
    def act(run: Run) -> None:
        executed.append(run.id)
        go.wait()

    async with opened(app) as engine:
        try:
            await engine.emit("a")
            await until(lambda: executed)
            await engine.emit("a")
            await quiet(engine)
            await engine.cancel(id_of(engine, "act"), "not needed")
            await quiet(engine)
            assert [run.error for run in engine.runs("cancelled")] == ["not needed"]
        finally:
            go.set()
        await engine.drain()

    assert len(executed) == 1


async def test_thread_that_does_not_end_is_disowned(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the grace period the engine goes on without it, and says so."""
    monkeypatch.setattr(threads_module, "CANCEL_GRACE_S", 0.02)
    app, go, began = App("t"), threading.Event(), list[int]()

    @app.rule(on("a"))
    def act() -> None:
        began.append(1)
        go.wait()

    async with opened(app) as engine:
        try:
            await engine.emit("a")
            await until(lambda: began)
            await engine.cancel(id_of(engine, "act"), "enough")
            await engine.drain()
            (run,) = engine.runs("cancelled")
        finally:
            go.set()

    assert str(run.error).startswith("enough (its thread")


async def test_thread_that_ends_in_time_is_waited_for() -> None:
    """Its run has ended only when its code has."""
    app, go, began = App("t"), threading.Event(), list[int]()

    @app.rule(on("a"))
    def act() -> None:
        began.append(1)
        go.wait()

    async with opened(app) as engine:
        await engine.emit("a")
        await until(lambda: began)
        await engine.cancel(id_of(engine, "act"), "enough")
        await quiet(engine)
        assert status_of(engine) == {"act": "active"}
        go.set()
        await engine.drain()
        assert [run.error for run in engine.runs("cancelled")] == ["enough"]


# ---------------------------------------------------------------- families


async def _family(run: Run, app: App, how: str, child: Any) -> None:
    if how == "call":
        await run.call(child)
    elif how == "spawn":
        await run.spawn(child)
    elif how == "left":
        run.spawn(child)
    else:
        await run.map(child, [0])


@pytest.mark.parametrize("how", ["call", "spawn", "left", "map"])
@pytest.mark.parametrize("body", PLACES)
async def test_children_end_with_their_cancelled_parent(how: str, body: Any) -> None:
    """However they were started and wherever they are; none runs on, none starts later."""
    app, clock, gate, log = App("t"), StepClock(), Gate(), MemoryLog()
    inside = list[int]()

    @app.task(retry=Retry(attempts=9, wait_first=100, wait_max=100))
    async def child(run: Run, n: int = 0) -> None:
        inside.append(1)
        try:
            await body(run, gate)
        finally:
            inside.pop()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await _family(run, app, how, child)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        await engine.cancel(id_of(engine, "act"))
        await quiet(engine)
        assert status_of(engine) == {"act": "cancelled", "child": "cancelled"}
        assert engine.state().timers == 0
        assert inside == []
        await clock.step(engine, 10_000)
        assert engine.state().runs_ended == {"cancelled": 2}

    cancelled = [record.run for record in of_kind(log, RunCancelled)]
    assert cancelled == sorted(cancelled, reverse=True), "the parent ended before its child"


async def test_second_attempt_of_a_child_ends_with_its_parent() -> None:
    """It is executed elsewhere than its parent, and still its child."""
    app, clock, gate, ended = App("t"), StepClock(), Gate(), list[str]()

    @app.task(retry=Retry(attempts=9, wait_first=1))
    async def child(run: Run) -> None:
        if run.attempt == 1:
            raise OSError
        try:
            await gate.wait()
        finally:
            ended.append("child")

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        try:
            await run.call(child)
        finally:
            ended.append("parent")

    async with opened(app, clock=clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 5)
        assert gate.arrived == 1
        await engine.cancel(id_of(engine, "act"))
        await engine.drain()
        assert status_of(engine) == {"act": "cancelled", "child": "cancelled"}

    assert sorted(ended) == ["child", "parent"]


async def test_cancelled_child_is_an_error_that_its_parent_may_catch() -> None:
    """Only the child was cancelled."""
    app, gate, got = App("t"), Gate(), list[Any]()

    @app.task
    async def child() -> None:
        await gate.wait()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        for how in ("call", "spawn"):
            try:
                await (run.call(child) if how == "call" else run.spawn(child))
            except StepCancelled as error:
                got.append(error.error)

    async with opened(app) as engine:
        await engine.emit("a")
        for reason in ("one", "two"):
            await quiet(engine)
            await engine.cancel(id_of(engine, "child"), reason)
        await engine.drain()
        assert status_of(engine)["act"] == "completed"

    assert got == ["one", "two"]


async def test_handle_cancels_its_child() -> None:
    """And cancelling twice, or too late, does nothing."""
    app, gate, got = App("t"), Gate(), list[Any]()

    @app.task
    async def child(waits: bool) -> int:
        if waits:
            await gate.wait()
        return 7

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        slow, fast, late = run.spawn(child, True), run.spawn(child, False), run.spawn(child, True)
        got.append(await fast)
        fast.cancel()
        slow.cancel("no more")
        slow.cancel("again")
        late.cancel()
        for handle in (slow, late, fast):
            try:
                got.append(await handle)
            except StepCancelled as error:
                got.append(error.error)

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 2, "cancelled": 2}

    assert got == [7, "no more", "cancelled by its parent", 7]


async def test_grandchildren_end_too() -> None:
    """The whole tree below a cancelled run is gone, from the leaves upwards."""
    app, gate, log, ended = App("t"), Gate(), MemoryLog(), list[int]()

    @app.task
    async def tree(run: Run, depth: int) -> None:
        try:
            if depth == 0:
                await gate.wait()
            run.spawn(tree, depth - 1)
            await run.call(tree, depth - 1)
        finally:
            ended.append(depth)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(tree, 3)

    async with opened(app, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert gate.arrived == 8
        await engine.cancel(id_of(engine, "act"))
        await engine.drain()
        assert engine.state().runs_active == 0

    parent_of = {}
    for s, asked in records_of(log):
        if isinstance(asked, StepRequested):
            parent_of[s] = asked.parent
    order = [record.run for record in of_kind(log, RunCancelled)]
    assert len(order) == 1 + 15
    for run, parent in parent_of.items():
        assert order.index(run) < order.index(parent)
    assert len(ended) == 15


async def test_failing_parent_ends_its_children_before_it_is_tried_again() -> None:
    """The next attempt does not meet the children of the one before."""
    app, clock, gate, now, most = App("t"), StepClock(), Gate(), 0, 0

    @app.task
    async def child() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            await gate.wait()
        finally:
            now -= 1

    @app.rule(on("a"), retry=Retry(attempts=3, wait_first=0))
    async def act(run: Run) -> None:
        run.spawn(child)
        await run.sleep(1)
        raise OSError

    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 100)
        assert status_of(engine) == {"act": "dead", "child": "cancelled"}
        assert engine.state().runs_ended == {"dead": 1, "cancelled": 3}

    assert (now, most) == (0, 1)
    assert len(of_kind(log, AttemptFailed)) == 2


async def test_code_that_swallows_its_cancellation_and_returns_has_completed() -> None:
    """Who finishes in spite of all has finished: its result is not thrown away."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.rule(on("a"))
    async def act() -> str:
        try:
            await gate.wait()
        except anyio.get_cancelled_exc_class():
            return "done all the same"
        return "not cancelled"

    async with opened(app, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        await engine.cancel(id_of(engine, "act"))
        await engine.drain()
        assert engine.state().runs_active == 0

    assert len(of_kind(log, RunCompleted)) + len(of_kind(log, RunCancelled)) == 1


async def test_error_during_cancellation_is_a_cancellation() -> None:
    """Cleaning up went wrong, but the run was to end, and is not tried again."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.rule(on("a"), retry=Retry(attempts=5))
    async def act() -> None:
        try:
            await gate.wait()
        finally:
            raise OSError("while cleaning up")

    async with opened(app, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        await engine.cancel(id_of(engine, "act"), "enough")
        await engine.drain()
        assert [run.error for run in engine.runs("cancelled")] == ["enough"]
