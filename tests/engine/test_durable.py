"""What survives a crash, and what a lost disk does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.stand import (
    FailingLog,
    Gate,
    StepClock,
    borders,
    of_kind,
    opened,
    quiet,
    records_of,
)

from headrace import (
    App,
    DurabilityLost,
    Firing,
    MemoryLog,
    Retry,
    Run,
    StepFailed,
    on,
    silent,
)
from headrace.engine.record import EventStored, RunCompleted, RunFailed, StepRequested

ROOT = Path(__file__).parents[2]


class Point(msgspec.Struct):
    x: int
    tags: set[str]


# ---------------------------------------------------------------- resuming


async def test_result_of_a_completed_step_comes_from_the_log() -> None:
    """After a crash the step is not executed again, and its result has its type."""
    app, gate, executed, got = App("t"), Gate(), list[int](), list[Any]()

    @app.task
    async def step(n: int) -> Point:
        executed.append(n)
        return Point(n, {"b", "a"})

    @app.task
    def in_thread(n: int) -> dict[int, Point]:
        executed.append(n)
        return {n: Point(n, set())}

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        first = await run.call(step, 1)
        second = await run.call(in_thread, 2)
        third = await run.map(step, [3, 4])
        await gate.wait()
        got.append((first, second, third))

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a")
        while gate.arrived == 0:
            await anyio.sleep(0.001)
        left = log.copy()
    assert sorted(executed) == [1, 2, 3, 4]

    gate.open()
    async with opened(app, left) as engine:
        await engine.drain()

    assert sorted(executed) == [1, 2, 3, 4]
    assert got == [
        (Point(1, {"a", "b"}), {2: Point(2, set())}, [Point(n, {"a", "b"}) for n in (3, 4)])
    ]


async def test_now_random_and_key_are_the_same_at_every_place_of_a_crash() -> None:
    """Code that decides by them decides the same again."""
    app, clock = App("t"), StepClock()
    seen = list[tuple[Any, ...]]()
    ids = list[str]()

    @app.task
    async def step(run: Run) -> None:
        ids.append(run.idempotency_key)
        await run.sleep(5)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        marks = [run.now(), run.random(), run.idempotency_key]
        await run.call(step)
        marks += [run.now(), run.random()]
        await run.sleep(7)
        marks += [run.now(), run.random()]
        await run.emit("b")
        seen.append((*marks, run.now(), run.random()))

    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 100)
    (undisturbed,) = seen
    step_key = ids[0]
    assert undisturbed[3] == undisturbed[0] + 5
    assert undisturbed[5] == undisturbed[3] + 7
    assert len({undisturbed[1], undisturbed[4], undisturbed[6], undisturbed[8]}) == 4

    for upto in borders(log)[2:]:
        if any(isinstance(r, RunCompleted) for s, r in records_of(log) if s == upto and s > 10):
            continue
        seen.clear()
        ids.clear()
        left = log.copy(upto)
        async with opened(app, left, clock) as engine:
            await clock.step(engine, 100)
        (again,) = seen or [undisturbed]
        recorded = sum(isinstance(r, RunCompleted) for _, r in records_of(log.copy(upto)))
        asked = of_kind(log.copy(upto), StepRequested)
        # What was not recorded yet happens later in log time; the rest is the same.
        assert again[:3] == undisturbed[:3], upto
        assert [again[n] for n in (4, 6, 8)] == [undisturbed[n] for n in (4, 6, 8)], upto
        if recorded:
            assert again[3] == undisturbed[3], upto
        assert not asked or set(ids) <= {step_key}, upto


async def test_sleep_is_neither_restarted_nor_forgotten_by_a_crash() -> None:
    """Half of it before, half of it after: it ends when it was due, or at once if that is past."""
    app, clock, woke = App("t"), StepClock(), list[float]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        began = run.now()
        await run.sleep(100)
        woke.append(run.now() - began)

    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 40)
        half, late = log.copy(), log.copy()

    async with opened(app, half, clock) as engine:
        await clock.step(engine, 59.9)
        assert woke == []
        await clock.step(engine, 0.1)
    assert woke == [100]

    woke.clear()
    clock.pass_by(1000)
    async with opened(app, late, clock) as engine:
        await quiet(engine)
    assert woke == [1100]


async def test_every_fires_once_after_a_downtime_and_keeps_its_grid() -> None:
    """Ten missed minutes are one firing that says so, not ten at once, nor none."""
    app, clock, fired = App("t"), StepClock(), list[tuple[float, int, int]]()

    @app.every(60)
    async def tick(firing: Firing[Any]) -> None:
        fired.append((firing.at % 3600, firing.missed, firing.lateness_ns))

    log = MemoryLog()
    async with opened(app, log, clock) as engine:
        start = clock.wall_ns() / 1e9 % 3600
        await clock.step(engine, 130)
    clock.pass_by(500)  # 630 s after the start
    async with opened(app, log, clock) as engine:
        await clock.step(engine, 100)

    assert [(at - start, missed) for at, missed, _ in fired] == [
        (60, 0),
        (120, 0),
        (180, 7),
        (660, 0),
        (720, 0),
    ]
    assert fired[2][2] == 450 * 10**9


async def test_watchdog_that_was_due_during_a_downtime_fires_first() -> None:
    """L3: overdue timers come before any new event."""
    app, clock, log, fired = App("t"), StepClock(), MemoryLog(), list[str]()

    @app.rule(silent(on("beat"), for_=10))
    async def quiet_too_long(firing: Firing[Any]) -> None:
        fired.append("silent")

    @app.rule(on("beat"))
    async def beat() -> None:
        fired.append("beat")

    async with opened(app, log, clock) as engine:
        await engine.emit("beat")
        await quiet(engine)
    clock.pass_by(20)
    async with opened(app, log, clock) as engine:
        await engine.emit("beat")
        await engine.drain()

    assert fired == ["beat", "silent", "beat"]


async def test_step_in_flight_is_executed_again_with_the_same_key() -> None:
    """At least once: the outside world can tell the second time by the key."""
    app, gate, keys = App("t"), Gate(), list[str]()

    @app.task
    async def step(run: Run) -> None:
        keys.append(run.idempotency_key)
        await gate.wait()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(step)

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        left = log.copy()
    gate.open()
    async with opened(app, left) as engine:
        await engine.drain()

    assert len(keys) == 2
    assert keys[0] == keys[1]


async def test_caught_failure_of_a_step_is_the_same_after_a_crash() -> None:
    """The code goes past it again, the same way, without executing it."""
    app, gate, executed, got = App("t"), Gate(), list[int](), list[str]()

    @app.task
    async def bad() -> None:
        executed.append(1)
        raise OSError("gone")

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        try:
            await run.call(bad)
        except StepFailed as error:
            got.append(error.error)
        await gate.wait()

    log = MemoryLog()
    async with opened(app, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        left = log.copy()
    gate.open()
    async with opened(app, left) as engine:
        await engine.drain()
        assert [run.task for run in engine.runs("completed")] == ["act"]

    assert executed == [1]
    assert got == ["OSError: gone"] * 2


async def test_renamed_task_leaves_its_runs_open_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run is not lost because its code has another name today."""
    old, new, gate, ran = App("t"), App("t"), Gate(), list[str]()

    @old.rule(on("a"), name="before")
    async def act() -> None:
        await gate.wait()

    @new.rule(on("a"), name="after")
    async def act_now() -> None:
        ran.append("after")

    log = MemoryLog()
    async with opened(old, log) as engine:
        await engine.emit("a")
        await quiet(engine)
    async with opened(new, log) as engine:
        await engine.emit("a")
        await engine.drain()
        assert {run.task: run.status for run in engine.runs()} == {
            "before": "active",
            "after": "completed",
        }
        (left,) = engine.runs("active")
    assert "task_missing" in caplog.text
    assert str(left.id) in caplog.text
    gate.open()
    async with opened(old, log) as engine:
        await engine.drain()
        assert engine.runs("active") == []
    assert ran == ["after"]


