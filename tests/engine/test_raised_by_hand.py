"""Code that raises by itself what asyncio, a generator or Ctrl-C would: its run fails, no more."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import tenacity
from tests.engine.stand import StepClock, check_live, opened, quiet

from headrace import App, MemoryLog, Run, on


def _group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("several", [ValueError("one"), *errors])


ERRORS: dict[str, tuple[Callable[[], BaseException], str]] = {
    "generator": (lambda: GeneratorExit("mine"), "GeneratorExit: mine"),
    "cancelled": (lambda: asyncio.CancelledError("mine"), "CancelledError: mine"),
    "group": (
        lambda: _group(GeneratorExit()),
        "BaseExceptionGroup: several (2 sub-exceptions)",
    ),
    "cancelled group": (
        lambda: _group(asyncio.CancelledError()),
        "BaseExceptionGroup: several (2 sub-exceptions)",
    ),
}
IN_THREAD: dict[str, tuple[Callable[[], BaseException], str]] = {
    "ctrl-c": (KeyboardInterrupt, "KeyboardInterrupt"),
    "ctrl-c group": (
        lambda: _group(KeyboardInterrupt()),
        "BaseExceptionGroup: several (2 sub-exceptions)",
    ),
}


def app_that_raises(place: str, make: Callable[[], BaseException], *, threaded: bool) -> App:
    """Return an app with a run that fails of what *make* makes, at *place* in it."""
    app = App("t")

    async def raises_here() -> None:
        raise make()

    async def raises_later() -> None:
        await anyio.lowlevel.checkpoint()
        raise make()

    def raises_there() -> None:
        raise make()

    code: Any = raises_there if threaded else raises_later if place == "later" else raises_here
    if place == "body":
        app.rule(on("a"), name="act")(code)
        return app
    step = app.task(code)

    @app.task
    async def fine() -> int:
        return 1

    @app.rule(on("a"), name="act")
    async def act(run: Run) -> None:
        await run.call(fine)
        if place in ("step", "later"):
            await run.call(step)
        elif place == "spawned":
            await run.spawn(step)
        else:
            await run.compensate(step)
            raise LookupError("to be undone")

    return app


@pytest.mark.parametrize("place", ["body", "step", "later", "spawned", "undo"])
@pytest.mark.parametrize(
    ("kind", "threaded"),
    [(kind, in_thread) for kind in ERRORS for in_thread in (False, True)]
    + [(kind, True) for kind in IN_THREAD],
)
async def test_it_is_the_failure_of_that_run(kind: str, place: str, *, threaded: bool) -> None:
    """Nobody has cancelled it, and Ctrl-C hits no thread: one error, and all else goes on."""
    make, said = {**ERRORS, **IN_THREAD}[kind]
    app, log, went_on = app_that_raises(place, make, threaded=threaded), MemoryLog(), list[int]()

    @app.rule(on("other"))
    async def other(run: Run) -> None:
        await run.sleep(5)
        went_on.append(run.id)

    clock = StepClock()
    async with opened(app, log, clock) as engine:
        await engine.emit("other")
        await engine.emit("a")
        while not engine.runs("dead"):  # a thread may execute it
            await quiet(engine)
        await clock.step(engine, 10)
        await engine.drain()
        (dead,) = engine.runs("dead")
        assert dead.task == "act"
        assert dead.error is not None
        assert dead.error.endswith(said)
        assert len(went_on) == 1
        await check_live(engine)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Workers._work.*")  # asyncio drops what has not begun
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("place", ["body", "step", "undo"])
def test_a_run_that_interrupts_each_start_is_given_up(
    backend: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once may be Ctrl-C, which has hit it; the third time, while it is watched, it is the run."""
    app, log = app_that_raises(place, KeyboardInterrupt, threaded=False), MemoryLog()

    @app.rule(on("other"))
    async def other() -> None:
        await anyio.lowlevel.checkpoint()

    async def live(*subjects: str) -> list[str | None]:
        async with opened(app, log) as engine:
            for subject in subjects:
                await engine.emit(subject)
            await engine.drain()
            assert engine.state().runs_ended.get("completed", 0) > 0
            return [view.error for view in engine.runs("dead")]

    with caplog.at_level(logging.CRITICAL, "asyncio"):
        for number in range(3):
            with pytest.raises(KeyboardInterrupt):
                anyio.run(live, *(["a", "other"] if not number else []), backend=backend)
        gc.collect()
    (error,) = anyio.run(live, backend=backend)
    assert error is not None
    assert "ProcessDied: the process died 3 times while this run executed" in error


