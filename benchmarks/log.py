"""What the event log does beside a bare loop that writes and syncs the same bytes.

    python benchmarks/log.py [--seconds 0.3] [--repetitions 9] [--path DIR]
    python benchmarks/log.py --large --seek 1 --memory 10000000

Each line is measured in the same run, on the file system of *path*.  What is compared takes
turns, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import log_large
from log_large import small_event

from headrace.engine import record as kinds
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.frame import FRAME_HEADER_BYTES
from headrace.engine.log.protocol import Durability
from headrace.engine.log.verify import verify


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


def compare_groups(folder: Path, seconds: float, repetitions: int) -> None:
    """Print a line for each size of a group: medians of interleaved repetitions."""
    print("fsynced groups. `raw` writes and syncs bytes that are ready, `collect` gets its records")
    print("one by one. `unit` is one append for each group, `each` one for each record; `+1` goes")
    print("on to the next group while one is synced. Shares are medians of neighbours in time.")
    print(
        f"{'group':<6}{'records/s: raw':>16}{'collect':>12}{'unit':>12}{'unit+1':>12}{'each':>12}"
        f"{'each+1':>12}   unit/raw unit+1/raw each/collect each+1/collect"
    )
    raw, log = folder / "raw", folder / "log"
    for size in (1, 10, 100, 1000):
        records = [small_event(n) for n in range(size)]
        ways: dict[str, Callable[[], float]] = {
            "raw": partial(raw_groups, raw, records, seconds, ready=True),
            "unit": partial(log_groups, log, records, seconds, whole=True),
            "unit+1": partial(log_groups, log, records, seconds, whole=True, ahead=1),
            "collect": partial(raw_groups, raw, records, seconds, ready=False),
            "each": partial(log_groups, log, records, seconds),
            "each+1": partial(log_groups, log, records, seconds, ahead=1),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repetitions):
            for name, way in ways.items():
                rates[name].append(way() * size)

        def share(name: str, base: str, found: dict[str, list[float]] = rates) -> float:
            return median(a / b for a, b in zip(found[name], found[base], strict=True))

        line = "".join(
            f"{median(rates[name]):>{width},.0f}"
            for name, width in (
                ("raw", 16), ("collect", 12), ("unit", 12), ("unit+1", 12), ("each", 12),
                ("each+1", 12),
            )
        )  # fmt: skip
        print(
            f"{size:<6}{line}{share('unit', 'raw'):>11.2f}{share('unit+1', 'raw'):>11.2f}"
            f"{share('each', 'collect'):>13.2f}{share('each+1', 'collect'):>15.2f}"
        )


def read_back(path: Path, count: int, repetitions: int) -> None:
    """Write a log of *count* records in groups of 10 and print what reading it costs."""
    records = [small_event(n) for n in range(count)]
    with opened(path, "flushed") as (log, committed):
        for start in range(0, count, 10):
            log.append(records[start : start + 10])
            log.commit()
            if start % 10_000 == 0:
                committed.wait(log, start + 10)
        committed.wait(log, count)
    size = sum(file.stat().st_size for file in path.iterdir())
    typed_s: list[float] = []
    verify_s: list[float] = []
    for _ in range(repetitions):
        start_s = time.perf_counter()
        with LogReader(path) as reader:
            typed = sum(len(list(map(kinds.decode, batch))) for _, batch in reader.read())
        typed_s.append(time.perf_counter() - start_s)
        start_s = time.perf_counter()
        report = verify(path)
        verify_s.append(time.perf_counter() - start_s)
        assert report.ok
        assert report.records == typed == count
    print(f"typed reading           {count / median(typed_s):>12,.0f} records/s")
    print(f"verify                  {size / median(verify_s) / 1e6:>12,.0f} MB/s")


def bytes_per_event(path: Path) -> None:
    """Print what an event costs on disk, all overhead included."""
    for group in (1, 10, 100):
        with opened(path) as (log, committed):
            for start in range(0, 1000, group):
                for n in range(group):
                    log.append((small_event(start + n),))
                log.commit()
                committed.wait(log, start + group)
        size = sum(file.stat().st_size for file in path.glob("*.hrl")) / 1000
        print(f"bytes per small event   {size:>12.1f} in groups of {group}")


def small(folder: Path, seconds: float, repetitions: int) -> None:
    """Print what takes seconds to measure."""
    compare_groups(folder, seconds, repetitions)
    path = folder / "log"

    def rate_of(name: str, run: Callable[[], float]) -> None:
        rates = [run() for _ in range(repetitions)]
        print(f"{name:<24}{median(rates):>12,.0f} records/s")

    hundred = [small_event(n) for n in range(100)]
    rate_of("64 emitters, fsynced", lambda: asyncio.run(emitters(path, 64, seconds)))
    rate_of("flushed, groups of 100", lambda: log_groups(path, hundred, seconds, "flushed") * 100)
    rate_of("fsynced, streaming", lambda: stream_groups(path, hundred, seconds, "fsynced"))
    rate_of("flushed, streaming", lambda: stream_groups(path, hundred, seconds, "flushed"))
    read_back(path, 300_000, repetitions)
    bytes_per_event(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of each measurement")
    parser.add_argument("--repetitions", type=int, default=9, help="of which the median counts")
    parser.add_argument("--path", type=Path, help="directory to write in (default: a new one)")
    parser.add_argument("--large", action="store_true", help="10 GiB: opening, compression")
    parser.add_argument("--seek", type=float, metavar="GIB", help="find records in so large a log")
    parser.add_argument("--memory", type=int, metavar="RECORDS", help="append and read so many")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.path) as name:
        folder = Path(name)
        if not (given.large or given.seek or given.memory):
            small(folder, given.seconds, given.repetitions)
        if given.large:
            log_large.opening(folder, given.repetitions)
            log_large.compressing(folder, 6.0)
        if given.seek:
            log_large.seeking(folder, given.seek, 2000)
        if given.memory:
            log_large.memory(folder, given.memory)


if __name__ == "__main__":
    main()
