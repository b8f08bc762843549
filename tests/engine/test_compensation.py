"""`run.compensate`: what a run has done is undone before it ends without success."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.stand import StepClock, borders, check_live, of_kind, opened, quiet

from headrace import App, Engine, Firing, MemoryLog, Retry, Run, StepFailed, on
from headrace.engine.record import RunCancelled, RunCompleted, RunFailed, RunFailing, StepRequested

ONCE = Retry(attempts=2, wait_first=1, jitter=0)


def saga(did: list[str], **options: Any) -> App:
    """Return an app that books two things and undoes them; *did* has what its steps did."""
    app = App("t")

    @app.task
    async def book(what: str) -> str:
        did.append(f"book {what}")
        return what

    @app.task(retry=ONCE)
    async def free(run: Run, what: str) -> None:
        did.append(f"free {what}")
        await run.sleep(2)
        if what == "stuck" or (what == "flaky" and run.attempt == 1):
            raise OSError(what)
        did.append(f"freed {what}")

    @app.rule(on("trip", list[str]), **options)
    async def trip(run: Run, firing: Firing[list[str]]) -> None:
        for what in firing.events[0].data[:-1]:
            await run.call(book, what)
            await run.compensate(free, what)
        end = firing.events[0].data[-1]
        if end == "fail":
            raise ValueError("no trip")
        if end == "wait":
            await run.sleep(1000)
        if end == "late" and run.attempt == 1:
            raise ConnectionError

    return app


async def settle(engine: Engine, clock: StepClock) -> None:
    """Let all that is left happen."""
    await clock.step(engine, 30)
    await engine.drain()


async def test_failed_run_is_undone_newest_first() -> None:
    """A saga leaves nothing behind, and undoes in the only order that is safe."""
    did, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(saga(did), log, clock) as engine:
        await engine.emit("trip", ["hotel", "flight", "fail"])
        await clock.step(engine, 1)
        assert [run.status for run in engine.runs() if not run.parent] == ["compensating"]
        await settle(engine, clock)
        (dead,) = engine.runs("dead")
        await check_live(engine)

    assert did[2:] == ["free flight", "freed flight", "free hotel", "freed hotel"]
    assert dead.error == "ValueError: no trip"


async def test_successful_run_undoes_nothing() -> None:
    """It is there for the bad case only."""
    did, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(saga(did), log, clock) as engine:
        await engine.emit("trip", ["hotel", "fly"])
        await settle(engine, clock)

    assert did == ["book hotel"]
    assert of_kind(log, RunFailing) == []


async def test_cancelled_run_is_undone() -> None:
    """Also if it slept, and if cancelling is asked for again meanwhile."""
    did, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(saga(did), log, clock) as engine:
        first = await engine.emit("trip", ["hotel", "wait"])
        await quiet(engine)
        await engine.cancel(first + 1, "no money")
        await clock.step(engine, 1)
        await engine.cancel(first + 1, "once more")
        await settle(engine, clock)

    (ended,) = of_kind(log, RunCancelled)
    assert (ended.run, ended.reason) == (first + 1, "no money")
    assert did == ["book hotel", "free hotel", "freed hotel"]


async def test_run_that_is_cancelled_asleep_is_undone_without_its_code() -> None:
    """After a start it is not invoked for that."""
    did, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(saga(did), log, clock) as engine:
        first = await engine.emit("trip", ["hotel", "wait"])
        await quiet(engine)
    async with opened(saga(did), log, clock) as engine:
        await engine.cancel(first + 1, "no money")
        await settle(engine, clock)
        assert engine.runs("active") == []

    assert did == ["book hotel", "free hotel", "freed hotel"]


async def test_undo_that_is_given_up_stops_no_other_and_is_named() -> None:
    """Who cleans up by hand learns what is left to be done."""
    did, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(saga(did), log, clock) as engine:
        await engine.emit("trip", ["hotel", "stuck", "flaky", "fail"])
        await settle(engine, clock)
        (dead,) = engine.runs("dead")

    assert did[3:] == [
        *("free flaky", "free flaky", "freed flaky"),
        *("free stuck", "free stuck"),
        *("free hotel", "freed hotel"),
    ]
    assert str(dead.error).startswith("ValueError: no trip; not undone: free (run ")
    assert str(dead.error).endswith("OSError: stuck")


async def test_retry_keeps_what_is_registered() -> None:
    """It is registered once, however many attempts there are, and undone once."""
    did, clock, log = list[str](), StepClock(), MemoryLog()
    app = saga(did, retry=Retry(attempts=3, wait_first=1, jitter=0))
    async with opened(app, log, clock) as engine:
        await engine.emit("trip", ["hotel", "late"])
        await engine.emit("trip", ["flight", "fail"])
        await settle(engine, clock)

    assert did.count("book flight") == did.count("free flight") == 1
    assert "free hotel" not in did
    kinds = [asked.kind for asked in of_kind(log, StepRequested)]
    assert kinds.count("compensate") == 2


@pytest.mark.parametrize("again", [True, False])
async def test_what_a_failed_attempt_registered_is_undone_too(*, again: bool) -> None:
    """If the next attempt goes another way, it was done all the same; but never undone twice."""
    app, did, clock = App("t"), list[str](), StepClock()

    @app.task
    async def fail() -> None:
        raise OSError

    @app.task
    async def undo(what: str) -> None:
        did.append(what)

    @app.rule(on("a"), retry=ONCE)
    async def act(run: Run) -> None:
        await run.compensate(undo, "first")
        try:
            await run.call(fail)
        except StepFailed:
            if run.attempt == 1 or again:
                await run.compensate(undo, "second")
            raise

    async with opened(app, MemoryLog(), clock) as engine:
        await engine.emit("a")
        await settle(engine, clock)
        await check_live(engine)

    assert did == ["second", "first"]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["fail", "cancel"])
async def test_crash_anywhere_goes_on_with_the_undo(end: str) -> None:
    """What is undone is not undone again, what is not will be; the end is the same."""
    did, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(saga(did), log, clock) as engine:
        first = await engine.emit(
            "trip", ["hotel", "flaky", "stuck", "fail" if end == "fail" else "wait"]
        )
        if end == "cancel":
            await quiet(engine)
            await engine.cancel(first + 1, "no money")
        await settle(engine, clock)
    kind: type[RunFailed] | type[RunCancelled] = RunFailed if end == "fail" else RunCancelled
    whole = of_kind(log, kind)[-1]
    begun = next(s for s, upto in enumerate(borders(log)) if of_kind(log.copy(upto), RunFailing))

    for upto in borders(log)[begun:]:
        left, late = log.copy(upto), StepClock()
        done = {record.run for record in of_kind(left, RunCompleted)}
        did.clear()
        async with opened(saga(did), left, late) as engine:
            await late.step(engine, 60)
            await engine.drain()
            await check_live(engine)
        ended = of_kind(left, kind)[-1]
        assert ended.run == whole.run
        text = ended.error if isinstance(ended, RunFailed) else ended.reason
        assert ("no trip" if end == "fail" else "no money") in text
        assert "not undone: free" in text
        completed = [record.run for record in of_kind(left, RunCompleted)]
        assert len(completed) == len(set(completed)) == 5, upto
        assert done <= set(completed)


async def test_timeout_of_the_run_does_not_interrupt_an_undo() -> None:
    """Half undone is worse than late."""
    app, did = App("t"), list[str]()

    @app.task
    async def undo(run: Run) -> None:
        did.append("begun")
        await run.sleep(100)
        did.append("undone")

    @app.rule(on("a"), timeout=5)
    async def act(run: Run) -> None:
        await run.compensate(undo)
        await run.sleep(1000)

    clock = StepClock()
    async with opened(app, MemoryLog(), clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 200)
        await engine.drain()
        (dead,) = engine.runs("dead")

    assert did == ["begun", "undone"]
    assert "TimeoutError" in str(dead.error)


async def test_child_is_undone_before_its_parent_knows() -> None:
    """A step that failed has left nothing behind when the caller goes on."""
    app, did, clock = App("t"), list[str](), StepClock()

    @app.task
    async def undo(run: Run) -> None:
        await run.sleep(3)
        did.append("undone")

    @app.task
    async def part(run: Run) -> None:
        await run.compensate(undo)
        raise ValueError

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        try:
            await run.call(part)
        except StepFailed:
            did.append("known")

    async with opened(app, MemoryLog(), clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 10)
        await engine.drain()

    assert did == ["undone", "known"]


async def test_redrive_of_what_was_undone_begins_anew() -> None:
    """Its steps were undone, so their results are worth nothing."""
    did, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(saga(did), log, clock) as engine:
        await engine.emit("trip", ["hotel", "fail"])
        await settle(engine, clock)
        (dead,) = engine.runs("dead")
        await engine.redrive(dead.id)
        await settle(engine, clock)

    assert did == ["book hotel", "free hotel", "freed hotel"] * 2
