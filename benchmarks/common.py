"""What the benchmarks share: the event of the W tasks, percentiles, and the disk's own pace."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
from msgspec import Struct


class Sample(Struct):
    """A small sensor event."""

    device: str
    temp: float
    ts: float


def samples(count: int) -> list[Sample]:
    """Return *count* events of 100 devices; one in ten is hot (over 90)."""
    return [Sample(f"d{n % 100}", 95.0 if n % 10 == 0 else 20.0, n / 1000) for n in range(count)]


def percentile(values: list[float], share: float) -> float:
    """Return the value that *share* (0 to 1) of *values* do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def row(name: str, *figures: str) -> str:
    """Return one line of a table."""
    return f"{name:<44}" + "".join(f"{figure:>16}" for figure in figures)


@contextmanager
def scratch() -> Generator[Path]:
    """Give a directory on the disk of the present one, not in a memory file system."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=".") as folder:
        yield Path(folder)


def fdatasync_ms(folder: Path, *, count: int = 200, size: int = 120) -> list[float]:
    """Return the milliseconds of *count* appends of *size* bytes with fdatasync each."""
    file = os.open(folder / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        took = []
        for _ in range(count):
            start = time.perf_counter()
            os.write(file, b"x" * size)
            os.fdatasync(file)
            took.append((time.perf_counter() - start) * 1e3)
        return took
    finally:
        os.close(file)


def repeat(run: Callable[[], float], times: int) -> tuple[float, float, float]:
    """Return the median, least and greatest of *times* runs."""
    figures = [run() for _ in range(times)]
    return statistics.median(figures), min(figures), max(figures)


def span(figures: tuple[float, float, float], unit: str = "") -> str:
    """Return ``median [min-max]`` in thousands."""
    middle, least, most = (figure / 1e3 for figure in figures)
    return f"{middle:.0f} k [{least:.0f}-{most:.0f}]{unit}"


def run_async(main: Callable[[], Awaitable[float]]) -> float:
    """Run *main* on asyncio."""
    return anyio.run(main)
