"""A run that kills the process is given up; those that executed beside it are not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.engine.stand import Gate, StepClock, check_live, of_kind, opened, quiet

from headrace import App, MemoryLog, Retry, Run, StepFailed, on
from headrace.engine.record import CrashesCounted, RunFailed


async def lives(
    app: App,
    log: MemoryLog,
    *,
    upto: int = 20,
    dies: Callable[[], object],
    **options: Any,
) -> tuple[MemoryLog, int]:
    """Open *app* again and again, and let the process die whenever *dies* says so.

    Returns the log that is left, and how often it died.
    """
    for died in range(upto):
        async with opened(app, log, StepClock(), **options) as engine:
            await quiet(engine)
            if not dies():
                await engine.drain()
                await check_live(engine)
                return log, died
            left = log.copy(engine.log.committed_sequence)
        log = left
    raise AssertionError("it dies for ever")


class Deadly:
    """An app with innocents and a run that kills the process when its code executes."""

    def __init__(self, innocents: int = 5, **task: Any) -> None:
        self.app = App("t")
        self.gate = Gate()
        self.is_killing = False
        self.began: dict[str, int] = {"killer": 0, "innocent": 0}

        @self.app.task(**task)  # type: ignore[untyped-decorator]
        async def killer() -> None:
            self.began["killer"] += 1
            self.is_killing = True
            await self.gate.wait()

        @self.app.task
        async def innocent() -> None:
            self.began["innocent"] += 1
            if self.is_killing:
                await self.gate.wait()  # until the process is dead

        self.killer, self.innocent = killer, innocent
        self.innocents = innocents

    def dies(self) -> bool:
        is_killing, self.is_killing = self.is_killing, False
        return is_killing

    async def begun(self) -> MemoryLog:
        """Launch all, let the process die once, and return what is left."""
        log = MemoryLog()
        async with opened(self.app, log, StepClock()) as engine:
            for _ in range(self.innocents // 2):
                await engine.launch(self.innocent)
            await engine.launch(self.killer)
            self.is_killing = True
            for _ in range(self.innocents - self.innocents // 2):
                await engine.launch(self.innocent)
            await quiet(engine)
            assert self.dies()
            return log.copy(engine.kernel.sequence)


async def test_a_run_that_kills_the_process_becomes_a_dead_letter() -> None:
    """Three times, and no more; whatever else was open comes to its end."""
    deadly = Deadly()
    log, died = await lives(deadly.app, await deadly.begun(), dies=deadly.dies)

    assert died == 2  # and once before
    assert deadly.began["killer"] == 3
    (failed,) = of_kind(log, RunFailed)
    assert failed.error.startswith("ProcessDied: the process died 3 times while this run executed")
    async with opened(deadly.app, log) as engine:
        assert engine.state().runs_ended == {"completed": 5, "dead": 1}


async def test_how_often_can_be_set() -> None:
    """Two is the least: after one crash nobody knows whose it was."""
    deadly = Deadly()
    log, died = await lives(
        deadly.app, await deadly.begun(), dies=deadly.dies, crash_attempts_max=2
    )
    assert died == 1
    assert deadly.began["killer"] == 2
    assert len(of_kind(log, RunFailed)) == 1


async def test_it_can_be_off() -> None:
    """Then nothing is counted, and the loop is for the supervisor to end."""
    deadly = Deadly(innocents=0)
    log = await deadly.begun()
    for _ in range(6):
        async with opened(deadly.app, log, StepClock(), crash_attempts_max=0) as engine:
            await quiet(engine)
            log = log.copy(engine.kernel.sequence)
    assert deadly.began["killer"] == 7
    assert of_kind(log, CrashesCounted) == []
    assert of_kind(log, RunFailed) == []


async def test_a_clean_stop_never_counts() -> None:
    """However often the engine is closed while the run executes."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.task
    async def work() -> None:
        await gate.wait()

    for n in range(6):
        async with opened(app, log) as engine:
            if not n:
                await engine.launch(work)
            await quiet(engine)
    assert of_kind(log, CrashesCounted) == []
    gate.open()
    async with opened(app, log) as engine:
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 1}


async def test_getting_something_done_clears_a_run() -> None:
    """A long workflow that lives through many crashes is no killer."""
    app, log, done = App("t"), MemoryLog(), list[int]()
    gates = [Gate() for _ in range(8)]

    @app.task
    async def step(n: int) -> int:
        return n

    @app.task
    async def work(run: Run) -> int:
        for n, gate in enumerate(gates):
            await gate.wait()
            done.append(await run.call(step, n))
        return len(done)

    async with opened(app, log) as engine:
        await engine.launch(work)
        await quiet(engine)
        log = log.copy(engine.kernel.sequence)
    for gate in gates:
        async with opened(app, log, StepClock()) as engine:
            gate.open()
            await quiet(engine)
            log = log.copy(engine.kernel.sequence)
    assert of_kind(log, RunFailed) == []


@pytest.mark.parametrize("how", ["compensate", "emit", "keyed", "launch", "patched"])
async def test_whatever_a_run_asks_for_clears_it(how: str) -> None:
    """All of it is on record, so it has got on."""
    app, log, crashes = App("t"), MemoryLog(), list[int]()

    @app.task
    async def other() -> None: ...

    @app.task
    async def work(run: Run) -> None:
        for n in range(len(crashes) + 1):
            asked: dict[str, Callable[[], Awaitable[object]]] = {
                "compensate": lambda: run.compensate(other),
                "emit": lambda: run.emit("x"),
                "keyed": lambda n=n: run.keyed(str(n)).launch(other),  # type: ignore[misc]
                "launch": lambda: run.launch(other),
            }
            if how == "patched":
                run.patched(f"patch {n}")
            else:
                await asked[how]()
        await anyio.sleep_forever()

    async with opened(app, log) as engine:
        run_id = await engine.launch(work)
        await quiet(engine)
        log = log.copy(engine.kernel.sequence)
    for _ in range(6):
        crashes.append(0)
        async with opened(app, log, StepClock()) as engine:
            await quiet(engine)
            crashes[-1] = engine.kernel.state.runs.active[run_id].crashes
            log = log.copy(engine.kernel.sequence)
    assert crashes == [0] * 6
    assert len(of_kind(log, CrashesCounted)) == 6


