"""Chains: what follows a run that has ended, without code, and the events that carry it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.stand import borders, check_live, of_kind, opened, quiet

from headrace import App, Failure, Firing, MemoryLog, Retry, Run, on
from headrace.engine.payload import BLOB_BYTES_MIN
from headrace.engine.record import RuleFired, RunCompleted, RunLaunched, StepRequested


def ends(app: App, task: str) -> list[dict[str, Any]]:
    """Let *app* collect the data of the events about the ends of *task*; return the list."""
    seen = list[dict[str, Any]]()

    @app.rule(on("run.>"), name="ends")
    async def note(firing: Firing[Any]) -> None:
        if firing.events[0].data["task"] == task:
            seen.append(firing.events[0].data)

    return seen


# ---------------------------------------------------------------- then


async def test_a_task_follows_with_the_result_as_its_argument() -> None:
    """Two tasks make a pipeline, and neither knows of the other."""
    app, got = App("t"), list[tuple[int, int]]()

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task
    async def keep(run: Run, n: int) -> None:
        got.append((run.id, n))

    app.then(double, keep)
    async with opened(app) as engine:
        first = await engine.launch(double, 21)
        await engine.drain()
        (kept,) = [run for run in engine.runs("completed") if run.task == "keep"]

        assert got == [(kept.id, 42)]
        assert kept.parent == 0
        assert kept.id > first
        assert engine.kernel.state.runs.counts["double-then-keep"] == {"completed": 1}
        await check_live(engine)


async def test_a_chain_goes_on_as_an_option_of_the_decorator() -> None:
    """Declared from the end to the beginning; the functions stay ordinary functions."""
    app, got = App("t"), list[str]()

    @app.task
    async def third(text: str) -> None:
        got.append(text)

    @app.task(then=third)
    async def second(text: str) -> str:
        return text + "b"

    @app.task(then=second)
    async def first(text: str) -> str:
        return text + "a"

    async with opened(app) as engine:
        await engine.launch(first, "")
        await engine.drain()

    assert got == ["ab"]
    assert await first("x") == "xa"


async def test_several_tasks_may_follow_one_and_a_rule_may_be_followed() -> None:
    """A rule's action ends as a task does; each of those that follow gets the result."""
    app, got = App("t"), set[tuple[str, int]]()

    @app.rule(on("n"))
    async def act(firing: Firing[int]) -> int:
        return firing.events[0].data + 1

    @app.task
    async def one(n: int) -> None:
        got.add(("one", n))

    @app.task
    def two(n: int) -> None:
        got.add(("two", n))

    app.then(act, one)
    app.then(act, two)
    async with opened(app) as engine:
        await engine.emit("n", 1)
        await engine.drain()

    assert got == {("one", 2), ("two", 2)}


async def test_a_large_result_is_handed_on() -> None:
    """It is in a file of its own, which the event only names."""
    app, got = App("t"), list[int]()

    @app.task
    async def whole(size: int) -> bytes:
        return b"x" * size

    @app.task
    async def keep(data: bytes) -> None:
        got.append(len(data))

    app.then(whole, keep)
    seen = ends(app, "whole")
    async with opened(app) as engine:
        await engine.launch(whole, 2 * BLOB_BYTES_MIN)
        await engine.drain()

    assert got == [2 * BLOB_BYTES_MIN]
    assert seen[0]["result"] is None
    assert len(bytes.fromhex(seen[0]["blob"])) > 0


async def test_a_result_of_a_class_arrives_as_the_follower_takes_it() -> None:
    """Types are those of the annotations; what does not fit is the follower's failure."""
    app, got = App("t"), list[Any]()

    @app.task
    async def pair() -> tuple[int, set[str]]:
        return 1, {"a"}

    @app.task
    async def keep(pair: tuple[int, set[str]]) -> None:
        got.append(pair)

    @app.task
    async def picky(n: int) -> None:
        got.append(n)

    app.then(pair, keep)
    app.then(pair, picky)
    async with opened(app) as engine:
        await engine.launch(pair)
        await engine.drain()
        (dead,) = engine.runs("dead")

    assert got == [(1, {"a"})]
    assert dead.task == "picky"
    assert "Expected `int`, got `array`" in str(dead.error)


