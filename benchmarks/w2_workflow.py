"""W2, durable workflows: each event starts a run of two chained steps with recorded results.

Prints, from one run: a bare loop of three awaited group commits a workflow (one shared
future a group), and headrace, with many workflows in flight and with one at a time.

    .venv/bin/python benchmarks/w2_workflow.py [--workflows 5000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

from common import Sample, fdatasync_ms, percentile, repeat, row, samples, scratch, span

from headrace import App, Firing, Run, on


async def bare(count: int, folder: Path) -> float:
    """Three awaited group commits a workflow, one future for each group."""
    loop = asyncio.get_running_loop()
    file = os.open(folder / f"bare-{time.monotonic_ns()}", os.O_CREAT | os.O_WRONLY, 0o600)
    pending: list[bytes] = []
    waiting = loop.create_future()
    wake = asyncio.Event()

    def write(group: list[bytes]) -> None:
        os.write(file, b"".join(group))
        os.fdatasync(file)

    async def commit() -> None:
        nonlocal pending, waiting
        while True:
            await wake.wait()
            wake.clear()
            group, done = pending, waiting
            pending, waiting = [], loop.create_future()
            await loop.run_in_executor(None, write, group)
            done.set_result(None)

    async def workflow() -> None:
        for _ in range(3):
            pending.append(b"x" * 60)
            wake.set()
            await waiting

    committer = asyncio.create_task(commit())
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(workflow())
    took = time.perf_counter() - start
    committer.cancel()
    os.close(file)
    return count / took


def workflow_app() -> App:
    """Two chained steps."""
    app = App("w2")

    @app.task
    async def first(device: str) -> str:
        return device

    @app.task
    async def second(device: str) -> int:
        return len(device)

    @app.rule(on("sensors.temp", Sample))
    async def work(run: Run, firing: Firing[Sample]) -> int:
        device = await run.call(first, firing.events[0].data.device)
        return await run.call(second, device)

    return app


async def headrace(count: int, folder: Path, group: int) -> float:
    """Emit in groups, wait for all runs."""
    app = workflow_app()
    events = [("sensors.temp", event) for event in samples(count)]
    async with app.open(folder / f"w2-{time.monotonic_ns()}") as engine:
        start = time.perf_counter()
        for first in range(0, count, group):
            await engine.emit_many(events[first : first + group])
            if group == 1:
                await engine.drain()
        await engine.drain()
        took = time.perf_counter() - start
        assert engine.state().runs_ended == {"completed": 3 * count}
    return count / took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workflows", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    count, times = options.workflows, options.repeat
    with scratch() as folder:
        print(row("W2: two-step workflows/s, median [min-max]", "workflows/s"))
        floor = repeat(lambda: asyncio.run(bare(count, folder)), times)
        print(row("bare loop, all in flight", span(floor)))
        many = repeat(lambda: asyncio.run(headrace(count, folder, 1000)), times)
        print(row("headrace, fsynced", span(many), f"{many[0] / floor[0]:.2f} x bare"))
        one, least, most = repeat(lambda: asyncio.run(headrace(200, folder, 1)), times)
        print(row("headrace, fsynced, one at a time", f"{one:.0f} [{least:.0f}-{most:.0f}]"))
        sync = percentile(fdatasync_ms(folder), 0.5)
        print(row("three fdatasyncs of this disk", f"{1e3 / (3 * sync):.0f}"))


if __name__ == "__main__":
    main()
