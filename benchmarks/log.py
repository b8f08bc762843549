"""What the event log does beside a bare loop that writes and syncs the same bytes.

    python benchmarks/log.py [--seconds 2] [--path DIR]

Each line is measured in the same run, one after the other, on the file system of *path*.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec

from headrace.engine import record as kinds
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.protocol import Durability
from headrace.engine.log.verify import verify

START_NS = 1_700_000_000_000_000_000


def small_event(number: int) -> bytes:
    """Return a typical reading of a sensor, encoded."""
    payload = msgspec.Raw(b"\x81\xa1c\xcb" + bytes(8))
    return kinds.encode(kinds.EventStored(START_NS + number, "plant.7.t", payload))


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


def raw_groups(path: Path, group: bytes, seconds: float) -> tuple[int, list[float]]:
    """Write and sync *group* again and again; return how often, and how long each took."""
    took: list[float] = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        os.write(fd, group)
        os.fdatasync(fd)
        took.append(time.perf_counter() - start)
    os.close(fd)
    return len(took), took


def log_groups(
    path: Path,
    records: list[bytes],
    seconds: float,
    durability: Durability = "fsynced",
    *,
    ahead: int = 0,
) -> tuple[float, list[float]]:
    """Append and commit *records* one by one as a group; return groups/s and their times.

    Waits for each group, or (*ahead*) for the one that was committed so many groups before.
    """
    took: list[float] = []
    with opened(path, durability) as (log, committed):
        begin = time.perf_counter()
        end = begin + seconds
        while (start := time.perf_counter()) < end:
            for record in records:
                log.append((record,))
            log.commit()
            committed.wait(log, log.next_sequence - 1 - ahead * len(records))
            took.append(time.perf_counter() - start)
        return len(took) / (time.perf_counter() - begin), took


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


def compare_groups(folder: Path, seconds: float) -> None:
    """Print a line for each size of a group."""
    print("fsynced, records/s: each group waited for, one group ahead, raw write+fdatasync")
    print(
        f"{'group':<10}{'waiting':>12}{'ahead':>12}{'raw':>12}{'ratio':>8}{'ahead':>8}"
        f"{'p50 ms':>9}{'raw':>9}"
    )
    for size in (1, 10, 100, 1000):
        records = [small_event(n) for n in range(size)]
        frame = b"".join(records) + bytes(43)
        count, raw_took = raw_groups(folder / "raw", frame, seconds)
        rate, took = log_groups(folder / "log", records, seconds)
        ahead, _ = log_groups(folder / "log", records, seconds, ahead=1)
        raw_rate = count / sum(raw_took)
        print(
            f"{size:<10}{rate * size:>12,.0f}{ahead * size:>12,.0f}{raw_rate * size:>12,.0f}"
            f"{rate / raw_rate:>8.2f}{ahead / raw_rate:>8.2f}"
            f"{median(took) * 1e3:>9.2f}{median(raw_took) * 1e3:>9.2f}"
        )


def read_back(path: Path, count: int) -> None:
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
    start_s = time.perf_counter()
    with LogReader(path) as reader:
        typed = sum(len(list(map(kinds.decode, batch))) for _, batch in reader.read())
    typed_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    report = verify(path)
    verify_s = time.perf_counter() - start_s
    assert report.ok
    assert report.records == typed == count
    print(f"typed reading           {typed / typed_s:>12,.0f} records/s")
    print(f"verify                  {size / verify_s / 1e6:>12,.0f} MB/s")


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--path", type=Path, help="directory to write in (default: a new one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.path) as name:
        folder, seconds = Path(name), float(arguments.seconds)
        compare_groups(folder, seconds)
        rate = asyncio.run(emitters(folder / "log", 64, seconds))
        print(f"64 emitters, fsynced    {rate:>12,.0f} records/s")
        hundred = [small_event(n) for n in range(100)]
        rate, took = log_groups(folder / "log", hundred, seconds, "flushed")
        print(
            f"flushed, groups of 100  {rate * 100:>12,.0f} records/s"
            f"  p50 {median(took) * 1e3:.3f} ms"
        )
        streamed: tuple[Durability, ...] = ("fsynced", "flushed")
        for durability in streamed:
            rate = stream_groups(folder / "log", hundred, seconds, durability)
            print(f"{f'{durability}, streaming':<24}{rate:>12,.0f} records/s")
        read_back(folder / "log", 300_000)
        bytes_per_event(folder / "log")


if __name__ == "__main__":
    main()
