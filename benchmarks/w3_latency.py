"""W3, reaction latency: from `emit` to the first line of the task, at 100 events a second.

Half-way between two events something else is measured, so that it meets the same machine: one
write with fdatasync in a thread, or (beside `memory`) a task that plain asyncio starts.

    python benchmarks/w3_latency.py [--repeat 3] [--only memory] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from common import HAS_UVLOOP, SUBJECT, Sample, on_asyncio, percentile, scratch, unused
from figures import Bar, Figure, Row, at_most, measured, script

from headrace import App, Firing, MemoryLog, on
from headrace.engine.log import Durability

EVENTS: Final = 500
RATE: Final = 100.0
RECORD_BYTES: Final = 120

Measure = Callable[[], Awaitable[None]]


@asynccontextmanager
async def plain_asyncio(took: list[float]) -> AsyncGenerator[Measure]:
    """A queue, and a task for what comes out of it."""
    queue: asyncio.Queue[float] = asyncio.Queue()

    async def react(sent: float) -> None:
        took.append((time.perf_counter() - sent) * 1e3)

    async def consume() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(react(await queue.get()))

    async def measure() -> None:
        queue.put_nowait(time.perf_counter())

    consumer = asyncio.create_task(consume())
    yield measure
    consumer.cancel()


@asynccontextmanager
async def synced(took: list[float], path: Path) -> AsyncGenerator[Measure]:
    """One write with fdatasync, timed in its thread."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def write() -> None:
        start = time.perf_counter()
        os.write(file, b"x" * RECORD_BYTES)
        os.fdatasync(file)
        took.append((time.perf_counter() - start) * 1e3)

    async def measure() -> None:
        await asyncio.to_thread(write)

    yield measure
    os.close(file)


async def headrace(count: int, folder: Path, level: Durability) -> dict[str, float]:
    """Emit at a steady rate without waiting for the runs; measure something else between."""
    app = App("w3")
    took: list[float] = []
    others: list[float] = []

    @app.rule(on(SUBJECT, Sample))
    async def react(firing: Firing[Sample]) -> None:
        took.append((time.perf_counter() - firing.events[0].data.ts) * 1e3)

    log = MemoryLog() if level == "memory" else unused(folder, "w3")
    beside = plain_asyncio(others) if level == "memory" else synced(others, folder / "raw")
    async with app.open(log, durability=level) as engine, beside as measure:
        due = time.perf_counter()
        for _ in range(count):
            await engine.emit(SUBJECT, Sample("d1", 95.0, time.perf_counter()))
            await asyncio.sleep(max(0, due + 0.5 / RATE - time.perf_counter()))
            await measure()
            due = max(due + 1 / RATE, time.perf_counter())
            await asyncio.sleep(due - time.perf_counter())
        await engine.drain()
    assert len(took) == count
    other = "plain asyncio" if level == "memory" else "fdatasync"
    return {
        f"{of} {name}".strip(): percentile(values, share)
        for of, values in (("", took), (other, others))
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def rows_of(name: str, other: str, p50: Bar | None = None, p99: Bar | None = None) -> list[Row]:
    """Return the lines of one way."""
    return [
        Row(f"{name}, p50", "ms", f"{name}, {other} p50", p50),
        Row(f"{name}, p99", "ms", f"{name}, {other} p99", p99),
    ]


WAYS: Final[dict[str, Durability]] = {
    "W3 fsynced": "fsynced",
    "W3 flushed": "flushed",
    "W3 memory": "memory",
}
FSYNCED: Final = (at_most(0.3, "difference"), at_most(1.5, "difference"))
MEMORY: Final = (at_most(3, "ratio"), at_most(0.5))
ROWS: Final = [
    *rows_of("W3 fsynced", "fdatasync", *FSYNCED),
    *rows_of("W3 flushed", "fdatasync"),
    *rows_of("W3 memory", "plain asyncio", *MEMORY),
    *rows_of("W3 fsynced, uvloop", "fdatasync", *FSYNCED),
    *rows_of("W3 memory, uvloop", "plain asyncio", *MEMORY),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    count = 20 if options.quick else EVENTS

    def run(level: Durability, *, uvloop: bool = False) -> dict[str, float]:
        return on_asyncio(headrace(count, folder, level), uvloop=uvloop)

    with scratch() as folder:
        ways = {name: partial(run, level) for name, level in WAYS.items()}
        if HAS_UVLOOP:
            ways["W3 fsynced, uvloop"] = partial(run, "fsynced", uvloop=True)
            ways["W3 memory, uvloop"] = partial(run, "memory", uvloop=True)
        return measured(ways, ROWS, options)


if __name__ == "__main__":
    script(__doc__, "W3: emit to the task's first line, at 100 events/s", take)
