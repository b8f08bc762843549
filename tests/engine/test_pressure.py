"""Producers that are faster than the disk: they wait, and the memory holds."""

from __future__ import annotations

import threading
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

import headrace.engine.commit as commit_module
from headrace import App
from headrace.engine.log import FileLog
from headrace.engine.log.files import SystemFiles

HANG_S = 30.0
PENDING_BYTES_MAX = 64 * 1024
EVENT_BYTES = 1000
PRODUCERS = 1000
TURNS = 200


class StuckDisk(SystemFiles):
    """A disk that takes its time with a sync: until it is told to go on."""

    def __init__(self) -> None:
        """Work as any other."""
        self.go_on = threading.Event()
        self.go_on.set()

    def fdatasync(self, fd: int) -> None:
        """See `Files.fdatasync`."""
        assert self.go_on.wait(HANG_S)
        super().fdatasync(fd)


@pytest.mark.slow
async def test_emitters_wait_for_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, no more than the limit waits in memory; then all is stored."""
    monkeypatch.setattr(commit_module, "PENDING_BYTES_MAX", PENDING_BYTES_MAX)
    disk = StuckDisk()
    log = FileLog(tmp_path / "log", files=disk)
    acknowledged, accepted, most_bytes = list[int](), 0, 0

    async def produce(number: int) -> None:
        acknowledged.append(await engine.emit("a", bytes(EVENT_BYTES), id=str(number)))

    with anyio.fail_after(HANG_S):
        async with App("t").open(log) as engine:
            await engine.emit("a")
            disk.go_on.clear()
            async with anyio.create_task_group() as group:
                for number in range(PRODUCERS):
                    group.start_soon(produce, number)
                for _ in range(TURNS):
                    await checkpoint()
                    most_bytes = max(most_bytes, log.pending_bytes)
                accepted = engine.state().events
                assert acknowledged == []
                disk.go_on.set()
                while len(acknowledged) < PRODUCERS:
                    await checkpoint()
                    most_bytes = max(most_bytes, log.pending_bytes)
            assert engine.state().events == 1 + PRODUCERS

    assert 0 < accepted < PRODUCERS / 2
    assert PENDING_BYTES_MAX < most_bytes < PENDING_BYTES_MAX + 2 * EVENT_BYTES
    assert sorted(acknowledged) == list(range(3, 3 + PRODUCERS))


async def test_who_gives_up_waiting_has_stored_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time-out while the log has no room for an event leaves no trace of it."""
    monkeypatch.setattr(commit_module, "PENDING_BYTES_MAX", EVENT_BYTES)
    disk = StuckDisk()
    log = FileLog(tmp_path / "log", files=disk)
    with anyio.fail_after(HANG_S):
        async with App("t").open(log) as engine:
            await engine.emit("a")
            disk.go_on.clear()
            scope = anyio.CancelScope()
            async with anyio.create_task_group() as group:
                group.start_soon(engine.emit, "a", bytes(2 * EVENT_BYTES))
                await anyio.wait_all_tasks_blocked()
                with scope:
                    scope.cancel()
                    await engine.emit("a", bytes(EVENT_BYTES))
                disk.go_on.set()
                assert scope.cancelled_caught
            assert engine.state().events == 2
