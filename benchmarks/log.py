"""What the event log does beside a bare loop that writes and syncs the same bytes.

`raw` has the bytes of a group ready; `collect` gets them record by record, as everybody has to
who is given them one by one.  `unit` is one append a group, `each` one a record, and `ahead`
goes on to the next group while one is synced.  Large logs: `log_large.py`.

    python benchmarks/log.py [--repeat 3] [--only "groups of 100,"] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from common import scratch
from figures import Figure, Result, Row, measured, script
from log_large import small_event

from headrace.engine import record as kinds
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.frame import FRAME_HEADER_BYTES
from headrace.engine.log.protocol import Durability
from headrace.engine.log.verify import verify

SIZES: Final = (1, 10, 100, 1000)
SECONDS: Final = 0.3
RECORDS: Final = 300_000


class Committed:
    """Waits for the log as a thread does; `notify` is its half in the writer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def notify(self) -> None:
        """Let the waiting thread look again."""
        if self._lock.locked():
            self._lock.release()

    def wait(self, log: FileLog, sequence: int) -> None:
        """Return once *sequence* is committed."""
        while log.committed_sequence < sequence:
            if log.failure is not None:
                raise log.failure
            self._lock.acquire(timeout=1.0)


@contextmanager
def opened(path: Path, durability: Durability = "fsynced") -> Generator[tuple[FileLog, Committed]]:
    """Give a new log at *path*."""
    shutil.rmtree(path, ignore_errors=True)
    log, committed = FileLog(path, durability=durability), Committed()
    log.open(committed.notify)
    try:
        yield log, committed
    finally:
        log.close()


def raw_groups(path: Path, records: list[bytes], seconds: float, *, ready: bool) -> float:
    """Write and sync *records* as one group again and again; return groups/s.

    With *ready* the bytes of the group are there from the beginning.  Else they are collected
    record by record, as they have to be by everybody who gets them one by one.
    """
    group = b"".join(records) + bytes(FRAME_HEADER_BYTES + 3)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        if not ready:
            collected: list[bytes] = []
            for record in records:
                collected.append(record)  # noqa: PERF402 (that is what is measured)
            group = b"".join(collected) + bytes(FRAME_HEADER_BYTES + 3)
        os.write(fd, group)
        os.fdatasync(fd)
        count += 1
    rate = count / (time.perf_counter() - begin)
    os.close(fd)
    return rate


def log_groups(
    path: Path,
    records: list[bytes],
    seconds: float,
    durability: Durability = "fsynced",
    *,
    ahead: int = 0,
    whole: bool = False,
) -> float:
    """Append and commit *records* as a group, again and again; return groups/s.

    They are appended one by one, or (*whole*) in one call, as one unit.  Waits for each group,
    or (*ahead*) for the one that was committed so many groups before.
    """
    count = 0
    with opened(path, durability) as (log, committed):
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            if whole:
                log.append(records)
            else:
                for record in records:
                    log.append((record,))
            log.commit()
            committed.wait(log, log.next_sequence - 1 - ahead * len(records))
            count += 1
        committed.wait(log, log.next_sequence - 1)
        return count / (time.perf_counter() - begin)


def stream_groups(
    path: Path, records: list[bytes], seconds: float, durability: Durability
) -> float:
    """Append groups without waiting for each, at most a megabyte ahead; return records/s."""
    with opened(path, durability) as (log, committed):
        begin = time.perf_counter()
        end = begin + seconds
        while time.perf_counter() < end:
            for record in records:
                log.append((record,))
            log.commit()
            if log.pending_bytes > 1 << 20:
                committed.wait(log, log.committed_sequence + 1)
        committed.wait(log, log.next_sequence - 1)
        return log.committed_sequence / (time.perf_counter() - begin)


