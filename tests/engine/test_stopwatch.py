"""Code that keeps the event loop from all else is found, and named."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import opened

import headrace.engine.runner as runner_module
from headrace import App, Run, on
from headrace.engine.stopwatch import LIMIT_NS, Stopwatch, Watched


class HandClock:
    """A clock that code moves."""

    def __init__(self) -> None:
        """Stand at 0."""
        self.now_ns = 0

    def __call__(self) -> int:
        """Return the time."""
        return self.now_ns

    def pass_ms(self, ms: int) -> None:
        """Let time pass."""
        self.now_ns += ms * 1_000_000


def drive(awaitable: Any) -> Any:
    """Await without a loop: answer each of its questions with its number."""
    steps = awaitable.__await__()
    number = 0
    try:
        next(steps)
        while True:
            number += 1
            steps.send(number)
    except StopIteration as stop:
        return stop.value


class Ask:
    """An await that takes a turn of the loop, and gives its answer."""

    def __await__(self) -> Generator[None, int, int]:
        """Ask."""
        return (yield)


@pytest.mark.parametrize(("steps_ms", "told_ms"), [([99, 100], []), ([101, 5, 250], [101, 250])])
def test_only_steps_over_the_limit_are_told(steps_ms: list[int], told_ms: list[int]) -> None:
    """What a task takes in all is its own business."""
    clock, told = HandClock(), list[int]()

    async def work() -> list[int]:
        answers = []
        for ms in steps_ms:
            clock.pass_ms(ms)
            answers.append(await Ask())
        return answers

    result = drive(Watched(Stopwatch(clock), work(), told.append))

    assert result == [*range(1, len(steps_ms) + 1)]
    assert [ns // 1_000_000 for ns in told] == told_ms


def test_the_innermost_is_blamed_and_no_other() -> None:
    """A caller's step contains that of the task it calls; its own part counts apart."""
    clock, told = HandClock(), list[tuple[str, int]]()
    stopwatch = Stopwatch(clock)

    def watched(name: str, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return Watched(stopwatch, coroutine, lambda ns: told.append((name, ns // 1_000_000)))

    async def inner() -> None:
        clock.pass_ms(300)

    async def outer(own_ms: int) -> None:
        clock.pass_ms(own_ms)
        await watched("inner", inner())

    drive(watched("outer", outer(50)))
    assert told == [("inner", 300)]
    drive(watched("outer", outer(150)))
    assert told[1:] == [("inner", 300), ("outer", 150)]


def test_nobody_is_blamed_for_the_telling() -> None:
    """The first line of all may load what writes lines."""
    clock, told = HandClock(), list[str]()
    stopwatch = Stopwatch(clock)

    def tell(name: str) -> Any:
        def telling(_: int) -> None:
            clock.pass_ms(1000)
            told.append(name)

        return telling

    async def inner() -> None:
        clock.pass_ms(300)

    async def outer() -> None:
        await Watched(stopwatch, inner(), tell("inner"))

    async def begun() -> None:
        code = Watched(stopwatch, inner(), tell("begun"))
        code.begin()
        await code

    drive(Watched(stopwatch, outer(), tell("outer")))
    drive(Watched(stopwatch, begun(), tell("outer")))
    assert told == ["inner", "begun"]


async def test_what_is_thrown_in_arrives_as_before() -> None:
    """A cancellation reaches the code at its await, and its cleaning up can await in turn."""
    seen = list[str]()

    async def work() -> str:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
                seen.append("cleaned up")
        return "never"

    with anyio.move_on_after(0) as scope:
        await Watched(Stopwatch(HandClock()), work(), lambda _: None)

    assert scope.cancelled_caught
    assert seen[0] in {"CancelledError", "Cancelled"}
    assert seen[1:] == ["cleaned up"]


async def test_an_exception_comes_out_as_it_is() -> None:
    """With its traceback, and without a word of ours."""

    async def work() -> None:
        await checkpoint()
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        await Watched(Stopwatch(HandClock()), work(), lambda _: None)


async def test_the_engine_names_run_and_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, with the milliseconds and what to do."""
    clock = HandClock()
    monkeypatch.setattr(runner_module, "Stopwatch", lambda _: Stopwatch(clock))
    app = App("t")

    @app.task
    async def greedy() -> None:
        clock.pass_ms(LIMIT_NS // 1_000_000 + 23)

    @app.rule(on("a"))
    async def patient(run: Run) -> None:
        await run.call(greedy)

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    (line,) = (line for line in caplog.text.splitlines() if "loop_blocked" in line)
    assert "task='greedy'" in line
    assert "ms=123" in line
    assert "docs/execution.md" in line
