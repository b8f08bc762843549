"""What the code of a run may ask for, and what it gets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.stand import Gate, GatedLog, StepClock, of_kind, opened, quiet, until

from headrace import (
    App,
    ConcurrentSteps,
    EventRefused,
    Firing,
    MemoryLog,
    Retry,
    Run,
    StepFailed,
    on,
)
from headrace.engine.record import EventStored, RunCompleted, StepRequested


class Point(msgspec.Struct):
    x: int
    y: int = 0


@dataclass
class Box:
    points: list[Point]


async def test_call_returns_the_result_of_the_step() -> None:
    """A chain reads like ordinary code, over async and sync functions."""
    app, got = App("t"), list[Any]()

    @app.task
    async def double(x: int) -> int:
        return 2 * x

    @app.task
    def negate(x: int) -> int:
        return -x

    @app.rule(on("a", int))
    async def act(run: Run, firing: Firing[int]) -> None:
        first = await run.call(double, firing.events[0].data)
        got.append(await run.call(negate, x=first))

    async with opened(app) as engine:
        await engine.emit("a", 21)
        await engine.drain()

    assert got == [-42]


async def test_result_is_durable_before_the_caller_goes_on() -> None:
    """What a step has done is never done again because its caller was faster than the disk."""
    app, log, went_on = App("t"), GatedLog(), list[int]()

    @app.task
    async def step() -> None:
        log.hold = True

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(step)
        went_on.append(1)

    async with opened(app, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert went_on == []
        log.release()
        await engine.drain()

    assert went_on == [1]


@pytest.mark.parametrize("how", ["spawn", "map", "second attempt"])
async def test_end_of_a_child_is_durable_before_its_parent_knows(how: str) -> None:
    """Also of one that somebody else executes."""
    app, clock, log, went_on = App("t"), StepClock(), GatedLog(), list[int]()

    @app.task(retry=Retry(attempts=2, wait_first=1, jitter=0))
    async def step(run: Run, n: int) -> None:
        if how == "second attempt" and run.attempt == 1:
            raise OSError
        log.hold = True

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        if how == "spawn":
            await run.spawn(step, 1)
        elif how == "map":
            await run.map(step, [1])
        else:
            await run.call(step, 1)
        went_on.append(1)

    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 5)
        assert log.hold
        assert went_on == []
        log.release()
        await engine.drain()

    assert went_on == [1]


async def test_values_have_the_types_of_the_annotations() -> None:
    """Live as after a restart: a struct stays a struct, in arguments and results."""
    app, got = App("t"), list[Any]()

    @app.task
    async def mirror(point: Point, box: Box, names: set[str]) -> Point:
        got.append((point, box, names))
        return Point(point.y, point.x)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        got.append(await run.call(mirror, Point(1, 2), Box([Point(3)]), {"a", "b"}))

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    assert got == [(Point(1, 2), Box([Point(3)]), {"a", "b"}), Point(2, 1)]


async def test_spawned_children_run_beside_each_other() -> None:
    """Three that wait for each other all arrive."""
    app, gate, got = App("t"), Gate(), list[Any]()

    @app.task
    async def child(n: int) -> int:
        if gate.arrived == 2:
            gate.open()
        await gate.wait()
        return n * n

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        handles = [run.spawn(child, n) for n in range(3)]
        got.extend([await handle for handle in handles])
        assert [handle.status for handle in handles] == ["done"] * 3
        got.append(await handles[1].result())

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    assert got == [0, 1, 4, 1]


async def test_parent_waits_for_children_that_nobody_awaited() -> None:
    """Structured concurrency: when a run has completed, so has all that it started."""
    app, gate = App("t"), Gate()

    @app.task
    async def child() -> None:
        await gate.wait()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        _ = run.spawn(child)

    async with opened(app) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert {run.task: run.status for run in engine.runs()} == {
            "act": "active",
            "child": "active",
        }
        gate.open()
        await engine.drain()

        ended = [run.task for run in reversed(engine.kernel.state.runs.ended)]
        assert ended == ["act", "child"]


async def test_failure_of_a_child_that_nobody_awaited_fails_the_parent() -> None:
    """Nothing fails unseen."""
    app = App("t")

    @app.task
    async def child() -> None:
        raise ValueError("the child")

    @app.rule(on("a"))
    async def act(run: Run) -> str:
        _ = run.spawn(child)
        return "fine"

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        (top,) = engine.runs("dead")

        assert top.task == "act"
        assert "ValueError: the child" in str(top.error)


@pytest.mark.parametrize("limit", [None, 1, 2, 7])
async def test_map_keeps_the_order_and_the_limit(limit: int | None) -> None:
    """Fan-out and fan-in: never more at once than asked for, results as the items came."""
    app, got, now, most = App("t"), list[Any](), 0, 0

    @app.task
    async def child(n: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range((7 * n) % 5):
            await anyio.lowlevel.checkpoint()
        now -= 1
        return n * n

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        got.extend(await run.map(child, range(20), max_concurrency=limit))
        got.append(await run.map(child, []))

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    assert got == [n * n for n in range(20)] + [[]]
    assert most <= (limit or 20)
    assert most > 1 or limit == 1


async def test_first_failure_of_a_map_cancels_the_others() -> None:
    """The failure is raised once all of them have ended, and what had not begun never does."""
    app, gate, began, ended = App("t"), Gate(), list[int](), list[int]()

    @app.task
    async def child(n: int) -> None:
        began.append(n)
        try:
            if n == 2:
                raise ValueError("number two")
            await gate.wait()
        finally:
            ended.append(n)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        with pytest.raises(StepFailed, match="number two"):
            await run.map(child, range(10), max_concurrency=3)
        assert sorted(ended) == [0, 1, 2]

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        assert sorted(began) == [0, 1, 2]
        (top,) = [run for run in engine.runs() if run.task == "act"]
        assert top.status == "completed", top.error


@pytest.mark.parametrize("limit", [0, -1])
async def test_map_without_a_place_is_refused(limit: int) -> None:
    """It would never end."""
    app = App("t")

    @app.task
    async def child(n: int) -> None: ...

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.map(child, [1], max_concurrency=limit)

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

        assert "max_concurrency" in str(engine.runs("dead")[0].error)


async def test_fan_out_may_go_to_any_depth() -> None:
    """Tasks start tasks start tasks, as the data asks for it at runtime."""
    app, got = App("t"), list[int]()

    @app.task
    async def count(run: Run, depth: int) -> int:
        if depth == 0:
            return 1
        left, right = run.spawn(count, depth - 1), run.spawn(count, depth - 1)
        return 1 + await left + await right

    @app.task
    async def chain(run: Run, depth: int) -> int:
        return 0 if depth == 0 else 1 + await run.call(chain, depth - 1)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        got.append(await run.call(count, 7))
        got.append(await run.call(chain, 40))

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    assert got == [2**8 - 1, 40]


async def test_emit_of_a_run_triggers_rules_and_knows_its_origin() -> None:
    """Chains over events can be followed back to the event that began them."""
    app, log, seen = App("t"), MemoryLog(), list[Any]()

    @app.rule(on("a"))
    async def first(run: Run) -> None:
        seen.append(await run.emit("b.c", {"n": 1}))

    @app.rule(on("b.*"))
    async def second(run: Run, firing: Firing[Any]) -> None:
        seen.append((firing.events[0].data, firing.sequences[0], run.trace, run.cause))

    async with opened(app, log) as engine:
        origin = await engine.emit("a")
        await engine.drain()

    sequence = seen[0]
    assert seen[1] == ({"n": 1}, sequence, origin, sequence)
    (stored,) = [event for event in of_kind(log, EventStored) if event.subject == "b.c"]
    assert stored.trace == origin
    assert stored.run > origin


@pytest.mark.parametrize(
    ("subject", "data"), [("run.x", 1), ("a..b", 1), ("*", 1), ("c", object())]
)
async def test_emit_of_a_run_refuses_what_cannot_be_stored(subject: str, data: object) -> None:
    """A run may catch that and go on: nothing was stored, and no place was taken."""
    app, log = App("t"), MemoryLog()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        with pytest.raises((ValueError, EventRefused)):
            await run.emit(subject, data)
        await run.emit("d")

    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()
        (top,) = engine.runs()

    assert top.status == "completed", top.error
    assert [event.subject for event in of_kind(log, EventStored)] == ["a", "d"]


async def test_sleep_takes_log_time() -> None:
    """A night passes in no time, and the run sees it."""
    app, clock, woke = App("t"), StepClock(), list[float]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        began = run.now()
        await run.sleep(0)
        await run.sleep(3600.5)
        await run.sleep(timedelta(hours=1))
        woke.append(run.now() - began)

    async with opened(app, clock=clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 7200.4)
        assert woke == []
        await clock.step(engine, 0.2)

    assert woke == [7200.5]


@pytest.mark.parametrize("seconds", [-1, 1e10, float("nan"), float("inf")])
async def test_sleep_that_never_ends_is_refused(seconds: float) -> None:
    """Nonsense is an error in the run, not a timer that nobody understands."""
    app = App("t")

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.sleep(seconds)

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

        assert "sleep" in str(engine.runs("dead")[0].error)


async def test_launched_run_outlives_its_parent() -> None:
    """An independent run is nobody's child."""
    app, gate, ids = App("t"), Gate(), list[int]()

    @app.task
    async def late(x: int) -> int:
        await gate.wait()
        return x

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        ids.append(await run.launch(late, 5))
        raise ValueError("the parent fails")

    async with opened(app) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert engine.runs("dead")[0].task == "act"
        (left,) = engine.runs("active")
        assert (left.id, left.task, left.parent) == (ids[0], "late", 0)
        gate.open()
        await engine.drain()

        assert engine.runs("completed")[0].id == ids[0]


