"""What a hostile user did to headrace, and what has to come of it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from tests.engine.stand import of_kind, opened

from headrace import App, EngineClosed, MemoryLog, Run, on
from headrace.engine.record import EventStored, RuleError, RunCompleted, RunFailed
from headrace.triggers.ruleset import RuleSet

pytestmark = pytest.mark.anyio


class Outcome(BaseException):
    """An exception that is no `Exception`, as test frameworks and old libraries have them."""


def raises(event: object) -> bool:
    """Be a condition that ends as no condition should."""
    raise Outcome("not an Exception")


@pytest.mark.parametrize("in_thread", [False, True], ids=["on the loop", "in a thread"])
async def test_a_task_that_raises_no_exception_is_a_dead_letter(in_thread: bool) -> None:
    """An error that is a `BaseException` only ends its run: not the engine, at each start."""
    app, log = App("t"), MemoryLog()

    if in_thread:

        @app.rule(on("go"), name="odd")
        def odd_in_thread() -> None:
            raise Outcome("not an Exception")
    else:

        @app.rule(on("go"), name="odd")
        async def odd_on_loop() -> None:
            raise Outcome("not an Exception")

    @app.rule(on("go"))
    async def other() -> int:
        return 1

    async with opened(app, log) as engine:
        await engine.emit("go")
        await engine.drain()
        (dead,) = engine.runs("dead")
        assert (dead.task, dead.error) == ("odd", "Outcome: not an Exception")
    assert [failed.error for failed in of_kind(log, RunFailed)] == ["Outcome: not an Exception"]
    assert len(of_kind(log, RunCompleted)) == 1


async def test_a_group_of_what_is_no_exception_is_a_dead_letter() -> None:
    """A task group of the user's hands on such an error in a `BaseExceptionGroup`."""
    app = App("t")

    async def fail() -> None:
        raise Outcome("in a child")

    @app.rule(on("go"))
    async def several() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            await anyio.sleep_forever()

    async with opened(app) as engine:
        await engine.emit("go")
        await engine.drain()
        (dead,) = engine.runs("dead")
        assert dead.error is not None
        assert dead.error.startswith("BaseExceptionGroup")


async def test_a_group_of_errors_and_a_cancellation_is_a_cancellation() -> None:
    """A run that is cancelled while a child of its own fails has no part left that goes on."""
    app, begun = App("t"), anyio.Event()

    async def fail_at_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise Outcome("while ending")

    @app.rule(on("go"))
    async def several() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail_at_the_end)
            begun.set()
            await anyio.sleep_forever()

    async with opened(app) as engine:
        await engine.emit("go")
        await begun.wait()
        await anyio.wait_all_tasks_blocked()
        await engine.cancel(engine.runs("active")[0].id)
        await engine.drain()
        assert [run.status for run in engine.runs()] == ["cancelled"]


@pytest.mark.parametrize("place", ["where", "key", "later where"])
async def test_a_condition_that_raises_no_exception_is_recorded(place: str) -> None:
    """Law L4 holds for a `BaseException` too: the event is stored and other rules fire."""
    app, log = App("t"), MemoryLog()
    pattern = {
        "where": on("a").where(raises),
        "key": on("a").key(raises),
        "later where": on("a").count(1, within=1).where(raises),
    }[place]

    @app.rule(pattern, version="1")
    async def bad() -> None: ...

    @app.rule(on("a"))
    async def good() -> None: ...

    async with opened(app, log) as engine:
        first = await engine.emit("a", 1)
        assert await engine.emit("b") > first
        await engine.drain()
        assert [run.rule for run in engine.runs()] == ["good"]
    assert [error.error for error in of_kind(log, RuleError)] == ["Outcome: not an Exception"]


async def test_an_engine_that_is_not_open_says_so() -> None:
    """Whoever forgets ``async with`` reads what to do, not the name of a private attribute."""
    engine = App("t").open(MemoryLog())
    for use in (engine.state, engine.runs, lambda: engine.kernel, lambda: engine.cursor("s")):
        with pytest.raises(EngineClosed, match="use it with `async with`"):
            use()
    with pytest.raises(EngineClosed, match="use it with `async with`"):
        await engine.drain()
    with pytest.raises(EngineClosed, match="use it with `async with`"):
        await engine.cancel(1)


@pytest.mark.slow
async def test_calls_may_be_nested_deeper_than_the_stack() -> None:
    """Chains of steps go to any depth; Python's own stack does not."""
    app = App("t")

    @app.task
    async def down(run: Run, left: int) -> int:
        return 0 if left == 0 else 1 + await run.call(down, left - 1)

    @app.rule(on("go"))
    async def deep(run: Run) -> int:
        return await run.call(down, 600)

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("go")
        await engine.drain()
        assert {run.status for run in engine.runs()} == {"completed"}
    assert len(of_kind(log, RunCompleted)) == 602


async def test_a_kernel_that_fails_half_way_ends_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is applied in part can only be rebuilt from the log: nobody waits for it in vain."""
    app, log = App("t"), MemoryLog()
    on_plain = RuleSet.on_plain

    def overflow(self: RuleSet, sequence: int, at_ns: int, events: Any, start: int) -> Any:
        if events[start][0] == "bad":
            raise RecursionError("no stack left")
        return on_plain(self, sequence, at_ns, events, start)

    monkeypatch.setattr(RuleSet, "on_plain", overflow)

    async def host() -> None:
        async with opened(app, log) as engine:
            await engine.emit("good")
            with pytest.raises(RecursionError):
                await engine.emit("bad")
            await anyio.sleep_forever()

    with pytest.raises(EngineClosed, match="EventStored: RecursionError: no stack left; the log"):
        await host()
    assert [event.subject for event in of_kind(log, EventStored)] == ["good"]

    async with opened(app, log) as engine:
        assert await engine.emit("good") == log.committed_sequence
