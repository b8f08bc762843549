"""W3, reaction latency: from `emit` to the first line of the task, at a steady rate.

Prints p50 and p99 beside one write + fdatasync of the same run, and plain asyncio.

    .venv/bin/python benchmarks/w3_latency.py [--events 1000] [--rate 200]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from common import Sample, fdatasync_ms, percentile, row, scratch

from headrace import App, Firing, MemoryLog, on
from headrace.engine.log import Durability


async def plain_asyncio(count: int, rate: float) -> list[float]:
    """Queue and create_task."""
    took: list[float] = []
    queue: asyncio.Queue[float | None] = asyncio.Queue()

    async def react(sent: float) -> None:
        took.append((time.perf_counter() - sent) * 1e3)

    async def consume() -> None:
        async with asyncio.TaskGroup() as group:
            while (sent := await queue.get()) is not None:
                group.create_task(react(sent))

    consumer = asyncio.create_task(consume())
    for _ in range(count):
        queue.put_nowait(time.perf_counter())
        await asyncio.sleep(1 / rate)
    queue.put_nowait(None)
    await consumer
    return took


async def headrace(count: int, rate: float, folder: Path, level: Durability | None) -> list[float]:
    """Emit at a steady rate without waiting for the runs."""
    app = App("w3")
    took: list[float] = []

    @app.rule(on("sensors.temp", Sample))
    async def react(firing: Firing[Sample]) -> None:
        took.append((time.perf_counter() - firing.events[0].data.ts) * 1e3)

    log = MemoryLog() if level is None else folder / f"w3-{level}"
    async with app.open(log, durability=level or "memory") as engine:
        for _ in range(count):
            start = time.perf_counter()
            await engine.emit("sensors.temp", Sample("d1", 95.0, start))
            await asyncio.sleep(max(0, 1 / rate - (time.perf_counter() - start)))
        await engine.drain()
    assert len(took) == count
    return took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=200.0)
    options = parser.parse_args()

    def line(name: str, took: list[float]) -> str:
        figures = (f"{percentile(took, share):.2f}" for share in (0.5, 0.99))
        return row(name, *figures)

    with scratch() as folder:
        print(row("W3: emit to the task's first line, ms", "p50", "p99"))
        print(line("plain asyncio", asyncio.run(plain_asyncio(options.events, options.rate))))
        syncs = fdatasync_ms(folder, count=options.events)
        print(line("one write + fdatasync", syncs))
        levels: list[Durability | None] = ["fsynced", "flushed", "memory", None]
        for level in levels:
            took = asyncio.run(headrace(options.events, options.rate, folder, level))
            name = "MemoryLog" if level is None else f"FileLog, {level}"
            print(line(f"headrace, {name}", took))
        again = fdatasync_ms(folder, count=options.events)
        print(line("one write + fdatasync, once more", again))


if __name__ == "__main__":
    main()
