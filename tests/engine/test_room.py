"""The disk gets full: said while there is still something to be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace import App, FileLog, MemoryLog
from headrace.engine.log.files import SystemFiles
from headrace.engine.room import RoomWatch

MIB = 1024 * 1024


class Disk(SystemFiles):
    """A disk with as much room as is said."""

    found: tuple[int, int] | OSError = (0, 0)

    def room(self, path: str) -> tuple[int, int]:
        if isinstance(self.found, OSError):
            raise self.found
        return self.found


@pytest.mark.parametrize(
    ("free", "total", "is_low"),
    [
        (511 * MIB, 1 << 40, True),
        (512 * MIB, 1 << 40, False),
        (4 * MIB, 100 * MIB, True),
        (5 * MIB, 100 * MIB, False),
        (0, 0, False),
    ],
)
def test_little_is_512_mib_or_5_percent(
    tmp_path: Path, free: int, total: int, *, is_low: bool
) -> None:
    """Whichever is less: on a small disk the one would always be so, on a large one the other."""
    disk = Disk()
    disk.found = (free, total)
    watch = RoomWatch(FileLog(tmp_path, files=disk))
    watch.look()
    assert watch.is_low is is_low


def test_it_is_said_once_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not every half minute; again if there was room in between."""
    disk = Disk()
    watch = RoomWatch(FileLog(tmp_path, files=disk))
    for free, count in ((1, 1), (2, 1), (900 * MIB, 1), (3, 2)):
        disk.found = (free, 1 << 40)
        watch.look()
        assert sum("disk_low" in record.message for record in caplog.records) == count
    assert "free_bytes=3" in caplog.records[-1].message
    disk.found = OSError(5, "Input/output error")
    watch.look()
    assert watch.is_low


@pytest.mark.anyio
async def test_an_engine_says_it_at_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A log in a directory is watched; one in memory has nothing to watch."""
    disk = Disk()
    disk.found = (7, 1 << 40)
    async with App("x").open(FileLog(tmp_path / "log", files=disk)) as engine:
        await engine.emit("a")
    assert "disk_low" in caplog.text
    caplog.clear()
    async with App("x").open(MemoryLog()) as engine:
        await engine.emit("a")
    assert "disk_low" not in caplog.text


def test_the_real_disk_has_room(tmp_path: Path) -> None:
    """The system's figures are bytes, and what is free is not more than there is."""
    free, total = SystemFiles().room(str(tmp_path))
    assert 0 <= free <= total
    assert total > MIB