# ---------------------------------------------------------------- divergence


def _two_versions(first: Any, second: Any) -> tuple[App, App, Gate]:
    gate, apps = Gate(), (App("t"), App("t"))
    for app, body in zip(apps, (first, second), strict=True):

        @app.task
        async def one(x: Any) -> Any:
            return x

        @app.task
        async def two(x: Any) -> Any:
            return x

        @app.rule(on("a"), retry=Retry(attempts=5, wait_first=0))
        async def act(run: Run, _body: Any = body, _one: Any = one, _two: Any = two) -> None:
            await _body(run, _one, _two)
            await gate.wait()

    return *apps, gate


async def _call_one(run: Run, one: Any, two: Any) -> None:
    await run.call(one, 1)


async def _call_two(run: Run, one: Any, two: Any) -> None:
    await run.call(two, 1)


async def _call_with_other(run: Run, one: Any, two: Any) -> None:
    await run.call(one, 2)


async def _spawn_one(run: Run, one: Any, two: Any) -> None:
    await run.spawn(one, 1)


async def _emit(run: Run, one: Any, two: Any) -> None:
    await run.emit("x.y", 1)


async def _emit_elsewhere(run: Run, one: Any, two: Any) -> None:
    await run.emit("x.z", 1)


async def _emit_other(run: Run, one: Any, two: Any) -> None:
    await run.emit("x.y", 2)


