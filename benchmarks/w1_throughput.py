"""W1, reactive throughput: events of which a rule keeps 10 %, each of those starts a task.

Prints, from one run on one machine: plain asyncio (queue and create_task, keeps nothing),
a bare loop that writes and syncs the same number of records, and headrace at each level.

    .venv/bin/python benchmarks/w1_throughput.py [--events 100000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from functools import partial

import msgspec
from common import Sample, repeat, row, run_async, samples, scratch, span

from headrace import App, Engine, Firing, MemoryLog, on
from headrace.engine.log import Durability

GROUP = 1000


async def plain_asyncio(events: list[Sample]) -> float:
    """A queue, a filter, a task for each event that is kept; nothing is stored."""
    seen: dict[str, float] = {}
    queue: asyncio.Queue[Sample | None] = asyncio.Queue()

    async def update(event: Sample) -> None:
        seen[event.device] = event.temp

    async def consume() -> None:
        async with asyncio.TaskGroup() as group:
            while (event := await queue.get()) is not None:
                if event.temp > 90:
                    group.create_task(update(event))

    start = time.perf_counter()
    consumer = asyncio.create_task(consume())
    for event in events:
        queue.put_nowait(event)
    queue.put_nowait(None)
    await consumer
    assert seen
    return len(events) / (time.perf_counter() - start)


def bare_loop(events: list[Sample], folder: str) -> float:
    """Encode, filter, write and fdatasync in groups of 1 000: the disk's and msgspec's share."""
    encode = msgspec.msgpack.Encoder().encode
    file = os.open(f"{folder}/bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    start = time.perf_counter()
    seen: dict[str, float] = {}
    for first in range(0, len(events), GROUP):
        parts = []
        for number, event in enumerate(events[first : first + GROUP], first):
            parts.append(encode((1, time.time_ns(), "sensors.temp", event)))
            if event.temp > 90:
                seen[event.device] = event.temp
                parts.append(encode((64, "hot", number)))
                parts.append(encode((3, time.time_ns(), number, None)))
        os.write(file, b"".join(parts))
        os.fdatasync(file)
    took = time.perf_counter() - start
    os.close(file)
    return len(events) / took


async def headrace(events: list[Sample], folder: str, level: Durability | None) -> float:
    """Emit in groups of 1 000, wait for all runs."""
    app = App("w1")
    seen: dict[str, float] = {}

    @app.rule(on("sensors.temp", Sample).where(lambda e: e.data.temp > 90))
    async def hot(firing: Firing[Sample]) -> None:
        event = firing.events[0].data
        seen[event.device] = event.temp

    log = MemoryLog() if level is None else f"{folder}/{level}-{time.monotonic_ns()}"
    async with app.open(log, durability=level or "memory") as engine:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            # Two emitters, so that one group collects while the other is being synced.
            for half in (events[::2], events[1::2]):
                group.create_task(emit_all(engine, half))
        await engine.drain()
        took = time.perf_counter() - start
        ended = engine.state().runs_ended
    assert ended == {"completed": sum(event.temp > 90 for event in events)}, ended
    return len(events) / took


async def emit_all(engine: Engine, events: list[Sample]) -> None:
    """Emit *events* in groups."""
    for first in range(0, len(events), GROUP):
        group = [("sensors.temp", event) for event in events[first : first + GROUP]]
        await engine.emit_many(group)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    events = samples(options.events)
    print(row("W1: events/s, median [min-max]", "events/s"))
    plain = repeat(lambda: asyncio.run(plain_asyncio(events)), options.repeat)
    print(row("plain asyncio (keeps nothing)", span(plain)))
    with scratch() as folder:
        bare = repeat(lambda: bare_loop(events, str(folder)), options.repeat)
        print(row("bare loop, write + fdatasync per 1 000", span(bare)))
        levels: list[Durability | None] = ["fsynced", "flushed", "memory", None]
        for level in levels:
            run = partial(headrace, events, str(folder), level)
            figures = repeat(partial(run_async, run), options.repeat)
            name = "MemoryLog" if level is None else f"FileLog, {level}"
            print(row(f"headrace, {name}", span(figures), f"{figures[0] / bare[0]:.2f} x bare"))


if __name__ == "__main__":
    main()
