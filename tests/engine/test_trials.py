"""Who is suspected of killing the process executes alone among such, and keeps nobody waiting."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from tests.engine.stand import Gate, GatedLog, StepClock, check_live, of_kind, opened, quiet

from headrace import App, Breaker, Engine, Firing, MemoryLog, Rate, Run, on
from headrace.engine.record import CrashesCounted, RunFailed


class Lives:
    """An app that lives several times: all but the last end with the death of the process."""

    def __init__(self, app: App, **options: Any) -> None:
        self.app = app
        self.log: MemoryLog = MemoryLog()
        self.options = options
        self.number = 0
        """Which life it is, from 1."""
        self.forever = Gate()
        """Where code stops in lives that are not the last."""

    @asynccontextmanager
    async def one(self, clock: StepClock | None = None, **options: Any) -> AsyncGenerator[Engine]:
        """Live once, and then die."""
        self.number += 1
        options = {"clock": clock, **self.options, **options}
        async with opened(self.app, self.log, **options) as engine:
            await quiet(engine)
            yield engine
            await quiet(engine)
            left = self.log.copy(engine.kernel.sequence)
        self.log = left

    def trials(self) -> list[int]:
        """Return the runs whose trials are on record, and -1 for each that ended with nothing."""
        return [counted.trial for counted in of_kind(self.log, CrashesCounted) if counted.trial]


def crashes(engine: Engine) -> dict[int, int]:
    """Return the counts of all open runs."""
    return {run.id: run.crashes for run in engine.kernel.state.runs.active.values()}


# ---------------------------------------------------------------- the end of a trial


async def test_a_trial_ends_when_its_run_waits() -> None:
    """Also if a record that it got something done has cleared it by then: no deadlock."""
    app = App("t")
    lives = Lives(app)

    @app.task
    async def child() -> int:
        if lives.number < 3:
            await lives.forever.wait()
        return 1

    @app.task
    async def small() -> None: ...

    @app.task
    async def parent(run: Run) -> int:
        handle = run.spawn(child)
        if lives.number < 3:
            await lives.forever.wait()
        await run.call(small)
        return await handle

    async with lives.one() as engine:
        await engine.launch(parent)
    async with lives.one() as engine:
        pass
    async with lives.one() as engine:
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 3}
        await check_live(engine)


async def test_a_sleeper_on_trial_does_not_keep_the_others_waiting() -> None:
    """It stands at a wait: whatever happens now is not its doing."""
    app, clock, done = App("t"), StepClock(), list[str]()
    lives = Lives(app)

    @app.task
    async def sleeper(run: Run) -> None:
        if lives.number < 3:
            await lives.forever.wait()
        await run.sleep(1000)

    @app.task
    async def other() -> None:
        if lives.number < 3:
            await lives.forever.wait()
        done.append("other")

    async with lives.one() as engine:
        await engine.launch(sleeper)
        await engine.launch(other)
    async with lives.one() as engine:
        pass
    async with lives.one(clock) as engine:
        await quiet(engine)
        assert done == ["other"]


async def test_what_gets_something_done_is_on_trial_no_more() -> None:
    """Though its code goes on: it is cleared, and the next may begin beside it."""
    app, gate, inside = App("t"), Gate(), list[int]()
    lives = Lives(app)

    @app.task
    async def work(run: Run) -> None:
        if lives.number < 3:
            await lives.forever.wait()
        await run.emit("begun")
        inside.append(run.id)
        await gate.wait()

    async with lives.one() as engine:
        runs = [await engine.launch(work) for _ in range(3)]
    async with lives.one() as engine:
        pass
    async with lives.one() as engine:
        await quiet(engine)
        assert inside == runs
        gate.open()
        await engine.drain()
    assert lives.trials() == runs


async def test_each_task_has_its_turn() -> None:
    """A thousand suspects of one do not keep those of another waiting."""
    app, inside = App("t"), list[str]()
    lives = Lives(app)

    async def body(name: str) -> None:
        if lives.number < 3:
            await lives.forever.wait()
        inside.append(name)

    for name in ("loud", "quiet"):
        app.task(name=name)(partial(body, name))

    async with lives.one() as engine:
        for name in ("loud", "loud", "loud", "quiet", "quiet"):
            await engine.launch(app.tasks[name].function)
    async with lives.one() as engine:
        pass
    async with lives.one() as engine:
        await engine.drain()
    assert inside == ["loud", "loud", "quiet", "loud", "quiet"]


async def test_nobody_is_blamed_between_two_trials() -> None:
    """One that waited with nothing done is not on trial, and a record says so."""
    app = App("t")
    lives = Lives(app)

    @app.task
    async def nap(run: Run) -> str:
        await run.sleep(1000)
        return "rested"

    @app.task
    async def parent(run: Run) -> str:
        return await run.spawn(nap)

    async with lives.one() as engine:
        run = await engine.launch(parent)
    async with lives.one() as engine:
        pass
    async with lives.one() as engine:
        pass
    assert lives.trials() == [run, -1]
    clock = StepClock()
    async with lives.one(clock) as engine:
        assert crashes(engine)[run] == 3
        assert of_kind(lives.log, RunFailed) == []
        await clock.step(engine, 1000)
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 2}


async def test_whoever_goes_on_after_a_wait_is_on_trial_again() -> None:
    """Else it would kill the process while another is watched, which would be blamed for it."""
    app, clock, gate, inside = App("t"), StepClock(), Gate(), list[str]()
    lives = Lives(app)

    @app.task
    async def nap(run: Run) -> None:
        await run.sleep(10)

    @app.task
    async def parent(run: Run) -> None:
        await run.spawn(nap)
        inside.append("parent")

    @app.task
    async def other() -> None:
        if lives.number < 3:
            await lives.forever.wait()
        inside.append("other")
        await gate.wait()

    async with lives.one() as engine:
        first = await engine.launch(parent)
        second = await engine.launch(other)
    async with lives.one() as engine:
        pass
    async with lives.one(clock) as engine:
        assert crashes(engine)[first] == crashes(engine)[second] == 2
        await clock.step(engine, 20)
        assert inside == ["other"]
        gate.open()
        await engine.drain()
        assert inside == ["other", "parent"]
        await check_live(engine)
    assert lives.trials() == [first, -1, second, -1, first, -1]


@pytest.mark.parametrize("when", ["waits", "ready", "recorded", "executes"])
async def test_a_suspect_can_be_cancelled_wherever_it_is(when: str) -> None:
    """And the next is tried: no trial is lost with who was to have it."""
    app, gate, done = App("t"), Gate(), list[int]()
    lives = Lives(app)

    @app.task(priority=9)
    async def blocker() -> None:
        await gate.wait()

    @app.task
    async def work(run: Run) -> None:
        if lives.number < 3:
            await lives.forever.wait()
        done.append(run.id)
        if len(done) == 1:
            await gate.wait()

    async with lives.one() as engine:
        runs = [await engine.launch(work) for _ in range(3)]
    async with lives.one() as engine:
        if when in ("waits", "ready"):
            await engine.launch(blocker)
    slow = GatedLog(lives.log.log_id)
    slow.open(lambda: None)
    slow.append([raw for _, batch in lives.log.read() for raw in batch])
    slow.close()
    slow.hold, lives.log = when == "recorded", slow
    async with lives.one(concurrency=1) as engine:
        assert done == ([runs[0]] if when == "executes" else [])
        runner = engine._core.runner
        runner.cancel_child(runs[1 if when == "waits" else 0], "not this one")
        slow.release()
        await quiet(engine)
        gate.open()
        await engine.drain()
        assert engine.state().runs_ended["cancelled"] == 1
    assert done[-1] == runs[2]


# ---------------------------------------------------------------- beside limits


def limited(**limits: Any) -> tuple[Lives, Gate, list[str], Any, Any]:
    """Return an app with a task that has limits and one that has none, both suspected later."""
    app, gate, inside = App("t"), Gate(), list[str]()
    lives = Lives(app)

    @app.task(**limits)  # type: ignore[untyped-decorator]
    async def narrow(name: str) -> None:
        if lives.number < 3:
            await lives.forever.wait()
        inside.append(name)
        if name == "first":
            await gate.wait()

    @app.task
    async def wide(name: str) -> None:
        if lives.number < 3:
            await lives.forever.wait()
        inside.append(name)
        if name == "first":
            await gate.wait()

    return lives, gate, inside, narrow, wide


@pytest.mark.parametrize(
    "limits", [{"concurrency": 1}, {"rate": Rate(1, per=1.0, burst=3)}], ids=["place", "rate"]
)
async def test_a_suspect_keeps_no_place_while_it_waits_for_its_trial(
    limits: dict[str, Any],
) -> None:
    """Runs of its task that nobody suspects are executed meanwhile."""
    lives, gate, inside, narrow, wide = limited(**limits)
    async with lives.one() as engine:
        await engine.launch(wide, "first")
        await engine.launch(narrow, "suspect")
    async with lives.one() as engine:
        pass
    clock = StepClock()
    clock.pass_by(100)
    async with lives.one(clock) as engine:
        await clock.step(engine, 10)
        assert inside == ["first"]
        await engine.launch(narrow, "fresh")
        await clock.step(engine, 10)
        assert inside == ["first", "fresh"]
        gate.open()
        await clock.step(engine, 10)
        await engine.drain()
    assert inside == ["first", "fresh", "suspect"]


async def test_suspects_of_an_open_circuit_do_not_keep_others_from_their_trial() -> None:
    """Nobody is on trial that cannot begin."""
    app, inside = App("t"), list[str]()
    lives, fails = Lives(app), [True]

    @app.task(breaker=Breaker(failures=1, within=60, open_for=3600))
    async def flaky() -> None:
        if fails[0]:
            raise OSError
        inside.append("flaky")

    @app.task
    async def wide() -> None:
        if lives.number < 3:
            await lives.forever.wait()
        inside.append("wide")

    async with lives.one() as engine:
        await engine.launch(flaky)
        await quiet(engine)
        await engine.launch(flaky)
        await engine.launch(wide)
    async with lives.one() as engine:
        pass
    fails[0] = False
    clock = StepClock()
    async with lives.one(clock) as engine:
        assert sorted(crashes(engine).values()) == [2]
        assert inside == ["wide"]
        await clock.step(engine, 3600)
        await engine.drain()
    assert inside == ["wide", "flaky"]


async def test_suspects_with_keys_of_their_own_do_not_wait_for_a_full_one() -> None:
    """A key without a place holds up its own suspects only."""
    app, gate, inside = App("t"), Gate(), list[str]()
    lives = Lives(app)

    @app.task(concurrency_per_key=1)
    async def work(run: Run, name: str) -> None:
        if lives.number < 3 or (name == "b" and "b" in inside):
            await lives.forever.wait()
        inside.append(name)
        if name == "fresh":
            await gate.wait()

    @app.rule(on("o", list[str]).key(lambda event: event.data[0]), name="take")
    async def take(run: Run, firing: Firing[list[str]]) -> None:
        await run.call(work, firing.events[-1].data[1])

    @app.task
    async def first() -> None:
        if lives.number < 3:
            await lives.forever.wait()
        inside.append("first")
        await gate_first.wait()

    gate_first = Gate()
    async with lives.one() as engine:
        await engine.launch(first)
        await engine.emit("o", ["a", "a"])
        await engine.emit("o", ["b", "b"])
    async with lives.one() as engine:
        pass
    async with lives.one() as engine:
        assert inside == ["first"]
        await engine.emit("o", ["a", "fresh"])
        await quiet(engine)
        gate_first.open()
        await quiet(engine)
        assert inside == ["first", "fresh", "b"]
        gate.open()
        await engine.drain()
    assert inside == ["first", "fresh", "b", "a"]


async def test_whoever_waits_for_a_worker_is_not_blamed() -> None:
    """The record comes right before its code: until then it kills nobody."""
    lives, _, inside, _, wide = limited()

    @lives.app.task(priority=9)
    async def blocker() -> None:
        await lives.forever.wait()

    async with lives.one() as engine:
        run = await engine.launch(wide, "suspect")
    async with lives.one() as engine:
        await engine.launch(blocker)
    async with lives.one(concurrency=1) as engine:
        assert crashes(engine)[run] == 2
    assert lives.trials() == []
    async with lives.one() as engine:
        assert inside == ["suspect"]
    assert of_kind(lives.log, RunFailed) == []


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_suspect_whose_circuit_opens_lets_the_next_be_tried(*, is_late: bool) -> None:
    """It was ready, and gives back what it had: its place and its trial."""
    app, clock, inside = App("t"), StepClock(), list[str]()
    lives, to_emit, to_fail, to_end, to_fill = Lives(app), Gate(), Gate(), Gate(), Gate()

    @app.task
    async def first(run: Run) -> None:
        await (lives.forever if lives.number < 3 else to_emit).wait()
        await run.emit("done")
        await to_end.wait()

    @app.task(breaker=Breaker(failures=1, within=60, open_for=100))
    async def flaky(name: str) -> None:
        await (lives.forever if lives.number < 3 else to_fail).wait()
        if name == "fails":
            raise OSError
        inside.append(name)

    @app.task(priority=9)
    async def filler() -> None:
        await to_fill.wait()

    @app.task
    async def last() -> None:
        if lives.number < 3:
            await lives.forever.wait()
        inside.append("last")

    async with lives.one() as engine:
        await engine.launch(first)
        await engine.launch(flaky, "suspect")
        await engine.launch(last)
    async with lives.one() as engine:
        await engine.launch(flaky, "fails")
    async with lives.one(clock, concurrency=2) as engine:
        assert (to_emit.arrived, to_fail.arrived) == (1, 1)
        to_emit.open()
        await quiet(engine)
        if is_late:
            await engine.launch(filler)
        to_fail.open()
        await quiet(engine)
        assert to_fill.arrived == is_late
        to_fill.open()
        await quiet(engine)
        assert inside == ["last"]
        to_end.open()
        await clock.step(engine, 100)
        await engine.drain()
        await check_live(engine)
    assert inside == ["last", "suspect"]


async def test_by_input_suspects_wait_for_a_circuit_in_log_time() -> None:
    """They do not keep time from moving on, as nobody does that waits for it."""
    app, fails, done = App("t"), [True], list[float]()
    lives = Lives(app, clock="input")

    @app.task(breaker=Breaker(failures=1, within=60, open_for=30))
    async def work(run: Run) -> None:
        if fails[0]:
            raise OSError
        done.append(run.now())

    @app.rule(on("go"))
    async def go(run: Run) -> None:
        await run.launch(work)

    async with lives.one() as engine:
        await engine.emit("go", time=1000.0)
        await engine.emit("go", time=1001.0)
    fails[0] = False
    async with lives.one() as engine:
        pass
    async with lives.one() as engine:
        assert list(crashes(engine).values()) == [2]
        await engine.emit("tick", time=1020.0)
        assert done == []
        await engine.drain()
        assert len(done) == 1
