"""The doubles go wrong as they say, and the engine does what it promises for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from headrace import App, DurabilityLost, LogFull, MemoryLog, Retry, Run, on
from headrace.testing import FailingLog, FullLog, SlowLog, failing_task, virtual_time


async def nothing() -> None:
    """Do nothing."""


async def test_a_slow_log_takes_its_time() -> None:
    """`emit` returns when the event is durable, so it takes as long as the disk."""
    log = SlowLog(delay_s=0.25)
    async with virtual_time() as clock, App("t").open(log, clock=clock) as engine:
        opened = clock.now
        assert await engine.emit("go") == log.committed_sequence
        assert clock.now == opened + 0.25
        assert log.pending_bytes == 0


async def test_a_slow_log_may_be_slow_in_real_time_too() -> None:
    """It needs no virtual time."""
    async with App("t").open(SlowLog(delay_s=0.001)) as engine:
        assert await engine.emit("go") > 0


def test_a_log_cannot_be_faster_than_at_once() -> None:
    """A mistake is found where it is written."""
    with pytest.raises(ValueError, match=r"expected delay_s from 0, found -0\.1"):
        SlowLog(delay_s=-0.1)


async def test_a_log_that_is_held_writes_nothing_until_it_is_let_go() -> None:
    """A test chooses the moment at which a commit is there."""
    log, stored = SlowLog(), list[int]()
    async with virtual_time() as clock, App("t").open(log, clock=clock) as engine:

        async def emit() -> None:
            stored.append(await engine.emit("go"))

        log.hold = True
        async with anyio.create_task_group() as group:
            group.start_soon(emit)
            await clock.advance(1000)
            assert stored == []
            log.release()
        assert stored == [log.committed_sequence]


async def test_a_log_that_fails_ends_the_engine() -> None:
    """A lost disk cancels the block and is raised from it."""
    log = FailingLog()
    with pytest.raises(DurabilityLost, match="disk of the test has died"):
        async with virtual_time() as clock, App("t").open(log, clock=clock) as engine:
            await engine.emit("go")
            log.die()
            await anyio.sleep(3600)
            pytest.fail("the block is cancelled")


async def test_a_log_that_gets_full_goes_on_when_there_is_room() -> None:
    """Nothing is stored while the disk is full, and all goes on by itself."""
    log = FullLog()
    async with virtual_time() as clock, App("t").open(log, clock=clock) as engine:
        first = await engine.emit("go")
        log.fill()
        with pytest.raises(LogFull):
            await engine.emit("go")
        await clock.advance(60)
        assert log.probes > 1
        log.room = True
        with anyio.fail_after(3600):
            await engine.ready()

        assert await engine.emit("go") > first


# ---------------------------------------------------------------- tasks


@pytest.mark.parametrize("in_thread", [False, True], ids=["on the loop", "in a thread"])
async def test_a_task_fails_as_often_as_is_said(in_thread: bool) -> None:
    """A retry policy is tested with the app as it is, and with code that calls the task."""
    app, paged = App("t"), list[str]()
    retry = Retry(attempts=3, wait_first=600, wait_max=9999, jitter=0, on=OSError)

    def page_in_thread(who: str) -> None:
        paged.append(who)

    async def page_on_loop(who: str) -> None:
        paged.append(who)

    page: Callable[[str], Any] = page_in_thread if in_thread else page_on_loop
    app.task(retry=retry, name="page")(page)

    @app.rule(on("go"))
    async def tell(run: Run) -> None:
        await run.call(page, "ada")

    error = OSError("the pager does not answer")
    with failing_task(app, page, times=2, error=error) as double:
        async with virtual_time() as clock, app.open(MemoryLog(), clock=clock) as engine:
            await engine.emit("go")
            await engine.drain()

            assert {run.status for run in engine.runs()} == {"completed"}
            assert clock.now == 600 + 1200
    assert (paged, double.calls) == (["ada"], 3)
    assert app.tasks["page"].function is page


async def test_a_task_that_always_fails_is_a_dead_letter() -> None:
    """Without a number each call fails; an action of a rule is such a task too."""
    app = App("t")
    app.rule(on("go"), name="act")(nothing)

    with failing_task(app, "act", error=LookupError("nobody is there")) as double:
        async with virtual_time() as clock, app.open(MemoryLog(), clock=clock) as engine:
            await engine.emit("go")
            await engine.drain()
            (run,) = engine.runs()

            assert run.status == "dead"
            assert "nobody is there" in str(run.error)
    assert double.calls == 1


def test_a_task_that_is_not_there_is_named() -> None:
    """A typing error is told with what there is."""
    app = App("t")
    app.rule(on("go"), name="act")(nothing)

    with (
        pytest.raises(ValueError, match=r"expected a task of .*\(act\), found axt"),
        failing_task(app, "axt", error=OSError()),
    ):
        pass
    with (
        pytest.raises(ValueError, match="expected times from 1, found 0"),
        failing_task(app, "act", error=OSError(), times=0),
    ):
        pass


def test_a_task_of_another_process_cannot_be_replaced() -> None:
    """The function is imported there: a double would never be called."""
    from tests.engine.process_tasks import large

    app = App("t")
    app.task(process=True)(large)

    with (
        pytest.raises(TypeError, match="expected a task of this process, found 'large'"),
        failing_task(app, large, error=OSError()),
    ):
        pass
