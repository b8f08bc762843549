"""Code that never waits is executed before it is an attempt, and nobody can tell from the log."""

from __future__ import annotations

from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import check_live, of_kind, records_of

from headrace import App, Firing, MemoryLog, Retry, on
from headrace.engine import record as r
from headrace.engine.attempt import Attempt
from headrace.engine.workers import STRAIGHT_MAX


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The runs whose code was executed as an attempt's."""
    seen: list[int] = []
    execute = Attempt.execute

    async def watched(attempt: Attempt, *args: Any) -> None:
        seen.append(attempt.state.id)
        await execute(attempt, *args)

    monkeypatch.setattr(Attempt, "execute", watched)
    return seen


def app_of(*, waits: bool, seen: list[Any]) -> App:
    """Return an app whose rule and whose task do the same, with an await or without."""
    app = App("x")
    if waits:

        @app.rule(on("a.*", dict))
        async def act(firing: Firing[dict[str, int]]) -> int:
            await checkpoint()
            seen.append(firing.events[0].data)
            return 3

        @app.task
        async def job(n: int, *, by: int = 2) -> int:
            await checkpoint()
            seen.append((n, by))
            return n * by
    else:

        @app.rule(on("a.*", dict))
        async def act(firing: Firing[dict[str, int]]) -> int:
            seen.append(firing.events[0].data)
            return 3

        @app.task
        async def job(n: int, *, by: int = 2) -> int:
            seen.append((n, by))
            return n * by

    return app


@pytest.mark.parametrize("waits", [False, True])
async def test_the_log_is_the_same(attempts: list[int], *, waits: bool) -> None:
    """What the rule and the task have done, and what they gave, is recorded as ever."""
    seen: list[Any] = []
    app, log = app_of(waits=waits, seen=seen), MemoryLog()
    async with app.open(log) as engine:
        await engine.emit("a.1", {"n": 1})
        await engine.drain()
        assert await engine.result(await engine.launch(app.tasks["job"].function, 5, by=3)) == 15
        await check_live(engine)
    assert seen == [{"n": 1}, (5, 3)]
    kinds = [type(record) for _, record in records_of(log)]
    first = kinds.index(r.EventStored)
    assert kinds[first:] == [
        r.EventStored,
        r.RuleFired,
        r.RunCompleted,
        r.RunLaunched,
        r.RunCompleted,
        r.EngineStopped,
    ]
    assert len(attempts) == (2 if waits else 0)


async def test_what_fails_is_an_attempt(attempts: list[int]) -> None:
    """Its code is executed once for each attempt, and its error is recorded as ever."""
    app, log = App("x"), MemoryLog()
    tries: list[int] = []

    @app.task(retry=Retry(attempts=3, wait_first=0.001))
    async def fails_twice() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError(f"try {len(tries)}")
        return "well"

    async with app.open(log) as engine:
        assert await engine.result(await engine.launch(fails_twice)) == "well"
        await check_live(engine)
    assert len(tries) == 3
    failed = of_kind(log, r.AttemptFailed)
    assert [record.error for record in failed] == ["ValueError: try 1", "ValueError: try 2"]
    assert all("in fails_twice" in record.traceback for record in failed)
    assert "headrace/engine" not in failed[0].traceback
    assert len(attempts) == 2


async def test_results_that_no_record_can_hold(attempts: list[int]) -> None:
    """One that cannot be stored is a failure; a large one is kept beside the log."""
    app, log = App("x"), MemoryLog()

    @app.task
    async def odd() -> Any:
        return object()

    @app.task
    async def large() -> str:
        return "x" * 200_000

    async with app.open(log) as engine:
        run = await engine.launch(odd)
        await engine.drain()
        assert await engine.result(await engine.launch(large)) == "x" * 200_000
        await check_live(engine)
        (dead,) = engine.runs("dead")
    assert dead.id == run
    assert dead.error is not None
    assert "object" in dead.error
    assert len(attempts) == 2


async def test_a_run_that_was_cancelled_is_not_executed() -> None:
    """As long as its code has not begun, it is not to."""
    seen: list[Any] = []
    app, log = app_of(waits=False, seen=seen), MemoryLog()
    async with app.open(log) as engine:
        await engine.emit_many([(f"a.{n}", {"n": n}) for n in range(10 * STRAIGHT_MAX)])
        last = engine.runs("active")[0]
        await engine.cancel(last.id)
        await engine.drain()
        await check_live(engine)
        (cancelled,) = engine.runs("cancelled")
    assert cancelled.id == last.id
    assert len(seen) == 10 * STRAIGHT_MAX - 1