async def test_a_circle_of_tasks_ends_at_the_hop_limit() -> None:
    """Tasks that follow each other are a loop of causes like any other."""
    app, count = App("t"), 0

    @app.task
    async def ping(n: int) -> int:
        nonlocal count
        count += 1
        return n

    app.then(ping, ping)
    async with opened(app) as engine:
        await engine.launch(ping, 1)
        await engine.drain()
        (rule,) = [r for r in engine.state().rules if r.name == "ping-then-ping"]

    assert 10 < count < 70
    assert rule.loops == 1


# ---------------------------------------------------------------- on_failure


async def test_a_task_follows_a_failure_with_what_is_known_of_it() -> None:
    """Only when it is given up: attempts before that are no failure of the run."""
    app, got = App("t"), list[Failure]()

    @app.task
    async def mourn(failure: Failure) -> None:
        got.append(failure)

    @app.task
    async def celebrate(result: Any) -> None:
        raise AssertionError(result)

    @app.task(retry=Retry(attempts=3, wait_first=0), on_failure=mourn, then=celebrate)
    async def doomed(order: int, name: str = "x") -> None:
        raise OSError("no route")

    async with opened(app) as engine:
        run_id = await engine.launch(doomed, 7)
        await engine.drain()

    assert got == [Failure(run_id, "doomed", "OSError: no route", 3, {"order": 7, "name": "x"})]


async def test_the_failure_of_a_step_and_of_a_rule_is_followed_too() -> None:
    """Whoever asked for the run; an action has no arguments, so there is no input."""
    app, got = App("t"), list[tuple[str, Any]]()

    @app.task
    async def mourn(failure: Failure) -> None:
        got.append((failure.task, failure.input))

    @app.task(on_failure=mourn)
    async def step(n: int) -> None:
        raise ValueError(n)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(step, 1)

    app.on_failure(act, mourn)
    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    assert got == [("step", {"n": 1}), ("act", None)]


async def test_a_cancelled_run_is_followed_by_nothing() -> None:
    """Who cancels a run wants nothing more of it."""
    app = App("t")

    @app.task
    async def never(result: Any) -> None:
        raise AssertionError(result)

    @app.task(then=never, on_failure=never)
    async def long(run: Run) -> None:
        await run.sleep(1000)

    async with opened(app) as engine:
        run_id = await engine.launch(long)
        await quiet(engine)
        await engine.cancel(run_id)
        await engine.drain()

        assert {run.task: run.status for run in engine.runs()} == {"long": "cancelled"}


# ---------------------------------------------------------------- crashes


async def test_a_crash_neither_loses_what_follows_nor_makes_two() -> None:
    """Wherever the process dies, the next start goes on with the chain."""

    def chained() -> App:
        app = App("t")

        @app.task
        async def third(failure: Failure) -> str:
            return failure.error

        @app.task(on_failure=third)
        async def second(n: int) -> None:
            raise ValueError(n)

        @app.task(then=second)
        async def first(n: int) -> int:
            return n + 1

        return app

    app, whole = chained(), MemoryLog()
    async with opened(app, whole) as engine:
        await engine.launch(app.tasks["first"].function, 1)
        await engine.drain()
    expected = _launched_and_done(whole)
    assert expected[0] == ["first", "second", "third"]

    (made, *_) = [s for s in borders(whole) if of_kind(whole.copy(s), RunLaunched)]
    for border in [border for border in borders(whole) if border >= made]:
        left = whole.copy(border)
        async with opened(chained(), left) as engine:
            await engine.drain()
            assert engine.kernel.divergences == []
        assert _launched_and_done(left) == expected, border


def _launched_and_done(log: MemoryLog) -> tuple[list[str], int, bytes]:
    """Return the tasks that were launched, how many runs ended well, and the largest result."""
    asked: list[RunLaunched | StepRequested] = [
        *of_kind(log, RunLaunched),
        *of_kind(log, StepRequested),
    ]
    done = of_kind(log, RunCompleted)
    tasks = [record.task for record in asked]
    return tasks, len(done), max(bytes(d.result) for d in done)


