"""Whole engines on the machine's own file systems: a small one that fills up, a log that goes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from headrace import App, DurabilityLost, Engine, Firing, LogFull, Run, on
from headrace.engine.log import FileLog
from headrace.engine.log.verify import verify
from headrace.engine.record import EventStored, RunCompleted, decode

HANG_S = 30.0
SMALL_BYTES = 256 * 1024
FILLER_BYTES = 160 * 1024
EMITTERS = 8
EVENTS = 60  # of each emitter


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def make_app() -> App:
    """Return an app whose every event leads to a run with a recorded step."""
    app = App("load")

    @app.task
    async def square(number: int) -> int:
        return number * number

    @app.rule(on("load.*", int))
    async def work(run: Run, firing: Firing[int]) -> list[int]:
        number = firing.events[0].data
        return [number, await run.call(square, number)]

    return app


async def emit_until_stored(engine: Engine, number: int) -> None:
    """Store one event, without an id, however often the disk is full."""
    subject = f"load.{'x' * 150}"
    while True:
        try:
            await engine.emit(subject, number)
        except LogFull:
            await engine.ready()
        else:
            return


async def test_load_on_a_disk_that_fills_up(small_disk: Path) -> None:
    """Once somebody makes room, all is there exactly once, and every run has its result."""
    log = FileLog(small_disk / "log", reserve_bytes=16 * 1024, segment_bytes_max=32 * 1024)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(FILLER_BYTES))
    was_full = False

    async def emit_many(first: int) -> None:
        for number in range(first, EMITTERS * EVENTS, EMITTERS):
            await emit_until_stored(engine, number)

    async def make_room() -> None:
        nonlocal was_full
        while engine.state().ready:
            await anyio.sleep(0.005)
        was_full = True
        filler.unlink()

    with anyio.fail_after(HANG_S):
        async with make_app().open(log, probe_s=0.02) as engine:
            async with anyio.create_task_group() as group:
                for first in range(EMITTERS):
                    group.start_soon(emit_many, first)
                group.start_soon(make_room)
            await engine.drain()
            records = [decode(raw) for _, batch in log.read() for raw in batch]

    stored = [msgspec.msgpack.decode(r.data) for r in records if isinstance(r, EventStored)]
    results = [msgspec.msgpack.decode(r.result) for r in records if isinstance(r, RunCompleted)]
    assert was_full
    assert sorted(stored) == list(range(EMITTERS * EVENTS))
    pairs = sorted(result for result in results if isinstance(result, list))
    assert pairs == [[number, number * number] for number in range(EMITTERS * EVENTS)]
    assert verify(str(small_disk / "log")).ok


async def test_closing_on_a_full_disk_leaves_a_log_that_opens(small_disk: Path) -> None:
    """Nobody has to make room first in order to stop, or to look at what there is."""
    path = small_disk / "log"
    acknowledged: list[int] = []
    with anyio.fail_after(HANG_S), pytest.raises(LogFull, match="make room"):
        async with make_app().open(FileLog(path, reserve_bytes=16 * 1024), grace_s=0) as engine:
            while True:
                acknowledged.append(await engine.emit("other", bytes(3000)))
    report = verify(str(path))
    assert report.ok
    assert report.last_sequence >= acknowledged[-1]
    log = FileLog(path, reserve_bytes=0)
    log.open(lambda: None)
    assert log.recovery is not None
    assert log.recovery.clean
    log.close()


def delete(path: Path) -> None:
    """Remove the log."""
    shutil.rmtree(path)


def move(path: Path) -> None:
    """Move the log away, as to rotate it by hand."""
    path.rename(path.with_name("moved"))


def move_and_replace(path: Path) -> None:
    """Put a copy in the place of the log."""
    move(path)
    shutil.copytree(path.with_name("moved"), path, ignore=shutil.ignore_patterns("*.sock"))


@pytest.mark.parametrize("remove", [delete, move, move_and_replace])
async def test_a_log_that_goes_away_stops_the_engine(
    tmp_path: Path, remove: Callable[[Path], None]
) -> None:
    """Nothing is acknowledged that nobody would find again."""
    path = tmp_path / "log"
    acknowledged = before = 0
    with anyio.fail_after(HANG_S), pytest.raises(DurabilityLost, match="deleted or moved away"):
        async with make_app().open(path, grace_s=0) as engine:
            await engine.emit("load.a", 1)
            await engine.drain()
            remove(path)
            before = engine.kernel.sequence
            acknowledged = await engine.emit("load.a", 2)
    assert acknowledged == 0
    assert before > 0
