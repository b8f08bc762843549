"""Snapshots of an engine at work: it goes on meanwhile, and the next start begins there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.engine.stand import GatedLog, opened, quiet, until

from headrace import App, FileLog, Firing, MemoryLog, Run, on
from headrace.engine import snapshotter as snapshotter_module
from headrace.engine.errors import EngineClosed
from headrace.engine.kernel import Kernel
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import Record, decode
from headrace.engine.snapshotter import Snapshotter

pytestmark = pytest.mark.anyio


def make_app(fired: list[Any]) -> App:
    """A rule that needs three events of a key, and a task that sleeps for ever."""
    app = App("counts")

    @app.rule(on("n", int).key(lambda e: e.data % 7).count(3, within=1e6))
    async def three(firing: Firing[int]) -> None:
        fired.append((firing.key, [event.data for event in firing.events]))

    @app.rule(on("wait"))
    async def wait(run: Run) -> None:
        await run.call(note)
        await run.sleep(1e6)

    @app.task
    async def note() -> int:
        fired.append("noted")
        return 7

    return app


def folded(log: EventLog) -> Kernel:
    """Return the state that the whole log leads to, whatever snapshots there are."""
    kernel = Kernel(make_app([]).decider())
    for first, records in log.read():
        for sequence, raw in enumerate(records, first):
            kernel.fold(sequence, decode(raw))
    kernel.finish_fold()
    return kernel


@pytest.fixture(params=["memory", "file"])
def new_log(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], EventLog]:
    """Each engine's log: the same one, opened again."""
    memory = MemoryLog()
    return lambda: memory if request.param == "memory" else FileLog(tmp_path / "log")