async def test_sleepers_are_not_suspected() -> None:
    """A run whose code stands at a wait was not executing."""
    app, log = App("t"), MemoryLog()

    @app.task
    async def nap() -> None: ...

    @app.task
    async def work(run: Run) -> None:
        await run.sleep(1000)
        await run.call(nap)

    async with opened(app, log) as engine:
        await engine.launch(work)
        await quiet(engine)
        log = log.copy(engine.kernel.sequence)
    for _ in range(5):
        async with opened(app, log, StepClock()) as engine:
            await quiet(engine)
            log = log.copy(engine.kernel.sequence)
    assert of_kind(log, CrashesCounted) == []


async def test_a_step_that_kills_fails_for_its_parent() -> None:
    """The parent waits for it, and so it is not suspected itself."""
    app, gate, log, caught = App("t"), Gate(), MemoryLog(), list[str]()
    killing = [False]

    @app.task
    async def killer() -> None:
        killing[0] = True
        await gate.wait()

    @app.rule(on("go"))
    async def parent(run: Run) -> None:
        try:
            await run.call(killer)
        except StepFailed as error:
            caught.append(error.error)

    def dies() -> bool:
        was, killing[0] = killing[0], False
        return was

    async with opened(app, log) as engine:
        await engine.emit("go")
        await quiet(engine)
        assert dies()
        left = log.copy(engine.kernel.sequence)
    log, died = await lives(app, left, dies=dies)
    assert died == 2
    assert caught[-1].startswith("ProcessDied: the process died 3 times")
    async with opened(app, log) as engine:
        assert engine.state().runs_ended == {"failed": 1, "completed": 1}


async def test_suspects_are_executed_one_after_the_other() -> None:
    """Each alone among such, with a record before its code begins; others go on beside it."""
    app, log, gate = App("t"), MemoryLog(), Gate()
    inside: list[int] = []

    @app.task
    async def work(run: Run) -> None:
        inside.append(run.id)
        await gate.wait()

    @app.task
    async def other() -> int:
        return 7

    async with opened(app, log) as engine:
        runs = [await engine.launch(work) for _ in range(4)]
        await quiet(engine)
        left = log.copy(engine.kernel.sequence)
    async with opened(app, left, StepClock()) as engine:
        await quiet(engine)
        assert sorted(inside[4:]) == runs  # once is nobody's fault
        left = left.copy(engine.kernel.sequence)
    inside.clear()
    async with opened(app, left, StepClock()) as engine:
        await quiet(engine)
        assert inside == [runs[0]]
        assert [counted.trial for counted in of_kind(left, CrashesCounted)] == [0, 0, runs[0]]
        assert await engine.result(await engine.launch(other)) == 7
        gate.open()
        await engine.drain()
        assert inside == runs
        await check_live(engine)


async def test_a_failure_clears_as_well() -> None:
    """An attempt that ends, ends well for the process."""
    app, log, gate = App("t"), MemoryLog(), Gate()

    @app.task(retry=Retry(attempts=9, wait_first=1000, wait_max=1000))
    async def work() -> None:
        await gate.wait()
        raise OSError

    async with opened(app, log) as engine:
        run = await engine.launch(work)
        await quiet(engine)
        left = log.copy(engine.kernel.sequence)
    async with opened(app, left, StepClock()) as engine:
        await quiet(engine)
        left = left.copy(engine.kernel.sequence)
    gate.open()
    async with opened(app, left, StepClock()) as engine:
        await quiet(engine)
        state = engine.kernel.state
        assert (state.runs.active[run].status, state.runs.active[run].crashes) == ("retrying", 0)
        assert state.crashes.trial == 0


async def test_a_redriven_killer_is_tried_anew() -> None:
    """Its code was mended: it counts from nothing."""
    deadly = Deadly(innocents=0)
    log, _ = await lives(deadly.app, await deadly.begun(), dies=deadly.dies)
    deadly.gate.open()
    (failed,) = of_kind(log, RunFailed)
    async with opened(deadly.app, log) as engine:
        await engine.redrive(failed.run)
        await engine.drain()
        assert [view.status for view in engine.runs()] == ["completed"]


async def test_a_killer_with_limits_is_found_too() -> None:
    """Through its gate, and then on trial."""
    deadly = Deadly(concurrency=1, priority=3)
    log, died = await lives(deadly.app, await deadly.begun(), dies=deadly.dies)
    assert died == 2
    assert len(of_kind(log, RunFailed)) == 1


async def test_counts_are_in_snapshots() -> None:
    """A start from one knows who is suspected."""
    app, gate, log = App("t"), Gate(), MemoryLog()

    @app.task
    async def work() -> None:
        await gate.wait()

    async with opened(app, log) as engine:
        run = await engine.launch(work)
        await quiet(engine)
        left = log.copy(engine.kernel.sequence)
    for crashes in (1, 2):
        async with opened(app, left, StepClock()) as engine:
            await quiet(engine)
            await engine.snapshot()
            assert engine.kernel.state.runs.active[run].crashes == crashes
            left = left.copy(engine.kernel.sequence)
    async with opened(app, left, StepClock()) as engine:
        assert [view.status for view in engine.runs()] == ["dead"]
        await check_live(engine)