async def test_a_chain_that_is_paused_starts_nothing() -> None:
    """It is a rule, with its name in the list of rules."""
    app = App("t")

    @app.task
    async def never(n: int) -> None:
        raise AssertionError(n)

    @app.task(then=never)
    async def first() -> int:
        return 1

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.pause("first-then-never")
        await engine.launch(first)
        await engine.drain()

    assert [fired.outcome for fired in of_kind(log, RuleFired)] == ["paused"]


# ---------------------------------------------------------------- the events themselves


async def test_the_event_of_an_end_has_the_result_or_the_input() -> None:
    """A rule on ``run.completed.<task>`` can react to the value, without a chain."""
    app = App("t")

    @app.task
    async def good(n: int) -> dict[str, int]:
        return {"n": n}

    @app.task
    async def bad(n: int) -> None:
        raise ValueError(n)

    completed, failed = list[Any](), list[Any]()

    @app.rule(on("run.completed.good").where(lambda e: e.data["result"]["n"] > 1))
    async def note(firing: Firing[Any]) -> None:
        completed.append(firing.events[0].data)

    @app.rule(on("run.failed.bad"))
    async def note_failed(firing: Firing[Any]) -> None:
        failed.append(firing.events[0].data)

    async with opened(app) as engine:
        ids = [await engine.launch(good, n) for n in (1, 2)]
        bad_id = await engine.launch(bad, 3)
        await engine.drain()

    assert completed == [
        {
            "run": ids[1],
            "task": "good",
            "status": "completed",
            "rule": "",
            "key": None,
            "attempt": 1,
            "error": None,
            "parent": 0,
            "result": {"n": 2},
            "blob": None,
        }
    ]
    assert failed[0]["run"] == bad_id
    assert failed[0]["input"] == {"n": 3}
    assert "result" not in failed[0]


async def test_a_large_input_is_left_out_of_the_event() -> None:
    """An event has to fit into a record, whatever failed."""
    app, got = App("t"), list[Failure]()

    @app.task
    async def mourn(failure: Failure) -> None:
        got.append(failure)

    @app.task(on_failure=mourn)
    async def bad(data: bytes) -> None:
        raise ValueError(len(data))

    async with opened(app) as engine:
        await engine.launch(bad, b"x" * BLOB_BYTES_MIN)
        await engine.drain()

    assert [failure.input for failure in got] == [None]


# ---------------------------------------------------------------- what is refused


def test_what_cannot_follow_is_refused_when_it_is_declared() -> None:
    """Not when the first run has ended."""
    app = App("t")

    @app.task
    async def first() -> int:
        return 1

    @app.task
    async def nothing() -> None: ...

    @app.task
    async def two(a: int, b: int) -> None: ...

    async def stranger(n: int) -> None: ...

    with pytest.raises(TypeError, match=r"then: expected tasks of this app, found .*stranger"):
        app.then(first, stranger)
    with pytest.raises(TypeError, match=r"then: expected tasks of this app, found .*stranger"):
        app.then(stranger, first)
    with pytest.raises(TypeError, match=r"then='nothing': .* one argument, the result, .* nothing"):
        app.then(first, nothing)
    with pytest.raises(TypeError, match=r"on_failure='two': .* a Failure, found .* a, b"):
        app.on_failure(first, two)
    assert app.rules == {}


def test_long_names_make_a_name_that_is_no_longer_than_others() -> None:
    """Each chain has a name of its own."""
    app = App("t")

    @app.task(name="a" * 60)
    async def first() -> int:
        return 1

    @app.task(name="b" * 60)
    async def second(n: int) -> None: ...

    @app.task(name="b" * 61)
    async def third(n: int) -> None: ...

    app.then(first, second)
    app.then(first, third)
    app.then(first, third)  # the same again says nothing new

    assert [len(name) for name in app.rules] == [64, 64]
