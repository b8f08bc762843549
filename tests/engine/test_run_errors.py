"""What a run cannot do: one clear error that names it, a dead letter, and all else goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from msgspec import Raw
from tests.engine.stand import StepClock, check_live, of_kind, opened, quiet

from headrace import (
    App,
    ConcurrentSteps,
    EventRefused,
    MemoryLog,
    Retry,
    Run,
    RunEnded,
    RunNotFound,
    on,
)
from headrace.engine.record import AttemptFailed, CancelRequested, RunCancelled, RunCompleted

OFTEN = Retry(attempts=5, wait_first=1, jitter=0)


def with_bystander(app: App, went_on: list[str]) -> App:
    """Add a rule whose run nobody disturbs."""

    @app.rule(on("other"))
    async def other(run: Run) -> None:
        await run.sleep(3)
        went_on.append("other")

    return app


@pytest.mark.parametrize("later", ["after", "in another run"])
async def test_step_of_a_run_that_has_ended_is_refused(later: str) -> None:
    """A run that leaked out of its code records nothing under a wrong name."""
    app, kept, errors = App("t"), list[Run](), list[str]()

    @app.task
    async def one() -> int:
        return 1

    async def ask() -> None:
        calls: list[Callable[[Run], Awaitable[Any]]] = [
            lambda run: run.call(one),
            lambda run: run.sleep(1),
            lambda run: run.emit("x"),
        ]
        for call in calls:
            with pytest.raises((RunEnded, ConcurrentSteps)) as caught:
                await call(kept[0])
            errors.append(str(caught.value))
        with pytest.raises((RunEnded, ConcurrentSteps)):
            kept[0].spawn(one)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        kept.append(run)
        await run.call(one)

    @app.rule(on("b"))
    async def leak() -> None:
        await ask()

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()
        before = len(of_kind(log, RunCompleted))
        if later == "after":
            await ask()
        else:
            await engine.emit("b")
            await engine.drain()
            assert len(of_kind(log, RunCompleted)) == before + 1

    assert len(errors) == 3
    assert all(f"<Run {kept[0].id} of act, attempt 1>, call 2" in text for text in errors)


class Odd(BaseException):
    """No `Exception`."""


def _group() -> BaseException:
    return ExceptionGroup("several", [ValueError("one"), OSError("two")])


def _odd_group() -> BaseException:
    return BaseExceptionGroup("several", [Odd("one"), OSError("two")])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Odd("odd"), "Odd: odd"),
        (lambda: SystemExit(3), "SystemExit: 3"),
        (_group, "ExceptionGroup: several (2 sub-exceptions)"),
        (_odd_group, "BaseExceptionGroup: several (2 sub-exceptions)"),
    ],
)
@pytest.mark.parametrize("is_sync", [True, False])
async def test_any_exception_makes_a_dead_letter(
    make: Callable[[], BaseException], said: str, *, is_sync: bool
) -> None:
    """Whatever user code raises ends its run, and nothing else."""
    app, went_on, clock = App("t"), list[str](), StepClock()
    with_bystander(app, went_on)

    if is_sync:

        @app.rule(on("a"), name="act")
        def act() -> None:
            raise make()

    else:

        @app.rule(on("a"), name="act")
        async def act_async() -> None:
            raise make()

    async with opened(app, None, clock) as engine:
        await engine.emit("other")
        await engine.emit("a")
        await clock.step(engine, 1)
        while not engine.runs("dead"):  # a thread executes it
            await quiet(engine)
        await clock.step(engine, 5)
        await engine.drain()
        (dead,) = engine.runs("dead")

    assert dead.error == said
    assert dead.task == "act"
    assert went_on == ["other"]


RAWS: dict[str, Any] = {
    "json": Raw(b'{"celsius": 93.5}'),
    "nothing": [Raw(b"")],
    "cut off": {"part": Raw(b"\x92\x01")},
    "no value": Raw(b"\xc1"),
}


@pytest.mark.parametrize("kind", RAWS)
@pytest.mark.parametrize("where", ["argument", "result", "step", "event", "launch", "signal"])
async def test_raw_data_that_is_no_msgpack_is_refused(where: str, kind: str) -> None:
    """In a record it would be the end of the log: nobody could read what surrounds it."""
    app, log, went_on = App("t"), MemoryLog(), list[str]()
    with_bystander(app, went_on)

    @app.task
    async def passed(given: Any = None) -> Any:
        return RAWS[kind] if given is None else None

    @app.rule(on("a"))
    async def act(run: Run) -> Any:
        if where == "argument":
            await run.call(passed, RAWS[kind])
        elif where == "step":
            await run.call(passed)
        elif where == "event":
            await run.emit("b", RAWS[kind])
        elif where == "signal":
            await run.receive("go")
        return RAWS[kind]

    clock = StepClock()
    async with opened(app, log, clock) as engine:
        await engine.emit("other")
        with pytest.raises(EventRefused, match="as msgpack in each Raw, found"):
            await engine.emit("c", RAWS[kind])
        if where == "launch":
            with pytest.raises(EventRefused, match="as msgpack in each Raw, found"):
                await engine.launch(passed, RAWS[kind])
        first = await engine.emit("a")
        await quiet(engine)
        if where == "signal":
            with pytest.raises(EventRefused, match="each Raw"):
                await engine.signal(first + 1, "go", RAWS[kind])
            await engine.signal(first + 1, "go", 1)
            await quiet(engine)
        (dead,) = engine.runs("dead")
        assert "each Raw, found " in str(dead.error)
        if where in {"argument", "event"}:
            assert f"run {dead.id}, call 1: " in str(dead.error)
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 5)
        await engine.drain()
        assert went_on == ["other"]
        await check_live(engine)


async def test_cancelling_twice_is_cancelling_once() -> None:
    """Two people may press the button; the first reason is kept."""
    app, clock, log, cleaned = App("t"), StepClock(), MemoryLog(), list[str]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        try:
            await run.sleep(1000)
        finally:
            cleaned.append("once")

    async with opened(app, log, clock) as engine:
        first = await engine.emit("a")
        await quiet(engine)
        async with anyio.create_task_group() as both:
            both.start_soon(engine.cancel, first + 1, "one")
            both.start_soon(engine.cancel, first + 1, "two")
        await engine.drain()
        with pytest.raises(RunNotFound, match=f"run {first + 1} is not open"):
            await engine.cancel(first + 1, "three")

    asked = [record.reason for record in of_kind(log, CancelRequested)]
    assert sorted(asked) == ["one", "two"]
    assert [record.reason for record in of_kind(log, RunCancelled)] == asked[:1]
    assert cleaned == ["once"]


@pytest.mark.parametrize("how", ["result", "handle", "own result"])
async def test_run_that_waits_for_its_parent_is_told(how: str) -> None:
    """It would wait for ever, and nobody would know why."""
    app, clock, kept = App("t"), StepClock(), dict[str, Any]()

    @app.task
    async def child() -> None:
        engine = kept["engine"]
        if how == "handle":
            await kept["handle"]
        else:
            await engine.result(kept["parent"] if how == "result" else kept["own"])

    @app.task
    async def parent(run: Run) -> None:
        kept["parent"] = run.id
        handle = run.spawn(child)
        kept["own"] = handle.run_id
        await handle

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        kept["handle"] = run.spawn(parent)
        await kept["handle"]

    async with opened(app, None, clock) as engine:
        kept["engine"] = engine
        await engine.emit("a")
        await engine.drain()
        (dead,) = engine.runs("dead")

    assert "WaitsForItself: run " in str(dead.error)
    assert "of 'child', after call 0: expected to wait for another run" in str(dead.error)
    waited = "itself" if how == "own result" else f"run {kept['parent']} of 'parent'"
    assert f"waits for {waited}" in str(dead.error)


# ---------------------------------------------------------------- what the log has of before


def _of_int(app: App) -> Any:
    @app.task(retry=OFTEN)
    async def work(run: Run, x: int) -> Any:
        await run.sleep(5)
        return x

    return work


def _of_int_with_default(app: App) -> Any:
    @app.task(retry=OFTEN)
    async def work(run: Run, x: int, y: int = 2) -> Any:
        await run.sleep(5)
        return [x, y]

    return work


def _of_list(app: App) -> Any:
    @app.task(retry=OFTEN)
    async def work(run: Run, x: list[int]) -> Any:
        return x

    return work


def _of_two(app: App) -> Any:
    @app.task(retry=OFTEN)
    async def work(run: Run, x: int, y: int) -> Any:
        return x + y

    return work


def _of_none(app: App) -> Any:
    @app.task(retry=OFTEN)
    async def work(run: Run) -> Any:
        return 0

    return work


def launching(declare: Callable[[App], Any], went_on: list[str]) -> App:
    """Return an app whose rule launches the task that *declare* adds."""
    app = with_bystander(App("t"), went_on)
    work = declare(app)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.launch(work, 1)

    return app


@pytest.mark.parametrize(
    ("changed", "said"),
    [(_of_list, "array"), (_of_two, "`y`"), (_of_none, "`x`")],
)
async def test_changed_signature_is_told_and_not_retried(
    changed: Callable[[App], Any], said: str
) -> None:
    """Arguments of before are not bent to fit: not dropped, and none made up."""
    went_on, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(launching(_of_int, went_on), log, clock) as engine:
        await engine.emit("a")
        await engine.emit("other")
        await quiet(engine)
    async with opened(launching(changed, went_on), log, clock) as engine:
        await clock.step(engine, 30)
        await engine.drain()
        (dead,) = engine.runs("dead")

    assert dead.task == "work"
    text = f"TypeChanged: run {dead.id}: expected stored arguments that fit 'work'"
    assert str(dead.error).startswith(text)
    assert said in str(dead.error)
    assert of_kind(log, AttemptFailed) == []
    assert went_on == ["other"]


async def test_new_argument_with_a_default_is_no_change() -> None:
    """A signature may grow."""
    clock, log = StepClock(), MemoryLog()
    async with opened(launching(_of_int, []), log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
    async with opened(launching(_of_int_with_default, []), log, clock) as engine:
        await clock.step(engine, 30)
        await engine.drain()

    results = [bytes(record.result) for record in of_kind(log, RunCompleted)]
    assert b"\x92\x01\x02" in results


async def test_result_that_no_longer_fits_is_told() -> None:
    """The error names the run and the call, and what was found."""
    log, clock, went_on = MemoryLog(), StepClock(), list[str]()

    def make(kind: Any) -> App:
        app = with_bystander(App("t"), went_on)

        async def give() -> Any:
            return "text"

        give.__annotations__["return"] = kind
        app.task(give)

        @app.rule(on("a"), retry=OFTEN)
        async def act(run: Run) -> None:
            await run.sleep(0)
            await run.call(give)
            await run.sleep(5)

        return app

    async with opened(make(str), log, clock) as engine:
        await engine.emit("a")
        await engine.emit("other")
        await clock.step(engine, 1)
    async with opened(make(int), log, clock) as engine:
        await clock.step(engine, 30)
        await engine.drain()
        (dead,) = engine.runs("dead")

    text = f"TypeChanged: run {dead.id}, call 2: expected the stored result of 'give' (run "
    assert str(dead.error).startswith(text)
    assert "`int`" in str(dead.error)
    assert of_kind(log, AttemptFailed) == []
    assert went_on == ["other"]


async def test_a_call_that_does_not_fit_names_the_run_and_the_call() -> None:
    """An argument too many is an error of the second call, and not of the task that is called."""
    app, log = App("x"), MemoryLog()

    @app.task
    async def one(n: int) -> int:
        return n

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(one, 1)
        await run.call(one, 1, 2)  # type: ignore[call-overload]

    async with opened(app, log, StepClock()) as engine:
        await engine.emit("a")
        await quiet(engine)
        (dead,) = engine.runs("dead")
    assert str(dead.error) == (
        f"TypeError: run {dead.id}, call 2: task 'one': too many positional arguments"
    )