async def _sleep(run: Run, one: Any, two: Any) -> None:
    await run.sleep(0)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (_call_one, _call_two, ["call one", "call two"]),
        (_call_one, _call_with_other, ["recorded call one(x=1)", "asked for call one(x=2)"]),
        (_call_one, _spawn_one, ["call one", "spawn one"]),
        (_emit, _emit_elsewhere, ["emit x.y", "emit x.z"]),
        (_emit, _emit_other, ["recorded emit x.y with 1", "asked for emit x.y with 2"]),
        (_sleep, _call_one, ["sleep", "call one"]),
        (_call_one, _emit, ["call one", "emit x.y"]),
    ],
)
async def test_code_that_asks_for_something_else_diverges(
    first: Any, second: Any, words: list[str]
) -> None:
    """Never silently wrong: the run stops, says which call, what was recorded and asked.

    Trying again would ask the same, so no retry policy applies.
    """
    old, new, gate = _two_versions(first, second)
    log = MemoryLog()
    async with opened(old, log) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert gate.arrived == 1
    async with opened(new, log) as engine:
        await engine.drain()
        (top,) = engine.runs("dead")

    assert top.attempt == 1
    assert str(top.error).startswith("Diverged")
    assert "call 1" in str(top.error)
    for word in words:
        assert word in str(top.error)


HASHED = """
import sys
import anyio
from headrace import App, MemoryLog, FileLog, Run, on
app = App("t")
@app.task
async def step(names: set[str], more: dict[str, frozenset[str]]) -> set[str]:
    print("executed")
    return names
@app.rule(on("a"))
async def act(run: Run) -> None:
    words = {f"w{n}" for n in range(50)}
    got = await run.call(step, words, {w: frozenset(words) for w in words})
    await run.emit("b", {"set": got, **{w: 1 for w in words}})
    await run.sleep(0.3 if sys.argv[2] == "first" else 0)
async def main() -> None:
    async with app.open(sys.argv[1], grace_s=0, durability="flushed") as engine:
        if sys.argv[2] == "first":
            await engine.emit("a")
            while engine.state().events < 2:
                await anyio.sleep(0.001)
        else:
            await engine.drain()
            print(engine.runs()[0].status, engine.runs()[0].error)
anyio.run(main)
"""