async def test_next_start_begins_at_the_snapshot(
    new_log: Callable[[], EventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what came after is folded; windows, runs and their events are as they were."""
    fired: list[Any] = []
    async with make_app(fired).open(new_log(), grace_s=0) as engine:
        await engine.emit("wait")
        await engine.emit_many([("n", number) for number in range(100)])
        while "noted" not in fired:
            await anyio.lowlevel.checkpoint()
        sequence = await engine.snapshot()
        await engine.emit_many([("n", number) for number in range(100, 110)])

    counted: list[int] = []
    fold_all = Kernel.fold_all

    def counting(self: Kernel, first: int, records: Iterable[Record]) -> None:
        counted.append(first)
        fold_all(self, first, records)

    monkeypatch.setattr(Kernel, "fold_all", counting)
    async with make_app(fired).open(new_log(), grace_s=0) as engine:
        assert counted[0] == sequence + 1
        assert "wait" in [run.task for run in engine.runs() if run.ended_at_ns is None]
        assert engine.state().events == 111
        await engine.emit_many([("n", number) for number in range(110, 120)])
        # Of 0, 7, 14 … there are 18, of the other six kinds 17: 36 threes.
        with anyio.fail_after(10):
            while len({n for entry in fired if entry != "noted" for n in entry[1]}) < 108:
                await anyio.lowlevel.checkpoint()
    # The step of the run that sleeps was not executed again, and no window was lost.
    assert fired.count("noted") == 1
    threes = {tuple(entry[1]) for entry in fired if entry != "noted"}
    assert threes == {(n, n + 7, n + 14) for key in range(7) for n in range(key, 106, 21)}


async def test_events_of_a_firing_come_from_the_log(new_log: Callable[[], EventLog]) -> None:
    """Those of a window that the snapshot knows by their sequences only."""
    fired: list[Any] = []
    async with make_app(fired).open(new_log(), grace_s=0) as engine:
        await engine.emit_many([("n", 3), ("n", 10)])
        await engine.snapshot()
    async with make_app(fired).open(new_log(), grace_s=0) as engine:
        await engine.emit("n", 17)
        await engine.drain()
    assert fired == [(3, [3, 10, 17])]


async def test_ids_are_known_after_a_start_from_a_snapshot(
    new_log: Callable[[], EventLog],
) -> None:
    """A source that delivers again what the snapshot covers does no harm."""
    async with make_app([]).open(new_log(), grace_s=0) as engine:
        first = await engine.emit("n", 1, source="s", id="7", position=3)
        await engine.snapshot()
    async with make_app([]).open(new_log(), grace_s=0) as engine:
        assert await engine.emit("n", 1, source="s", id="7", position=3) == first
        assert engine.state().events == 1
        assert engine.cursor("s") == 3


async def test_one_is_taken_by_itself_and_two_are_kept(new_log: Callable[[], EventLog]) -> None:
    """After every so many records, while events go on coming."""
    app = make_app([])
    async with app.open(new_log(), grace_s=0, snapshot_every=50) as engine:
        with anyio.fail_after(20):
            seen: set[int] = set()
            while len(seen) < 4:
                await engine.emit_many([("n", number) for number in range(20)])
                seen |= set(engine.log.snapshots.sequences())
                await anyio.lowlevel.checkpoint()
        await engine.snapshot()
        assert len(engine.log.snapshots.sequences()) == 2
    async with app.open(new_log(), grace_s=0, snapshot_every=0) as engine:
        assert engine.kernel.divergences == []
        await engine.drain()
        assert engine.kernel.dump() == folded(engine.log).dump()


@pytest.mark.slow
async def test_state_goes_on_changing_while_it_is_written(new_log: Callable[[], EventLog]) -> None:
    """What is written is the state of one sequence, and what goes on is not lost."""
    app = make_app([])
    async with app.open(new_log(), grace_s=0, snapshot_every=0) as engine:
        await engine.emit_many([("n", number) for number in range(500)])
        async with anyio.create_task_group() as group:

            async def emit_more() -> None:
                for number in range(200):
                    await engine.emit("n", number)

            group.start_soon(emit_more)
            for _ in range(3):
                await engine.snapshot()
        await engine.drain()
        assert engine.kernel.dump() == folded(engine.log).dump()
    async with app.open(new_log(), grace_s=0) as engine:
        await engine.drain()
        assert engine.kernel.dump() == folded(engine.log).dump()


async def test_cancelled_snapshot_leaves_nothing(new_log: Callable[[], EventLog]) -> None:
    """And the next one can be taken."""
    async with make_app([]).open(new_log(), grace_s=0, snapshot_every=0) as engine:
        await engine.emit_many([("n", number) for number in range(300)])
        with anyio.CancelScope() as scope:
            scope.cancel()
            await engine.snapshot()
        assert engine.log.snapshots.sequences() == []
        assert await engine.snapshot() == engine.kernel.sequence
        await engine.drain()
        assert engine.kernel.dump() == folded(engine.log).dump()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_snapshot_that_asyncio_cancels_leaves_nothing(tmp_path: Path) -> None:
    """Its own cancellation, as of a time-out, reaches the wait for a thread that cannot stop."""
    loop, tasks, left = asyncio.get_running_loop(), list[asyncio.Task[int]](), dict[int, str]()

    class Files(SystemFiles):
        """A disk during whose first call for a snapshot that is cancelled."""

        def open(self, path: str, flags: int) -> int:
            fd = super().open(path, flags)
            if path.endswith(".hrs.tmp"):
                left[fd] = path
                if len(tasks) == 1:
                    loop.call_soon_threadsafe(tasks[0].cancel)
            return fd

        def close(self, fd: int) -> None:
            left.pop(fd, None)
            super().close(fd)

    log = FileLog(tmp_path / "log", files=Files())
    async with make_app([]).open(log, grace_s=0, snapshot_every=0) as engine:
        tasks.append(asyncio.create_task(engine.snapshot()))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert left == {}
        assert not list((tmp_path / "log").glob("snap-*"))
        tasks.append(asyncio.create_task(engine.snapshot()))
        assert await tasks[1] == engine.kernel.sequence


async def test_damaged_snapshot_is_reported_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The older one is, or the whole log."""
    app = make_app([])
    async with app.open(tmp_path / "log", grace_s=0, snapshot_every=0) as engine:
        await engine.emit_many([("n", number) for number in range(30)])
        await engine.snapshot()
        await engine.emit_many([("n", number) for number in range(30)])
        await engine.snapshot()
        newer, older = engine.log.snapshots.sequences()
    paths = [tmp_path / "log" / f"snap-{sequence:020}.hrs" for sequence in (newer, older)]
    for count, path in enumerate(paths, 1):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        caplog.clear()
        async with app.open(tmp_path / "log", grace_s=0, snapshot_every=0) as engine:
            await engine.drain()
            assert engine.kernel.dump() == folded(engine.log).dump()
        assert [path.name in record.message for record in caplog.records].count(True) >= 1
        assert sum("snapshot_unusable" in record.message for record in caplog.records) == count


async def test_snapshot_ahead_of_the_log_is_not_in_the_way(tmp_path: Path) -> None:
    """One that was copied here from a log that is longer: the next one takes its place."""
    folder = tmp_path / "log"
    async with make_app([]).open(folder, grace_s=0) as engine:
        await engine.emit("n", 1)
    (folder / f"snap-{10**12:020}.hrs").write_bytes(b"of another log")
    async with make_app([]).open(folder, grace_s=0) as engine:
        made = await engine.snapshot()
        assert made == engine.kernel.sequence
        assert engine.log.snapshots.sequences() == [made]


async def test_full_disk_costs_a_snapshot_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine goes on, and says so."""
    from headrace.engine.log.snapshots import SnapshotFile

    def full(self: SnapshotFile, parts: list[bytes]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SnapshotFile, "write", full)
    async with make_app([]).open(tmp_path / "log", grace_s=0, snapshot_every=40) as engine:
        with anyio.fail_after(20):
            while "snapshot_failed" not in caplog.text:
                await engine.emit_many([("n", number) for number in range(20)])
        with pytest.raises(OSError, match="No space"):
            await engine.snapshot()
        await engine.emit("n", 1)
    assert not list((tmp_path / "log").glob("snap-*"))


async def test_nothing_is_removed_because_of_what_may_be_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the state does not need any more goes once the records that say so are durable."""
    log, removed_at, noted = GatedLog(), list[int](), list[int]()
    write = Snapshotter._write

    async def hold_and_write(self: Snapshotter, *parts: Any) -> None:
        await write(self, *parts)
        log.hold = True
        group.start_soon(engine.emit, "late")
        while engine.kernel.sequence == noted[0]:
            await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(Snapshotter, "_write", hold_and_write)
    monkeypatch.setattr(
        snapshotter_module,
        "tidy_up",
        lambda log, *_: removed_at.append(log.committed_sequence),
    )
    async with opened(make_app([]), log) as engine, anyio.create_task_group() as group:
        await engine.emit("n", 1)
        noted.append(engine.kernel.sequence)
        group.start_soon(engine.snapshot)
        await until(log.snapshots.sequences)
        await quiet(engine)
        await until(lambda: "headrace-opener" not in str(threading.enumerate()))
        log.release()
    assert removed_at == [noted[0] + 1]


async def test_snapshot_of_a_closed_engine_is_refused() -> None:
    """With what to do."""
    engine = make_app([]).open(MemoryLog())
    with pytest.raises(EngineClosed, match="async with"):
        await engine.snapshot()
    with pytest.raises(ValueError, match="snapshot_every"):
        make_app([]).open(MemoryLog(), snapshot_every=-1)
