"""Versions of tasks and patches: old runs go on with the code that they began with."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.stand import (
    Gate,
    StepClock,
    borders,
    check_live,
    of_kind,
    opened,
    quiet,
)

from headrace import App, MemoryLog, Retry, Run, on
from headrace.engine.record import PatchMarked, RunCompleted, TasksListed


def versions(got: list[str], *declared: str | None) -> App:
    """Return an app with a task of the *declared* versions, the last in force."""
    app, tasks = App("t"), dict[str | None, Any]()

    def declare(version: str | None) -> None:
        @app.task(name="work", version=version)
        async def work(run: Run) -> str | None:
            got.append(f"{version} begins")
            await run.sleep(10)
            got.append(f"{version} ends")
            return version

        tasks[version] = work

    for version in declared:
        declare(version)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.launch(tasks[declared[-1]])

    return app


async def test_runs_end_with_the_version_that_they_began_with() -> None:
    """New code beside the old: nobody has to wait until the old runs are through."""
    got, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(versions(got, None), log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 1)
    async with opened(versions(got, None, "2"), log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 1)
    async with opened(versions(got, None, "2", "3"), log, clock) as engine:
        await engine.emit("a")
        await quiet(engine)
        assert sorted(run.version for run in engine.runs("active")) == ["", "2", "3"]
        await clock.step(engine, 30)
        await engine.drain()
        await check_live(engine)

    assert [text for text in got if text.endswith("ends")] == ["None ends", "2 ends", "3 ends"]
    assert [listed.versions for listed in of_kind(log, TasksListed)] == [
        {"work": "2"},
        {"work": "3"},
    ]


async def test_run_of_a_version_that_is_gone_stays_open(caplog: pytest.LogCaptureFixture) -> None:
    """It is not executed by other code; it goes on once its own is there again."""
    got, clock, log = list[str](), StepClock(), MemoryLog()
    async with opened(versions(got, "1"), log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 1)
    clock.pass_by(60)
    async with opened(versions(got, "2"), log, clock) as engine:
        await clock.step(engine, 30)
        await engine.drain()
        (left,) = engine.runs("active")
        assert left.version == "1"
    assert got == ["1 begins"]
    assert caplog.text.count("task_missing") == 1
    for word in ("work", "version", str(left.id)):
        assert word in caplog.text
    async with opened(versions(got, "1", "2"), log, clock) as engine:
        await clock.step(engine, 30)
        await engine.drain()

    assert got == ["1 begins", "1 begins", "1 ends"]


def test_same_version_twice_is_refused() -> None:
    """One of them would never be executed."""
    for declared in (("1", "1"), ("1", "2", "1"), (None, None)):
        with pytest.raises(ValueError, match="'work' is declared twice"):
            versions([], *declared)


async def test_versions_are_recorded_only_when_they_change() -> None:
    """A start costs no record for what stays as it was, and apps without versions none at all."""
    log = MemoryLog()
    for declared in ((None,), (None,), ("1",), ("1",), (None,)):
        async with opened(versions([], *declared), log):
            pass

    assert [listed.versions for listed in of_kind(log, TasksListed)] == [{"work": "1"}, {}]


# ---------------------------------------------------------------- patches


def patched(got: list[Any], gate: Gate | None, **options: Any) -> App:
    """Return an app whose rule asks for a patch; without a *gate*, the code of before that."""
    app = App("t")

    @app.task
    async def old() -> str:
        return "old"

    @app.task
    async def new() -> str:
        return "new"

    @app.rule(on("a"), **options)
    async def act(run: Run) -> None:
        if gate is not None and run.patched("better"):
            got.append(await run.call(new))
        else:
            got.append(await run.call(old))
        await run.sleep(5)
        if run.attempt == 1 and options:
            raise OSError
        got.append("end")

    return app


async def test_run_that_had_passed_the_place_takes_the_old_way() -> None:
    """And a new one takes the new way; the answers stay, whatever happens."""
    got, clock, log = list[Any](), StepClock(), MemoryLog()
    async with opened(patched(got, None), log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 1)
    async with opened(patched(got, Gate()), log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 1)
    async with opened(patched(got, Gate()), log, clock) as engine:
        await clock.step(engine, 20)
        await engine.drain()
        await check_live(engine)

    assert sorted(mark.is_patched for mark in of_kind(log, PatchMarked)) == [False, True]
    assert got[:2] == ["old", "new"]
    assert sorted(got[2:]) == ["end", "end", "new", "old"]


async def test_patch_is_the_same_in_each_attempt() -> None:
    """Also when the attempt that asked has failed."""
    got, clock, log = list[Any](), StepClock(), MemoryLog()
    app = patched(got, Gate(), retry=Retry(attempts=2, wait_first=1, jitter=0))
    async with opened(app, log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 20)
        await engine.drain()

    assert got == ["new", "new", "end"]
    assert len(of_kind(log, PatchMarked)) == 1


async def test_patch_is_the_same_after_a_crash_anywhere() -> None:
    """The mark comes before what follows from it."""
    got, clock, log = list[Any](), StepClock(), MemoryLog()
    async with opened(patched(got, Gate()), log, clock) as engine:
        await engine.emit("a")
        await clock.step(engine, 20)
        await engine.drain()

    for upto in borders(log)[2:]:
        left, late = log.copy(upto), StepClock()
        got.clear()
        async with opened(patched(got, Gate()), left, late) as engine:
            await late.step(engine, 20)
            await engine.drain()
        assert "old" not in got
        assert [mark.is_patched for mark in of_kind(left, PatchMarked)] == [True]
        assert len(of_kind(left, RunCompleted)) == 2


async def test_redrive_from_the_start_takes_the_new_way() -> None:
    """All that it did is forgotten, and so is the way that it took; a plain redrive keeps it."""
    got, broken, log = list[str](), [True], MemoryLog()

    def app(*, is_new: bool) -> App:
        made = App("t")

        @made.task
        async def step() -> None: ...

        @made.task
        async def work(run: Run) -> None:
            got.append("new" if is_new and run.patched("better") else "old")
            await run.call(step)
            if broken:
                raise OSError

        return made

    before, after = app(is_new=False), app(is_new=True)
    async with opened(before, log) as engine:
        run_id = await engine.launch(before.tasks["work"].function)
        await engine.drain()
    async with opened(after, log) as engine:
        await engine.redrive(run_id)
        await engine.drain()
        broken.clear()
        await engine.redrive(run_id, from_start=True)
        await engine.drain()
        await check_live(engine)
        assert [view.id for view in engine.runs("completed") if view.task == "work"] == [run_id]
    assert got == ["old", "old", "new"]


async def test_redrive_of_what_was_undone_takes_the_new_way() -> None:
    """It begins anew, so that the way that it took does not matter any more."""
    got, log, clock = list[str](), MemoryLog(), StepClock()

    def app(*, is_new: bool) -> App:
        made = App("t")

        @made.task
        async def undo() -> None: ...

        @made.task
        async def work(run: Run) -> None:
            await run.compensate(undo)
            if is_new:
                got.append("new" if run.patched("better") else "old")
            await run.sleep(10)
            if got == ["old"]:
                raise OSError

        return made

    before, after = app(is_new=False), app(is_new=True)
    async with opened(before, log, clock) as engine:
        run_id = await engine.launch(before.tasks["work"].function)
        await quiet(engine)
    async with opened(after, log, clock) as engine:
        await clock.step(engine, 20)
        assert [view.id for view in engine.runs("dead")] == [run_id]
        await engine.redrive(run_id)
        await clock.step(engine, 20)
        await check_live(engine)
        assert engine.runs("active") == []
    assert got == ["old", "new"]
