"""Steps that are done before they have to wait, and those that begin so and do not end so."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from headrace import App, Engine, Firing, MemoryLog, Retry, Run, StepCancelled, StepFailed, on
from headrace.engine import record as r
from headrace.engine.kernel import Kernel
from headrace.engine.restore import restore


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[r.StepRequested]:
    """The steps that were recorded together with their end."""
    seen: list[r.StepRequested] = []
    submit = Kernel.submit_step

    def watched(kernel: Kernel, asked: r.StepRequested, result: Any) -> r.RunCompleted | None:
        ended = submit(kernel, asked, result)
        if ended is not None:
            seen.append(asked)
        return ended

    monkeypatch.setattr(Kernel, "submit_step", watched)
    return seen


def flow_of(app: App, *tasks: Any) -> Any:
    """Declare a task that calls *tasks*, and returns what they gave or the error's type."""

    @app.task
    async def flow(run: Run) -> list[Any]:
        found: list[Any] = []
        for task in tasks:
            try:
                found.append(await run.call(task, 7))
            except (StepFailed, StepCancelled) as error:
                found.append([type(error).__name__, error.error])
        return found

    return flow


def decoded(log: MemoryLog) -> list[r.Record]:
    return [r.decode(raw) for _, batch in log.read() for raw in batch]


def same_when_folded(engine: Engine, app: App, log: MemoryLog) -> None:
    """Check that the log says all that the engine knows."""
    folded = restore(log, app.decider(), clock="system")
    assert folded.state.runs.dump() == engine.kernel.state.runs.dump()
    assert folded.sequence == engine.kernel.sequence


async def test_step_that_never_waits_is_in_the_log_as_any_other(
    at_once: list[r.StepRequested],
) -> None:
    """The same records, and a state that a fold of them makes again."""
    app, log = App("x"), MemoryLog()

    @app.task
    async def quick(n: int) -> int:
        return n + 1

    @app.task
    async def slow(n: int) -> int:
        await checkpoint()
        return n + 1

    flow = flow_of(app, quick, slow)
    async with app.open(log, snapshot_every=0) as engine:
        assert await engine.result(await engine.launch(flow)) == [8, 8]
        same_when_folded(engine, app, log)
    assert [asked.task for asked in at_once] == ["quick"]
    steps = [x for x in decoded(log) if isinstance(x, (r.StepRequested, r.RunCompleted))]
    kinds = [type(x).__name__ for x in steps]
    assert kinds == ["StepRequested", "RunCompleted"] * 2 + ["RunCompleted"]
    for asked, ended in (steps[:2], steps[2:4]):
        assert isinstance(ended, r.RunCompleted)
        assert isinstance(asked, r.StepRequested)
        assert bytes(ended.result or b"") == b"\x08"
        assert bytes(asked.args) == b"\x81\xa1n\x07"


async def test_step_that_waits_is_there_while_it_does(at_once: list[r.StepRequested]) -> None:
    """It is shown, and can be cancelled; its own scopes lie within that of its attempt."""
    app, waiting = App("x"), anyio.Event()

    @app.task
    async def wait(n: int) -> int:
        with anyio.move_on_after(3600):
            waiting.set()
            await anyio.sleep_forever()
        return n

    @app.task
    async def bounded(n: int) -> int:
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        return n

    flow = flow_of(app, wait, bounded)
    async with app.open(MemoryLog()) as engine:
        run = await engine.launch(flow)
        await waiting.wait()
        (child,) = [view for view in engine.runs("active") if view.task == "wait"]
        assert child.parent == run
        await engine.cancel(child.id, "too long")
        assert await engine.result(run) == [["StepCancelled", "too long"], 7]
    assert at_once == []


async def test_step_that_fails_at_once_is_tried_again(at_once: list[r.StepRequested]) -> None:
    """By its policy: the attempt is recorded as any that has failed."""
    app, tries = App("x"), []

    @app.task(retry=Retry(attempts=3, wait_first=0.001))
    async def flaky(n: int) -> int:
        tries.append(n)
        if len(tries) < 3:
            raise OSError("gone")
        return n

    @app.task
    async def broken(n: int) -> int:
        raise ValueError(f"no {n}")

    flow = flow_of(app, flaky, broken)
    async with app.open(MemoryLog()) as engine:
        found = await engine.result(await engine.launch(flow))
    assert found == [7, ["StepFailed", "ValueError: no 7"]]
    assert len(tries) == 3
    assert at_once == []


