"""Snapshots of a large state: what they cost those who react meanwhile, and what they save.

An app counts a million keys while events come at a steady rate.  Prints the reaction time
(from the moment at which an event was due to the task's first line) while snapshots are
written and in the equally long rests between them, how long a snapshot takes, and how long
a start with one and without.

    .venv/bin/python benchmarks/snapshots.py [--keys 1000000] [--rate 5000] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from pathlib import Path

from common import percentile, row, scratch

from headrace import App, Firing, on
from headrace.engine.decider import NoRules
from headrace.engine.engine import Engine
from headrace.engine.log import FileLog
from headrace.engine.restore import restore

RULES = 10
TURN_S = 0.005


def make_app(took: list[float], at: list[float]) -> App:
    """Ten rules that count by key, and one whose reaction is measured."""
    app = App("large")

    def key_of(event: object) -> int:
        number: int = event.data  # type: ignore[attr-defined]
        return number

    for number in range(RULES):
        pattern = on(f"n.{number}", int).key(key_of).count(1000, within=1e6)
        app.rule(pattern, name=f"count{number}", version="1")(lambda: None)

    @app.rule(on("ping", float))
    async def react(firing: Firing[float]) -> None:
        at.append(time.perf_counter())
        took.append((at[-1] - firing.events[0].data) * 1e3)

    return app


async def fill(engine: Engine, keys: int) -> None:
    """Give each rule its share of *keys* keys."""
    for number in range(RULES):
        for first in range(0, keys // RULES, 2000):
            last = min(first + 2000, keys // RULES)
            await engine.emit_many([(f"n.{number}", key) for key in range(first, last)])


async def react_for(engine: Engine, keys: int, rate: float, seconds: float) -> None:
    """Emit at *rate*; one event of each turn is measured from when it was due."""
    each = max(2, round(rate * TURN_S))
    due, count = time.perf_counter(), 0
    end = due + seconds
    async with asyncio.TaskGroup() as group:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            batch: list[tuple[str, object]] = [("ping", due)]
            for _ in range(each - 1):
                count += 7919  # walks over all keys
                batch.append((f"n.{count % RULES}", count // RULES % (keys // RULES)))
            group.create_task(engine.emit_many(batch))
            due += TURN_S
    await engine.drain()


async def snapshots(engine: Engine, spans: list[tuple[float, float]]) -> None:
    """Take snapshots for ever, with as long a rest after each as it took."""
    while True:
        start = time.perf_counter()
        await engine.snapshot()
        end = time.perf_counter()
        spans.append((start, end))
        await asyncio.sleep(end - start)


async def measure(folder: Path, options: argparse.Namespace) -> None:
    """Print the table: reactions in the snapshots and in the rests between, of one stretch."""
    took: list[float] = []
    at: list[float] = []
    spans: list[tuple[float, float]] = []
    app = make_app(took, at)
    async with app.open(FileLog(folder / "log"), snapshot_every=0) as engine:
        await fill(engine, options.keys)
        gc.collect()
        gc.freeze()  # what users with a large state are advised to do
        task = asyncio.create_task(snapshots(engine, spans))
        await react_for(engine, options.keys, options.rate, options.seconds)
        task.cancel()
    during = [any(start <= t <= end for start, end in spans) for t in at]
    last = spans[-1][1]
    seconds = [end - start for start, end in spans]
    print(row(f"{options.keys} keys, {options.rate:g} events/s, ms", "p50", "p99", "max"))
    for name, which in (("reaction", False), ("reaction during snapshots", True)):
        chosen = [
            ms
            for ms, t, inside in zip(took, at, during, strict=True)
            if inside is which and t < last
        ]
        print(row(name, *(f"{percentile(chosen, share):.2f}" for share in (0.5, 0.99, 1.0))))
    print(row("snapshots, seconds each", str(len(spans)), f"{max(seconds):.1f}"))
    report_start(folder)


def report_start(folder: Path) -> None:
    """Print how long a start takes."""
    log = FileLog(folder / "log")
    log.open(lambda: None)
    size = max(path.stat().st_size for path in (folder / "log").glob("snap-*.hrs"))
    for name, keep in ((f"start with a snapshot of {size / 1e6:.0f} MB", True), ("without", False)):
        if not keep:
            for path in (folder / "log").glob("snap-*.hrs"):
                path.unlink()
        start = time.perf_counter()
        kernel = restore(log, make_app([], []).decider(), clock=None)
        print(row(name, f"{time.perf_counter() - start:.2f} s", f"{kernel.sequence} records"))
    start = time.perf_counter()
    restore(log, NoRules(), clock=None)
    print(row("without, and without rules", f"{time.perf_counter() - start:.2f} s"))
    log.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=5000.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    with scratch() as folder:
        asyncio.run(measure(folder, options))


if __name__ == "__main__":
    main()
