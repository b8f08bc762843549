"""What the benchmarks share: the event of the W tasks, percentiles, and the disk's own pace."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct

from headrace.engine.collector import seldom_collected

R = TypeVar("R")

SUBJECT: Final = "sensors.temp"
HAS_UVLOOP: Final = find_spec("uvloop") is not None


class Sample(Struct):
    """A small sensor event."""

    device: str
    temp: float
    ts: float


def samples(count: int) -> list[Sample]:
    """Return *count* events of 100 devices; one in ten is hot."""
    return [Sample(f"d{n % 100}", 95.0 if n % 10 == 0 else 20.0, n / 1000) for n in range(count)]


def is_hot(event: Sample) -> bool:
    """Return whether W1 keeps *event*."""
    return event.temp > 90


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


def unused(folder: Path, name: str) -> Path:
    """Return a path in *folder* that nothing else uses."""
    return folder / f"{name}-{time.monotonic_ns()}"


def resident_bytes() -> int:
    """Return what this process has in memory now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def fdatasync_ms(
    folder: Path, *, count: int = 200, size: int = 120, rate: float | None = None
) -> list[float]:
    """Return the milliseconds of *count* appends of *size* bytes with fdatasync each.

    One after the other, or *rate* of them a second: a disk that has rested may be slower.
    """
    file = os.open(folder / "raw", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        took = []
        for _ in range(count):
            start = time.perf_counter()
            os.write(file, b"x" * size)
            os.fdatasync(file)
            took.append((time.perf_counter() - start) * 1e3)
            if rate is not None:
                time.sleep(max(0.0, 1 / rate - took[-1] / 1e3))
        return took
    finally:
        os.close(file)


def on_asyncio(main: Coroutine[Any, Any, R], *, uvloop: bool = False) -> R:
    """Run *main* on asyncio, with the loop of uvloop if asked to.

    The garbage collector does as in `headrace run`: so it is for everything that is measured.
    """
    factory: Any = import_module("uvloop").new_event_loop if uvloop else None
    gc.collect()
    with seldom_collected(), asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def repeat(run: Callable[[], float], times: int) -> tuple[float, float, float]:
    """Return the median, least and greatest of *times* runs."""
    figures = [run() for _ in range(times)]
    return statistics.median(figures), min(figures), max(figures)


def span(figures: tuple[float, float, float], unit: str = "") -> str:
    """Return ``median [min-max]`` in thousands."""
    middle, least, most = (figure / 1e3 for figure in figures)
    return f"{middle:.0f} k [{least:.0f}-{most:.0f}]{unit}"