async def test_what_a_record_cannot_hold(at_once: list[r.StepRequested]) -> None:
    """A large result goes into a file of its own; what cannot be stored is the step's failure."""
    app = App("x")

    @app.task
    async def large(n: int) -> bytes:
        return bytes(100_000)

    @app.task
    async def odd(n: int) -> Any:
        return object()

    @app.task
    async def text(n: str) -> str:
        return n

    flow = flow_of(app, large, odd, text)
    async with app.open(MemoryLog()) as engine:
        first, second, third = await engine.result(await engine.launch(flow))
    assert first == bytes(100_000)
    assert second[0] == "StepFailed"
    assert "object" in second[1]
    assert third[0] == "StepFailed"
    assert third[1].startswith("TypeChanged")
    assert at_once == []


async def test_ends_of_steps_that_rules_wait_for(at_once: list[r.StepRequested]) -> None:
    """Where somebody wants to know of an end, each record is put by itself."""
    app, seen = App("x"), []

    @app.task
    async def quick(n: int) -> int:
        return n

    @app.rule(on("run.completed.quick"))
    async def note(firing: Firing[Any]) -> None:
        seen.append(firing.events[0].subject)

    flow, log = flow_of(app, quick), MemoryLog()
    async with app.open(log) as engine:
        await engine.result(await engine.launch(flow))
        await engine.drain()
        same_when_folded(engine, app, log)
    assert seen == ["run.completed.quick"]
    assert at_once == []


async def test_step_of_a_run_that_goes_on_is_not_executed_again() -> None:
    """A retry of the parent gets the recorded results."""
    app, executed = App("x"), []

    @app.task
    async def quick(n: int) -> int:
        executed.append(n)
        return n * 2

    @app.task(retry=Retry(attempts=2, wait_first=0.001))
    async def flow(run: Run) -> int:
        found = await run.call(quick, 21)
        if run.attempt == 1:
            raise OSError("once")
        return found

    async with app.open(MemoryLog()) as engine:
        assert await engine.result(await engine.launch(flow)) == 42
    assert executed == [21]


async def test_step_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Though it was over before it had a run."""
    app = App("x")

    @app.task
    async def busy(n: int) -> int:
        time.sleep(0.15)  # noqa: ASYNC251 (that is what it does)
        return n

    flow = flow_of(app, busy)
    async with app.open(MemoryLog()) as engine:
        run = await engine.launch(flow)
        assert await engine.result(run) == [7]
    (line,) = (line for line in caplog.text.splitlines() if "loop_blocked" in line)
    assert "task='busy'" in line
    assert "attempt=1" in line
    assert f"run={run}" not in line


async def awaits() -> int:
    await checkpoint()
    return 1


async def iterates() -> list[int]:
    return [number async for number in numbers()]


async def enters() -> int:
    async with anyio.create_task_group():
        pass
    return 1


async def may_await(number: int) -> int:
    return await awaits() if number else 0


async def numbers() -> AsyncIterator[int]:
    yield 1


async def nests() -> Any:
    async def inner() -> None:
        await checkpoint()

    return inner.__name__


async def raises() -> int:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("function", "never"),
    [
        (awaits, False),
        (iterates, False),
        (enters, False),
        (may_await, False),
        (nests, True),
        (raises, True),
    ],
)
def test_code_without_an_await_is_known_never_to_wait(function: Any, *, never: bool) -> None:
    """Whatever form that has: nothing else can let others go on, so nobody can cancel it."""
    app = App("t")
    app.task(function)
    assert app.tasks[function.__name__].never_waits is never


async def test_code_that_never_waits_fails_like_any_other(at_once: list[r.StepRequested]) -> None:
    """It has its attempts, and what it raised is in the log."""
    app, log = App("t"), MemoryLog()
    app.task(retry=Retry(attempts=2, wait_first=0.001))(raises)

    @app.task
    async def flow(run: Run) -> str:
        try:
            await run.call(raises)
        except StepFailed as failed:
            return failed.error
        return ""

    async with app.open(log) as engine:
        found = await engine.result(await engine.launch(flow))
        same_when_folded(engine, app, log)
    assert found == "ValueError: no"
    assert at_once == []
    assert [type(record) for record in decoded(log)].count(r.AttemptFailed) == 1
