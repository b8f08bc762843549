"""The code of tasks, executed once more against what their runs have recorded."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from tenacity import AsyncRetrying, retry_if_exception
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


async def gone(app: App) -> MemoryLog:
    """A log of *app* that has had one event ``go``."""
    log = MemoryLog()
    async with opened(app, log, clock="input") as engine:
        await engine.emit("go", time=1_400_000_000)
        await engine.emit("end", time=1_400_000_001)
    return log


def raising(error: BaseException) -> App:
    made = App("raises")

    @made.rule(on("go"), replayable=True)
    async def go(run: Run) -> int:
        raise error

    return made


async def test_code_that_ends_the_program_does_not_end_the_replay() -> None:
    """As in the engine, where it is a failure of its run."""
    log = await gone(raising(SystemExit(3)))

    assert replay_runs(log, raising(SystemExit(3))).same == 1
    (strayed,) = replay_runs(log, raising(SystemExit(4))).strayed
    assert strayed.what == "recorded is SystemExit: 3, and it raised SystemExit: 4"


@pytest.mark.parametrize(
    ("recorded", "now", "is_same"),
    [
        ("no part 12", "no part 12", True),
        ("no part 12", "no part 1", False),
        ("no part 1", "no part 12", False),
        ("x" * 5000, "x" * 5000, True),
        ("x" * 5000, "y" * 5000, False),
    ],
)
async def test_what_an_error_says_is_compared_as_a_whole(
    recorded: str, now: str, is_same: bool
) -> None:
    """That it begins alike is not enough; a long one is compared as far as it is recorded."""
    found = replay_runs(await gone(raising(OSError(recorded))), raising(OSError(now)))

    assert (found.same, found.differ) == ((1, 0) if is_same else (0, 1))


@pytest.mark.parametrize("message", ["no", "x" * 5000])
async def test_what_the_engine_has_added_to_an_error_is_not_of_the_code(message: str) -> None:
    """A retry policy that raised is not asked again by a replay."""

    def app() -> App:
        made = App("adds")

        def choosy(error: BaseException) -> bool:
            raise LookupError("policy")

        policy = AsyncRetrying(retry=retry_if_exception(choosy))

        @made.rule(on("go"), replayable=True, retry=policy)
        async def go(run: Run) -> int:
            raise OSError(message)

        return made

    found = replay_runs(await gone(app()), app())
    assert (found.same, found.differ) == (1, 0)


@pytest.mark.parametrize("how", ["finally", "swallows"])
async def test_the_first_call_that_strays_is_named(how: str) -> None:
    """Not what the code does after it, and also if it takes that for a failure."""

    def app(*, extra: bool) -> App:
        made = App("strays")

        @made.task
        async def step(n: int) -> int:
            return n

        @made.task
        async def tidy() -> None:
            """Tidy up."""

        @made.rule(on("go"), replayable=True)
        async def go(run: Run) -> int:
            try:
                if extra:
                    await run.call(step, 2)
            except BaseException:  # noqa: BLE001 (as others write it)
                if how == "finally":
                    await run.call(tidy)
            return 1

        return made

    found = replay_runs(await gone(app(extra=False)), app(extra=True))
    assert [one.what for one in found.strayed] == [
        "as call 1 it asks for step.requested step, and nothing is recorded there"
    ]


def at_the_top(n: int) -> int:
    return n


def test_what_cannot_be_replayed_is_refused_when_it_is_declared() -> None:
    """Code for another process, or with a resource, needs more than the log."""
    app = App("refused")
    with pytest.raises(TypeError, match="replayable=True: expected code that a replay"):
        app.task(process=True, replayable=True)(at_the_top)
