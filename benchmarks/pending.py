"""A start with a million pending runs: how soon the first one begins, how fast they drain.

One process emits a million events, each of which asks for a run, while the first thousand runs
hold everything up; it takes a snapshot and dies.  Another opens the log: the clock starts
there, and stops when all runs have ended, or after half a minute.  The steady rate is that of
the same events, emitted to an engine that has nothing else to do.

    python benchmarks/pending.py [--repeat 1] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from common import SUBJECT, Sample, on_asyncio, resident_bytes, samples, scratch
from figures import Figure, Row, at_least, at_most, measured, script

from headrace import App, Firing, on

RUNS: Final = 1_000_000
RUNS_STEADY: Final = 100_000
GROUP: Final = 1000
DRAIN_S_MAX: Final = 30.0


async def fill(path: Path, count: int) -> dict[str, float]:
    """Make a log of *count* pending runs and a snapshot of them; never return."""
    app = App("pending")

    @app.rule(on(SUBJECT, Sample), name="work")
    async def work(_firing: Firing[Sample]) -> None:
        await asyncio.Event().wait()

    async with app.open(path, pending_runs_max=2 * RUNS, snapshot_every=0) as engine:
        for first in range(0, count, GROUP):
            events = samples(min(GROUP, count - first))
            await engine.emit_many([(SUBJECT, event) for event in events])
        await engine.snapshot()
        os._exit(0)  # as a crash would: what runs do at a close is not what is measured


async def drain(path: Path, count: int) -> dict[str, float]:
    """Open the log, let its runs end for a while, and measure."""
    begun_at: list[float] = []
    app = working_app(lambda: begun_at.append(time.perf_counter()))
    start = time.perf_counter()
    async with app.open(path, pending_runs_max=2 * RUNS, snapshot_every=0) as engine:
        resident_mb = resident_bytes() / 1e6
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S_MAX):
                await engine.drain()
        took = time.perf_counter() - begun_at[0]
        ended = engine.state().runs_ended["completed"]
        assert ended == count or took >= DRAIN_S_MAX / 2, (ended, took)
        found = {
            "first run after": begun_at[0] - start,
            "drained": ended / took,
            "resident, restored": resident_mb,
            "resident, peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }
        print(json.dumps(found), flush=True)
        os._exit(0)


async def steady(path: Path, count: int) -> dict[str, float]:
    """Emit the same to an engine that has nothing else to do, and measure."""
    async with working_app(lambda: None).open(path, snapshot_every=0) as engine:
        start = time.perf_counter()
        for first in range(0, count, GROUP):
            events = samples(min(GROUP, count - first))
            await engine.emit_many([(SUBJECT, event) for event in events])
        await engine.drain()
        return {"steady": count / (time.perf_counter() - start)}


def working_app(begun: Callable[[], None]) -> App:
    """Return an app whose runs do what those of W1 do; the first one calls *begun*."""
    app = App("pending")
    seen: dict[str, float] = {}

    @app.rule(on(SUBJECT, Sample), name="work")
    async def work(firing: Firing[Sample]) -> None:
        if not seen:
            begun()
        event = firing.events[0].data
        seen[event.device] = event.temp

    return app


PARTS: Final = {"fill": fill, "drain": drain, "steady": steady}


def apart(part: str, path: Path, *counts: int) -> dict[str, float]:
    """Do *part* in a process of its own; return what it found."""
    command = [sys.executable, __file__, "--part", part, str(path), *map(str, counts)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(ran.stdout or "{}")
    return found


ROWS: Final = [
    Row("pending runs, first run after", "s", "", at_most(2)),
    Row("pending runs, steady", "runs/s"),
    Row("pending runs, drained", "runs/s", "pending runs, steady", at_least(0.7, "ratio")),
    Row("pending runs, resident, restored", "MB", "", at_most(300)),
    Row("pending runs, resident, peak", "MB", "", at_most(300)),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    count, steady_count = (5000, 1000) if options.quick else (RUNS, RUNS_STEADY)

    def once() -> dict[str, float]:
        with scratch() as folder:
            found = apart("steady", folder / "steady", steady_count)
            apart("fill", folder / "log", count)
            return found | apart("drain", folder / "log", count)

    return measured({"pending runs": once}, ROWS, options)


def main() -> None:
    """Measure, or be one of the processes."""
    if sys.argv[1:2] == ["--part"]:
        part, path, *counts = sys.argv[2:]
        print(json.dumps(on_asyncio(PARTS[part](Path(path), *map(int, counts)))))
        return
    script(__doc__, "1 000 000 pending runs restored from a snapshot", take, repeat=1)


if __name__ == "__main__":
    main()
