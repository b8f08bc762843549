"""The code of tasks, executed once more against what their runs have recorded."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from tests.engine.stand import opened

from headrace import App, Firing, MemoryLog, Retry, Run, on
from headrace.replaying import replay_runs

EXECUTED: list[str] = []


def shop(*, extra: bool = False, amount: int = 3, second: str = "ship", result: str = "ok") -> App:
    """A rule whose run makes calls of every kind; the arguments change its code."""
    app = App("shop")

    @app.task
    async def charge(what: str, amount: int) -> int:
        EXECUTED.append("charge")
        return amount

    @app.task
    def ship(what: str) -> str:
        EXECUTED.append("ship")
        return f"{what} shipped"

    @app.task
    def pack(what: str) -> str:
        return f"{what} packed"

    @app.task(retry=Retry(attempts=2, wait_first=0, jitter=0), replayable=True)
    async def flaky(run: Run, what: str) -> str:
        paid = await run.call(charge, what, amount)
        if run.attempt == 1:
            raise LookupError(f"{what} is out of stock")
        return f"{what}: {paid}"

    @app.task
    async def broken() -> None:
        raise OSError("no route")

    @app.rule(on("order", str).key(lambda e: e.data), replayable=True)
    async def order(run: Run, firing: Firing[str]) -> str:
        what = firing.events[0].data
        chance, now = run.random(), run.now()
        handles = [run.spawn(charge, what, n) for n in range(2)]
        await run.call(ship if second == "ship" else pack, what)
        sums = await run.map(charge_twice, [1, 2, 3])
        await run.emit("sold", {"what": what, "chance": chance, "at": now})
        await run.sleep(5)
        run.logger.info("sold", what=what)
        try:
            await run.call(broken)
        except Exception as error:  # noqa: BLE001 (any failure of a call)
            await run.emit("broken", str(type(error).__name__))
        if extra:
            await run.call(charge, what, 99)
        total = sum([await handle for handle in handles]) + sum(sums)
        return f"{result} {total}"

    @app.task
    async def charge_twice(n: int) -> int:
        EXECUTED.append("twice")
        return 2 * n

    @app.rule(on("sold"), replayable=True)
    async def follow(run: Run, firing: Firing[Any]) -> None:
        await run.launch(flaky, firing.events[0].data["what"])

    return app


async def sold(app: App) -> MemoryLog:
    log = MemoryLog()
    async with opened(app, log, clock="input") as engine:
        await engine.emit("order", "tea", time=1_400_000_000)
        await engine.emit("end", time=1_400_000_100)
    EXECUTED.clear()
    return log


async def test_code_that_is_as_it_was_makes_the_same_calls() -> None:
    """Calls, children, emits, sleeps, chance and time: all answered from the log, none executed."""
    log = await sold(shop())
    found = replay_runs(log, shop())

    assert (found.same, found.differ, found.strayed) == (4, 0, [])  # flaky has two attempts
    assert found.skipped > 5
    assert EXECUTED == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"extra": True}, "it asks for step.requested charge, and nothing is recorded there"),
        ({"second": "pack"}, "call 3"),
        ({"result": "fine"}, "it returned 'fine "),
    ],
)
async def test_code_that_has_changed_is_named_with_its_place(
    change: dict[str, Any], what: str
) -> None:
    """Whether open runs could go on with it is known before it is deployed."""
    log = await sold(shop())
    found = replay_runs(log, shop(**change))

    (strayed,) = found.strayed
    assert found.differ == 1
    assert strayed.task == "order"
    assert what in strayed.what
    assert EXECUTED == []


async def test_changed_arguments_are_found_in_each_attempt() -> None:
    """Not only another call, but another value."""
    log = await sold(shop())
    found = replay_runs(log, shop(amount=4))

    assert [one.task for one in found.strayed] == ["flaky", "flaky"]
    assert "amount=3" in found.strayed[0].what
    assert "amount=4" in found.strayed[0].what


async def test_code_that_waits_for_something_else_is_named() -> None:
    """It cannot be driven without an event loop, nor would it do the same again."""

    def app(*, waits: bool) -> App:
        made = App("waits")

        @made.rule(on("go"), replayable=True)
        async def go(run: Run) -> int:
            if waits:
                await anyio.lowlevel.checkpoint()
            return 1

        return made

    log = MemoryLog()
    async with opened(app(waits=False), log, clock="input") as engine:
        await engine.emit("go", time=1_400_000_000)
        await engine.emit("end", time=1_400_000_001)
    found = replay_runs(log, app(waits=True))

    assert [one.what for one in found.strayed] == [
        "it waits for something that is no call of its run"
    ]
    assert replay_runs(log, app(waits=False)).same == 1


def at_the_top(n: int) -> int:
    return n


def test_what_cannot_be_replayed_is_refused_when_it_is_declared() -> None:
    """Code for another process, or with a resource, needs more than the log."""
    app = App("refused")
    with pytest.raises(TypeError, match="replayable=True: expected code that a replay"):
        app.task(process=True, replayable=True)(at_the_top)