@pytest.mark.slow
def test_order_of_sets_and_dicts_does_not_matter(tmp_path: Path) -> None:
    """Another process hashes in another order, and still asks for the same."""
    said = []
    for seed, part in (("1", "first"), ("2", "second")):
        ran = subprocess.run(
            [sys.executable, "-c", HASHED, str(tmp_path / "log"), part],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        said.append(ran.stdout.split("\n"))

    assert said[0][0] == "executed"
    assert said[1][0] == "completed None"


# ---------------------------------------------------------------- a lost disk


@pytest.mark.parametrize("fail_at", [2, 3, 4, 5, 6, 8, 12])
async def test_lost_disk_ends_the_body_and_acknowledges_nothing_more(fail_at: int) -> None:
    """`DurabilityLost` comes out of ``async with``; what was acknowledged is in the log."""
    app, log, acknowledged = App("t"), FailingLog(fail_at), list[int]()
    acted = list[int]()

    @app.task
    async def step(n: int) -> int:
        return n

    @app.rule(on("a"))
    async def act(run: Run, firing: Firing[int]) -> None:
        acted.append(await run.call(step, firing.sequences[0]))

    with pytest.raises(DurabilityLost, match="has died"):
        async with opened(app, log) as engine:
            for _ in range(100):
                acknowledged.append(await engine.emit("a"))
            await anyio.sleep_forever()

    stored = [s for s, record in records_of(log) if isinstance(record, EventStored)]
    assert acknowledged == stored[: len(acknowledged)]
    assert set(acted) <= {
        record.run and s
        for s, record in records_of(log)
        for s in stored
        if isinstance(record, RunCompleted)
    }
    log.fail_at = 0
    async with opened(app, log) as engine:
        await engine.drain()
        assert engine.state().events == len(stored)


async def test_lost_disk_reaches_a_body_that_only_waits() -> None:
    """A service that sleeps in the body learns of it at once."""
    log = FailingLog()
    with pytest.raises(DurabilityLost):
        async with opened(App("t"), log) as engine:
            await engine.emit("a")
            log.die()
            await anyio.sleep_forever()


async def test_lost_disk_reaches_all_who_wait() -> None:
    """Emitters, `drain` and `cancel` in other tasks of the host get the error, and no one hangs."""
    app, gate, log, errors = App("t"), Gate(), FailingLog(), list[BaseException]()

    @app.rule(on("a"))
    async def act() -> None:
        await gate.wait()

    async def wait(call: Any) -> None:
        try:
            await call()
        except DurabilityLost as error:
            errors.append(error)

    async with anyio.create_task_group() as host:
        with pytest.raises(DurabilityLost):
            async with opened(app, log) as engine:
                await engine.emit("a")
                await quiet(engine)
                log.fail_at = log.commits + 1
                host.start_soon(wait, engine.drain)
                await anyio.lowlevel.checkpoint()
                host.start_soon(wait, lambda: engine.emit("a"))
                host.start_soon(wait, lambda: engine.cancel(engine.runs("active")[0].id))
                await anyio.sleep_forever()

    assert len(errors) == 3


async def test_disk_lost_behind_the_loops_back_is_still_told() -> None:
    """The writer's thread may fail in the very moment in which the engine closes."""
    log = FailingLog()
    with pytest.raises(DurabilityLost, match="late"):
        async with opened(App("t"), log) as engine:
            await engine.emit("a")
            log.failure = DurabilityLost("late")
    async with opened(App("t"), log) as engine:
        assert engine.state().events == 1


async def test_disk_lost_while_effects_are_carried_out() -> None:
    """A run that is ended in the callback of a commit finds the log failed: told, not thrown.

    On trio an exception in a callback would take the whole program with it.
    """
    app, clock = App("t"), StepClock()

    class LateLog(FailingLog):
        doomed = False

        def append(self, unit: Any) -> None:
            if self.doomed:
                self.failure = self.failure or DurabilityLost("late")
            super().append(unit)

    log = LateLog()

    @app.rule(on("a"), retry=Retry(attempts=3, wait_first=10))
    async def act() -> None:
        raise OSError

    with pytest.raises(DurabilityLost, match="late"):
        async with opened(app, log, clock) as engine:
            await engine.emit("a")
            await quiet(engine)
            async with anyio.create_task_group() as group:
                group.start_soon(engine.cancel, engine.runs("retrying")[0].id)
                await anyio.lowlevel.checkpoint()
                log.doomed = True
            await anyio.sleep_forever()


async def test_dead_letter_keeps_error_and_traceback() -> None:
    """Who reads the log later can tell what went wrong, and where."""
    app, log = App("t"), MemoryLog()

    @app.rule(on("a"))
    async def act() -> None:
        raise ValueError("no such file: \udcff")

    async with opened(app, log) as engine:
        await engine.emit("a")
        await engine.drain()
    (failed,) = of_kind(log, RunFailed)

    assert failed.error == "ValueError: no such file: \\udcff"
    assert "test_durable.py" in failed.traceback
    assert "async def act" not in failed.traceback
    assert 'raise ValueError("no such file' in failed.traceback
