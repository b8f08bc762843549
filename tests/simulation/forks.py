"""A log of several segments with units of several records, and what must hold of its forks."""

from __future__ import annotations

from functools import cache

import msgspec
from tests.simulation.disk import Inode, SimulatedDisk
from tests.simulation.session import SameDay, Session, contents, record
from tests.simulation.unthreaded import written_at_once

from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.blobs import digest_of
from headrace.engine.log.files import Files
from headrace.engine.log.verify import verify

SOURCE, TARGET = "/log", "/new"
SEGMENT_BYTES_MAX = 400
LOG_ID, FORK_ID = b"i" * 16, b"f" * 16
SNAPSHOTS = ("snap-00000000000000000009.hrs", "snap-00000000000000000020.hrs")
RESULT = b"a large result"
_DIGEST = digest_of(RESULT).hex()
BLOB = f"blobs/{_DIGEST[:2]}/{_DIGEST}"
EXTRAS = {**{name: name.encode() for name in SNAPSHOTS}, BLOB: RESULT}
"""What is beside the segments, and belongs into forks and copies too."""


def decision(number: int) -> bytes:
    """Return an encoded decision that can be told from others by *number*."""
    return msgspec.msgpack.encode((64, "rule", number))


def units(count: int, first: int = 1) -> list[list[bytes]]:
    """Return *count* units: an input with none to three decisions, in turn."""
    made: list[list[bytes]] = []
    number = first
    for unit in range(count):
        made.append([record(number)])
        made[-1] += [decision(n) for n in range(number + 1, number + 1 + unit % 4)]
        number += len(made[-1])
    return made


UNITS = units(14)
RECORDS = [r for unit in UNITS for r in unit]
ENDS = [sum(map(len, UNITS[:count])) for count in range(len(UNITS) + 1)]
"""Where units end; 0 is the beginning of the log."""


def log_on(disk: Files, path: str, log_id: bytes = LOG_ID) -> FileLog:
    return FileLog(
        path,
        files=disk,
        reserve_bytes=0,
        segment_bytes_max=SEGMENT_BYTES_MAX,
        new_id=lambda: log_id,
        clock=SameDay(),
    )


def fill(session: Session) -> None:
    """Write the units, two in a group."""
    for place in range(0, len(UNITS), 2):
        session.put(*UNITS[place : place + 2])


def world(*, close: bool = True, extras: bool = True) -> SimulatedDisk:
    """Return a disk with the log, closed or left by a kill, all of it durable."""
    return disk_with(_files_of_world(close=close, extras=extras))


@cache
def _files_of_world(*, close: bool, extras: bool) -> dict[str, bytes]:
    disk = SimulatedDisk()
    session = Session(log_on(disk, SOURCE))
    fill(session)
    # An index is a cache, which is written a moment after the records.
    left = {p: bytes(i.data) for p, i in dict(disk.names).items() if not p.endswith(".idx")}
    session.log.close()
    if close:
        left = {path: bytes(inode.data) for path, inode in disk.names.items()}
    if extras:
        for name, data in {**EXTRAS, f"{BLOB}.tmp": RESULT[:5]}.items():
            left[f"{SOURCE}/{name}"] = data
    return left


def disk_with(contents_of: dict[str, bytes]) -> SimulatedDisk:
    """Return a disk that holds these files durably, and the directories that they are in."""
    disk = SimulatedDisk()
    for path, data in contents_of.items():
        inode = Inode()
        inode.data, inode.durable, inode.links = bytearray(data), data, 1
        disk.names[path] = disk.durable_names[path] = inode
        folder = path.rpartition("/")[0]
        while folder:
            disk.folders.add(folder)
            disk.durable_folders.add(folder)
            folder = folder.rpartition("/")[0]
    return disk


def files_of(disk: SimulatedDisk, folder: str) -> dict[str, bytes]:
    """Return what is in the directory, by the paths of its files."""
    return {
        path: bytes(inode.data)
        for path, inode in disk.names.items()
        if path.startswith(f"{folder}/")
    }


def read(disk: Files, path: str) -> list[bytes]:
    with LogReader(path, files=disk) as reader:
        return [r for _, batch in reader.read(after=0) for r in batch]


@written_at_once()
def check_log(
    disk: SimulatedDisk, path: str, expected: list[bytes], log_id: bytes, *, clean: bool = True
) -> None:
    """Check that the log at *path* is whole, holds *expected*, and goes on from there."""
    report = verify(path, files=disk)
    assert report.ok, report.errors
    assert (report.records, report.torn_bytes) == (len(expected), 0)
    assert read(disk, path) == expected
    session = Session(log_on(disk, path))
    assert isinstance(session.log, FileLog)
    assert session.log.recovery is not None
    assert session.log.recovery.clean == clean
    assert session.log.recovery.notes == ()
    assert session.log.log_id == log_id
    assert contents(session.log) == expected
    more = units(9, len(expected) + 1)
    for unit in more:
        session.put(unit)
    session.log.close()
    session = Session(log_on(disk, path))
    assert contents(session.log) == [*expected, *(r for unit in more for r in unit)]
    session.log.close()
    report = verify(path, files=disk)
    assert report.ok, report.errors
