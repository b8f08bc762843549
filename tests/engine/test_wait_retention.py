"""What the log keeps for runs that wait, or have waited: all that their code is given again."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest
from tests.engine.stand import StepClock, opened, quiet, until

from headrace import App, FileLog, Firing, MemoryLog, RedriveRefused, Run, TaskFailed, on


class StoppedLog(FileLog):
    """A log in which each record has a segment, and whose snapshots stop before they are used."""

    def __init__(self, folder: Path) -> None:
        """Begin without a stop."""
        super().__init__(folder, segment_bytes_max=1, keep_bytes=1)
        self.stops = False
        self.is_at_stop = threading.Event()
        self.may_go_on = threading.Event()

    def sync(self, sequence: int) -> None:
        """See `FileLog`."""
        if self.stops:
            self.stops = False
            self.is_at_stop.set()
            assert self.may_go_on.wait(20)
        super().sync(sequence)


class CutLog(MemoryLog):
    """A log that has lost its first records."""

    gone = 0

    def fetch(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """See `MemoryLog`."""
        return super().fetch([sequence for sequence in sequences if sequence > self.gone])


async def test_what_met_a_wait_is_kept_for_as_long_as_its_run_is_open(tmp_path: Path) -> None:
    """The code is given it again after a restart, though it is older than the run."""
    app, clock = App("t"), StepClock()

    @app.task
    async def start(run: Run, since: int) -> int:
        firing = await run.wait(on("up", int), since=since)
        await run.sleep(100)
        return firing.events[0].data

    log = StoppedLog(tmp_path / "log")
    async with opened(app, log, clock=clock, snapshot_every=0) as engine:
        await engine.emit_many([("n", None)] * 3)
        since = await engine.emit("n")
        up = await engine.emit("up", 42)
        await engine.emit_many([("n", None)] * 5)
        run_id = await engine.launch(start, since)
        await until(lambda: len(engine.kernel.state.runs.active[run_id].steps) == 2)
        for n in range(2):  # an older snapshot is kept too
            await engine.emit("n", n)
            await engine.snapshot()
        assert next(iter(log.read()))[0] == up, "it has removed what it may, and no more"
    async with opened(app, StoppedLog(tmp_path / "log"), clock=clock) as engine:
        await clock.step(engine, 100)
        assert await engine.result(run_id) == 42


@pytest.mark.parametrize("how", ["waits", "redriven"])
async def test_what_is_needed_since_a_snapshot_was_begun_is_kept(tmp_path: Path, how: str) -> None:
    """The snapshot does not know of it, and is what lets older records go."""
    app, clock = App("t"), StepClock()
    is_broken = True

    @app.rule(on("up", int))
    async def act(run: Run, firing: Firing[int]) -> int:
        if is_broken:
            raise OSError("not now")
        await run.sleep(100)
        return firing.events[0].data

    @app.task
    async def start(run: Run, since: int) -> int:
        found = await run.wait(on("up", int), since=since)
        await run.sleep(100)
        return found.events[0].data

    log = StoppedLog(tmp_path / "log")
    async with opened(app, log, clock=clock, snapshot_every=0) as engine:
        await engine.emit_many([("n", None)] * 3)
        since = await engine.emit("n")
        up = await engine.emit("up", 42)
        await until(lambda: engine.runs("dead"))
        is_broken = False
        (dead,) = engine.runs("dead")
        run_id = dead.id
        await engine.emit("n")
        await engine.snapshot()
        await engine.emit("n")
        log.stops = True
        async with anyio.create_task_group() as group:
            group.start_soon(engine.snapshot)
            await until(log.is_at_stop.is_set)
            if how == "waits":
                run_id = await engine.launch(start, since)
            else:
                await engine.redrive(run_id)
            runs = engine.kernel.state.runs.active
            await until(lambda: runs[run_id].waits_for_time)
            log.may_go_on.set()
        assert next(iter(log.read()))[0] == up
    async with opened(app, StoppedLog(tmp_path / "log"), clock=clock) as engine:
        await clock.step(engine, 100)
        await until(lambda: not engine.runs("active"))
        assert [run.status for run in engine.runs() if run.id == run_id] == ["completed"]


async def test_a_redrive_without_what_its_waits_returned_is_refused() -> None:
    """It says so at once, instead of failing again; from the start it goes on."""
    app, log, clock = App("t"), CutLog(), StepClock()
    tried: list[int] = []

    @app.task
    async def start(run: Run) -> int:
        firing = await run.wait(on("up", int))
        tried.append(firing.events[0].data)
        if len(tried) == 1:
            raise OSError("not now")
        return tried[-1]

    async with opened(app, log, clock=clock) as engine:
        run_id = await engine.launch(start)
        await quiet(engine)
        up = await engine.emit("up", 1)
        with pytest.raises(TaskFailed, match="not now"):
            await engine.result(run_id)
        log.gone = up
        with pytest.raises(RedriveRefused, match=rf"waits have returned.*record {up};.*from"):
            await engine.redrive(run_id)
        await engine.redrive(run_id, from_start=True)
        await quiet(engine)
        await engine.emit("up", 2)
        assert await engine.result(run_id) == 2