async def emitters(path: Path, count: int, seconds: float) -> float:
    """Let *count* tasks append a record each, and wait for it, again and again."""
    loop = asyncio.get_running_loop()
    shutil.rmtree(path, ignore_errors=True)
    log = FileLog(path)
    waiting: list[tuple[int, asyncio.Future[None]]] = []
    dirty = False

    def wake() -> None:
        nonlocal waiting
        committed = log.committed_sequence
        ready = [future for sequence, future in waiting if sequence <= committed]
        waiting = [pair for pair in waiting if pair[0] > committed]
        for future in ready:
            future.set_result(None)

    def commit() -> None:
        nonlocal dirty
        dirty = False
        log.commit()

    async def emit() -> None:
        nonlocal dirty
        while time.perf_counter() < end:
            log.append((small_event(1),))
            future = loop.create_future()
            waiting.append((log.next_sequence - 1, future))
            if not dirty:
                dirty = True
                loop.call_soon(commit)
            await future

    def notify() -> None:
        loop.call_soon_threadsafe(wake)

    log.open(notify)
    begin = time.perf_counter()
    end = begin + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(emit())
    rate = log.committed_sequence / (time.perf_counter() - begin)
    log.close()
    return rate


def written(path: Path, count: int, group: int) -> float:
    """Write a log of *count* records in groups; return the bytes that one takes."""
    with opened(path, "flushed") as (log, committed):
        for start in range(0, count, group):
            log.append([small_event(n) for n in range(start, start + group)])
            log.commit()
            committed.wait(log, start + group)
    return sum(file.stat().st_size for file in path.glob("*.hrl")) / count


def read_back(path: Path) -> dict[str, float]:
    """Read, decode and verify what is there."""
    start = time.perf_counter()
    with LogReader(path) as reader:
        count = sum(len(list(map(kinds.decode, batch))) for _, batch in reader.read())
    decoded_s = time.perf_counter() - start
    start = time.perf_counter()
    report = verify(path)
    verified_s = time.perf_counter() - start
    assert report.ok
    assert report.records == count
    return {"decoded": count / decoded_s, "verified": count / verified_s}


def ways_of(folder: Path, seconds: float, count: int) -> dict[str, Callable[[], Result]]:
    """Return each way to do the work."""
    raw, log, full = folder / "raw", folder / "log", folder / "full"
    ways: dict[str, Callable[[], Result]] = {}

    def groups(
        way: Callable[..., float], path: Path, size: int, **how: object
    ) -> Callable[[], float]:
        records = [small_event(n) for n in range(size)]
        return lambda: way(path, records, seconds, **how) * size

    for size in SIZES:
        name = f"groups of {size}"
        ways[f"{name}, raw"] = groups(raw_groups, raw, size, ready=True)
        ways[f"{name}, unit"] = groups(log_groups, log, size, whole=True)
        ways[f"{name}, unit, ahead"] = groups(log_groups, log, size, whole=True, ahead=1)
        ways[f"{name}, collect"] = groups(raw_groups, raw, size, ready=False)
        ways[f"{name}, each"] = groups(log_groups, log, size)
        ways[f"{name}, each, ahead"] = groups(log_groups, log, size, ahead=1)
    hundred = [small_event(n) for n in range(100)]
    ways["64 emitters, fsynced"] = lambda: asyncio.run(emitters(log, 64, seconds))
    ways["streaming, fsynced"] = lambda: stream_groups(log, hundred, seconds, "fsynced")
    ways["streaming, flushed"] = lambda: stream_groups(log, hundred, seconds, "flushed")
    for size in SIZES[:3]:
        ways[f"an event in groups of {size}"] = partial(written, log, 1000, size)
    written(full, count, 10)
    ways["whole log"] = lambda: read_back(full)
    return ways


UNIT: Final = "records/s"
ROWS: Final = [
    *(
        Row(f"groups of {size}, {way}", UNIT, f"groups of {size}, {beside}" if beside else "")
        for size in SIZES
        for way, beside in (
            ("raw", ""),
            ("unit", "raw"),
            ("unit, ahead", "raw"),
            ("collect", ""),
            ("each", "collect"),
            ("each, ahead", "collect"),
        )
    ),
    Row("64 emitters, fsynced", UNIT, "groups of 100, collect"),
    Row("streaming, fsynced", UNIT, "groups of 100, collect"),
    Row("streaming, flushed", UNIT, "groups of 100, collect"),
    Row("whole log, decoded", UNIT),
    Row("whole log, verified", UNIT),
    *(Row(f"an event in groups of {size}", "B") for size in SIZES[:3]),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    seconds, count = (0.02, 1000) if options.quick else (SECONDS, RECORDS)
    with scratch() as folder:
        return measured(ways_of(folder, seconds, count), ROWS, options)


if __name__ == "__main__":
    script(__doc__, "log: records/s beside write and fdatasync", take)