# ---------------------------------------------------------------- errors that are code themselves


class Exits(Exception):
    """An exception whose text ends the program."""

    def __str__(self) -> str:
        raise SystemExit(4)


class Interrupts(Exception):
    """An exception whose text is Ctrl-C."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


def without(name: str) -> type[Exception]:
    """An exception that raises another one if it is asked for *name*."""
    return type("Odd", (Exception,), {name: property(lambda _: 1 // 0)})


ANYTHING: Any = object()
TOLD: dict[str, tuple[Callable[[], BaseException], str]] = {
    "exits": (Exits, "Exits: (its text cannot be had)"),
    "interrupts": (Interrupts, "Interrupts: (its text cannot be had)"),
    "kindless": (
        without("__class__"),
        "Untold: an exception that cannot be looked at: ZeroDivisionError: ",
    ),
    # A traceback looks at parts of it that may be of any type.
    "syntax": (lambda: SyntaxError("odd", ("f", 1, ANYTHING, ANYTHING)), "SyntaxError: odd"),
}


@pytest.mark.parametrize("place", ["body", "step", "undo"])
@pytest.mark.parametrize("kind", TOLD)
async def test_an_error_that_cannot_be_told_is_a_failure(kind: str, place: str) -> None:
    """What it says of itself is user code, too."""
    make, said = TOLD[kind]
    app = app_that_raises(place, make, threaded=False)
    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        (dead,) = engine.runs("dead")
        assert said in str(dead.error)
        await check_live(engine)


async def test_an_error_without_a_cause_that_can_be_had_is_a_failure() -> None:
    """As is a policy that ends the program when it is asked."""
    app = App("t")

    def on_any(_: Any) -> bool:
        raise SystemExit(5)

    @app.rule(on("a"))
    async def causeless() -> None:
        raise without("__cause__")

    @app.rule(on("a"), retry=tenacity.Retrying(retry=on_any))
    async def tried() -> None:
        raise ValueError("once")

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        errors = {view.task: str(view.error) for view in engine.runs("dead")}
    assert "Untold: " in errors["causeless"]
    assert errors["tried"].startswith("ValueError: once (and its retry policy raised SystemExit: 5")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("before", "CancelledError"),
        ("between", "StepLeft"),
        ("at the end", None),
        ("without an await", None),
        ("step", "StepFailed"),
    ],
)
async def test_code_that_cancels_its_own_task_ends_by_that_and_nothing_else(
    place: str, said: str | None
) -> None:
    """Its run fails if it has anything to await after it; the worker, and other runs, go on."""
    app, went_on = App("t"), list[str]()

    def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("mine")

    @app.task(name="step")
    async def step() -> None:
        await anyio.lowlevel.checkpoint()
        cancel()
        await anyio.lowlevel.checkpoint()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        if place == "step":
            await run.call(step)
        if place == "before":
            cancel()
        await anyio.lowlevel.checkpoint()
        cancel()
        if place == "between":
            await run.sleep(1)

    @app.rule(on("a"))
    async def straight() -> None:
        if place == "without an await":
            cancel()

    @app.rule(on("b"))
    async def other(run: Run) -> None:
        await anyio.lowlevel.checkpoint()
        await run.sleep(1)
        went_on.append("other")

    clock = StepClock()
    async with opened(app, clock=clock) as engine:
        await engine.emit("b")
        await engine.emit_many([("a", None), ("b", None)])
        await clock.step(engine, 5)
        await engine.emit("b")
        await clock.step(engine, 5)
        await engine.drain()
        dead = [(run.task, str(run.error).split(":")[0]) for run in engine.runs("dead")]
        assert dead == ([] if said is None else [("act", said)])
        assert went_on == ["other"] * 3
        await check_live(engine)
