"""What is offered past the engine survives like everything else: power loss, errors, full disks."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from random import Random

import anyio
import msgspec
import pytest
from tests.simulation.disk import SimulatedDisk

from headrace import App, Emission, LogFull, on
from headrace.engine.control_wire import NAME
from headrace.engine.errors import LogError
from headrace.engine.log import FileLog
from headrace.engine.offline import OfflineLog
from headrace.engine.record import EventOffered, EventStored, decode

PATH = "/var/log"
BATCHES = 6
HANG_S = 60.0


def fresh_disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.folders.add("/var")
    disk.durable_folders.add("/var")
    return disk


def log_on(disk: SimulatedDisk) -> FileLog:
    return FileLog(PATH, files=disk, reserve_bytes=0, segment_bytes_max=300)


def offer(disk: SimulatedDisk) -> list[int]:
    """Offer numbered events, two at a time, each pair by a command of its own.

    Returns those of which the command was told that they are durable.
    """
    acknowledged: list[int] = []
    for first in range(0, 2 * BATCHES, 2):
        try:
            with OfflineLog(log_on(disk)) as log:
                log.offer([Emission("a", first), Emission("a", first + 1, id=str(first))])
                acknowledged += [first, first + 1]
        except LogError:
            break
    return acknowledged


def events_on(disk: SimulatedDisk, kind: type[EventOffered] | type[EventStored]) -> list[int]:
    """Return the numbers in the log."""
    disk.before = lambda _name, _path: None
    disk.free_bytes = None
    log = log_on(disk)
    log.open(lambda: None)
    try:
        found = [decode(raw) for _, batch in log.read() for raw in batch]
        return [msgspec.msgpack.decode(x.data) for x in found if isinstance(x, kind)]
    finally:
        log.close()


def calls() -> list[str]:
    """Return what a life without faults asks of the disk."""
    disk = fresh_disk()
    assert offer(disk) == list(range(2 * BATCHES))
    return disk.calls


def test_power_loss_at_any_moment_loses_no_offer() -> None:
    """What a command said is in the log is there when the power is back; the rest in order."""
    for after in range(len(calls())):
        rng = Random(after)
        disk = fresh_disk()
        disk.power_off_after(after)
        acknowledged = offer(disk)
        found = events_on(disk.crash(rng), EventOffered)

        assert found == list(range(len(found))), after
        assert len(found) >= len(acknowledged), after


@pytest.mark.parametrize("name", ["open", "pwrite", "fsync", "fdatasync", "rename", "pread"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_at_any_call_loses_no_offer(name: str, code: int) -> None:
    """The command says that it failed, and what earlier ones said still holds."""
    for nth in range(1, 1 + sum(call.startswith(f"{name} ") for call in calls())):
        disk = fresh_disk()
        disk.fail(name, nth, code)
        acknowledged = offer(disk)
        found = events_on(disk.killed(), EventOffered)

        assert found == list(range(len(found))), nth
        assert len(found) >= len(acknowledged), nth


async def test_a_disk_that_fills_up_while_offers_are_stored() -> None:
    """The engine goes on once there is room; each offer is stored once, before what is newer."""
    app = App("plant")

    @app.rule(on("a"))
    async def each() -> None: ...

    for nth in range(1, 12):
        disk = fresh_disk()
        offer(disk)
        log = log_on(disk)
        # Only the mark of a clean end may not fit: all else is waited for.
        with anyio.fail_after(HANG_S), contextlib.suppress(LogFull):
            async with app.open(log, grace_s=0, probe_s=0.001) as engine:
                disk.fail("pwrite", nth, errno.ENOSPC, path=".hrl")
                while True:
                    try:
                        await engine.emit("a", 2 * BATCHES)
                        break
                    except LogFull:
                        await engine.ready()
                await engine.drain()
                assert engine.state().offers == 0
            disk.before = lambda _name, _path: None
        assert events_on(disk, EventStored) == list(range(2 * BATCHES + 1)), nth


async def test_a_simulated_disk_has_no_socket() -> None:
    """A test of an engine leaves nothing in the directories of the machine it runs on."""
    log = log_on(fresh_disk())
    async with App("plant").open(log) as engine:
        await engine.emit("a")
        await anyio.wait_all_tasks_blocked()
        assert log.folder is None
        assert not (Path(PATH) / NAME).exists()