async def test_launched_run_starts_only_once_its_request_is_durable() -> None:
    """Nothing but the log holds it, so the log comes first."""
    app, log, began = App("t"), GatedLog(), list[int]()

    @app.task
    async def late() -> None:
        began.append(1)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        log.hold = True
        await run.launch(late)

    async with opened(app, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert began == []
        log.release()
        await engine.drain()

    assert began == [1]


async def test_steps_from_another_coroutine_are_refused(anyio_backend_name: str) -> None:
    """The order of calls must be the same again, and between coroutines it is not."""
    app, errors, started = App("t"), list[BaseException](), list[int]()

    @app.task
    async def child() -> None:
        started.append(1)

    async def ask(call: Any) -> None:
        try:
            await call()
        except ConcurrentSteps as error:
            errors.append(error)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        async def spawn() -> None:
            _ = run.spawn(child)

        async with anyio.create_task_group() as group:
            group.start_soon(ask, lambda: run.call(child))
            group.start_soon(ask, spawn)
            group.start_soon(ask, lambda: run.map(child, []))  # type: ignore[arg-type]
            group.start_soon(ask, lambda: run.emit("x"))
            group.start_soon(ask, lambda: run.sleep(1))
            group.start_soon(ask, lambda: run.launch(child))

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()

    assert len(errors) == 6
    assert "spawn" in str(errors[0])
    assert started == []
    assert of_kind(log, StepRequested) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_gather_over_calls_is_refused() -> None:
    """What one would write first says what to write instead."""
    app = App("t")

    @app.task
    async def child() -> None: ...

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await asyncio.gather(run.call(child), run.call(child))

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        (top,) = engine.runs("dead")

        assert "ConcurrentSteps" in str(top.error)


async def test_handles_may_be_awaited_anywhere() -> None:
    """Waiting is no step: only asking is."""
    app, got = App("t"), list[int]()

    @app.task
    async def child(n: int) -> int:
        return n

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        handles = [run.spawn(child, n) for n in range(3)]

        async def wait(n: int) -> None:
            got.append(await handles[n])

        async with anyio.create_task_group() as group:
            for n in range(3):
                group.start_soon(wait, n)

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    assert sorted(got) == [0, 1, 2]


async def test_run_in_a_thread_cannot_ask_for_steps() -> None:
    """A sync task gets to know its run, and a clear error if it asks for more."""
    app, seen = App("t"), list[Any]()

    @app.task
    async def child() -> None: ...

    @app.rule(on("a"), name="sync")
    def act(run: Run) -> None:
        seen.append((run.id, run.attempt, run.task, run.random()))
        _ = run.spawn(child)

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        (top,) = engine.runs("dead")

        assert "ConcurrentSteps" in str(top.error)
        assert seen[0][:3] == (top.id, 1, "sync")


async def test_failed_step_can_be_caught_and_gone_past() -> None:
    """A run that knows what to do about a failure goes on."""
    app, got = App("t"), list[Any]()

    @app.task
    async def bad(x: int) -> int:
        raise KeyError(x)

    @app.task
    async def good() -> str:
        return "plan B"

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        try:
            await run.call(bad, 3)
        except StepFailed as error:
            got.append((error.task, error.error))
            got.append(await run.call(good))

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

        assert got == [("bad", "KeyError: 3"), "plan B"]
        assert {run.task: run.status for run in engine.runs()} == {
            "bad": "failed",
            "good": "completed",
            "act": "completed",
        }


async def test_undeclared_task_and_wrong_arguments_are_errors_at_the_call() -> None:
    """The traceback of a dead letter shows the line that is wrong."""
    app, errors = App("t"), list[str]()

    async def stranger() -> None: ...

    @app.task
    async def child(x: int) -> None: ...

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        for call in (
            lambda: run.call(stranger),
            lambda: run.call(child),  # type: ignore[call-overload]
            lambda: run.call(child, 1, 2),  # type: ignore[call-overload]
            lambda: run.call(child, y=2),  # type: ignore[call-overload]
            lambda: run.call(child, object()),  # type: ignore[call-overload]
        ):
            try:
                await call()
            except (TypeError, EventRefused) as error:
                errors.append(str(error))

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()
        assert engine.runs()[0].status == "completed", engine.runs()[0].error

    assert len(errors) == 5
    assert "stranger" in errors[0]
    assert all("child" in text for text in errors[1:])
    assert of_kind(log, StepRequested) == []


async def test_result_that_cannot_be_stored_fails_the_step() -> None:
    """A result is recorded before anyone sees it; what cannot be recorded is no result."""
    app, log = App("t"), MemoryLog()

    @app.task
    async def child() -> Any:
        return object()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        with pytest.raises(StepFailed, match="cannot be stored"):
            await run.call(child)

    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()
        (top,) = engine.runs("completed")

    assert top.task == "act"
    assert len(of_kind(log, RunCompleted)) == 1


async def test_sync_children_run_in_threads_side_by_side() -> None:
    """Blocking code blocks nobody: two that wait for each other both end."""
    import threading

    app, barrier, got = App("t"), threading.Barrier(2, timeout=10), list[int]()

    @app.task
    def child(n: int) -> int:
        barrier.wait()
        return n

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        got.extend(await run.map(child, [1, 2]))

    async with opened(app) as engine:
        await engine.emit("a")
        await until(lambda: got)

    assert got == [1, 2]
