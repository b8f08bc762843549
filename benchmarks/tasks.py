"""What durable tasks cost: one alone, fan-out, steps by where they execute, runs that sleep.

Beside two-step workflows stand those of DBOS on SQLite, if that is installed, here or by
`run_peers.py --keep dbos`.

A step's overhead is the time of a call that is recorded in a memory log, less that of a bare
await.  Memory is the growth of the resident set of a process that does nothing else.

    python benchmarks/tasks.py [--repeat 3] [--only step] [--quick] [--json PATH]
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
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from common import (
    SUBJECT,
    Sample,
    fdatasync_ms,
    on_asyncio,
    percentile,
    resident_bytes,
    samples,
    scratch,
    unused,
)
from figures import Figure, Row, at_least, at_most, measured, script
from run_peers import VENVS, go
from w2_workflow import WORKFLOWS
from w2_workflow import headrace as workflows

from headrace import App, MemoryLog, Run, on
from headrace.engine.log import FileLog

CHILDREN: Final = 100_000
STEPS: Final = 3000
STEPS_APART: Final = 1000
SLEEPERS: Final = 100_000
ALONE: Final = 100
IDLE_S: Final = 2.0

Found = dict[str, float]


# ---------------------------------------------------------------- a thousand in flight

DBOS: Final = ("W2, DBOS, SQLite", "W2, DBOS, SQLite WAL")
DBOS_WORKFLOWS: Final = 200


def on_dbos(*, quick: bool) -> dict[str, Callable[[], float]]:
    """Return the same work on DBOS, if it is installed."""
    own = VENVS / "dbos" / "bin" / "python"
    if not own.exists() and find_spec("dbos") is None:
        return {}
    python = own if own.exists() else Path(sys.executable)
    count = 20 if quick else DBOS_WORKFLOWS
    return {way: partial(dbos_way, python, way, count) for way in DBOS}


def dbos_way(python: Path, way: str, count: int) -> float:
    """Return the workflows a second of a process of its own."""
    return go(python, "with_dbos", way, count)[""]


# ---------------------------------------------------------------- one alone


async def alone(folder: Path, count: int) -> Found:
    """Return the median milliseconds of a workflow alone, and its commits before it returns.

    And those of three writes with fdatasync, one after the other, in the same minute.
    """
    app = App("alone")

    @app.task
    async def step(number: int) -> int:
        return number

    syncs = 0
    datasync = os.fdatasync
    at_return: list[int] = []

    @app.rule(on(SUBJECT, Sample))
    async def work(run: Run) -> int:
        begun = syncs - 1  # that of the event
        result = await run.call(step, await run.call(step, 1))
        at_return.append(syncs - begun)
        return result

    def counted(fd: Any) -> None:
        nonlocal syncs
        syncs += 1
        datasync(fd)

    took: list[float] = []
    async with app.open(FileLog(unused(folder, "alone"))) as engine:
        await engine.emit(SUBJECT, samples(1)[0])
        await engine.drain()
        os.fdatasync = counted
        try:
            for sample in samples(count):
                start = time.perf_counter()
                await engine.emit(SUBJECT, sample)
                await engine.drain()
                took.append((time.perf_counter() - start) * 1e3)
        finally:
            os.fdatasync = datasync
    return {
        "ms": percentile(took, 0.5),
        "syncs": sum(at_return[1:]) / count,
        "three fdatasyncs": 3 * percentile(fdatasync_ms(folder, count=count), 0.5),
    }


# ---------------------------------------------------------------- children and steps


async def fan_out(children: int) -> Found:
    """Spawn and join *children* that do nothing; and the same with bare asyncio tasks."""
    app = App("fan")

    @app.task
    async def nothing(number: int) -> None:
        pass

    @app.rule(on("go"))
    async def fan(run: Run) -> None:
        for handle in [run.spawn(nothing, number) for number in range(children)]:
            await handle

    async with app.open(MemoryLog()) as engine:
        start = time.perf_counter()
        await engine.emit("go")
        await engine.drain()
        took_s = time.perf_counter() - start
        assert engine.state().runs_ended == {"completed": children + 1}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    start = time.perf_counter()
    for task in [asyncio.create_task(on_loop(number)) for number in range(children)]:
        await task
    bare_s = time.perf_counter() - start
    return {
        "children": children / took_s,
        "spawn and join": took_s,
        "bare tasks": children / bare_s,
        "peak": peak_mb,
    }


async def on_loop(number: int) -> int:
    """Do nothing, in the event loop."""
    return number


def beside(number: int) -> int:
    """Do nothing, in a thread or in a worker process."""
    return number


def spent_s() -> float:
    """Return the processor time that this process has taken."""
    return time.process_time()


async def step_cost(place: str, count: int) -> Found:
    """Return the microseconds of a recorded step beyond a bare await: processor and wall.

    The processor time is that of the engine's process, with all its threads, and the worker's.
    """
    app = App("steps")
    is_apart = place == "process"
    step: Any = app.task(process=is_apart)(on_loop if place == "loop" else beside)
    app.task(process=is_apart)(spent_s)
    spent: list[tuple[float, float]] = []

    @app.rule(on("go"))
    async def work(run: Run) -> None:
        async def note() -> None:
            apart_s = await run.call(spent_s) if is_apart else 0.0
            spent.append((spent_s() + apart_s, time.perf_counter()))

        await run.call(step, 0)  # whatever the first one has to start
        await note()
        for number in range(count):
            await on_loop(number)
        await note()
        for number in range(count):
            await run.call(step, number)
        await note()

    async with app.open(MemoryLog(), processes_max=1) as engine:
        await engine.emit("go")
        await engine.drain()
    (cpu, wall), (cpu_bare, wall_bare), (cpu_steps, wall_steps) = spent
    return {
        "CPU": (cpu_steps - 2 * cpu_bare + cpu) / count * 1e6,
        "wall": (wall_steps - 2 * wall_bare + wall) / count * 1e6,
    }


# ---------------------------------------------------------------- sleeping runs


def sleeping_app() -> App:
    """Return an app whose runs sleep for a day."""
    app = App("sleepers")

    @app.rule(on("go"))
    async def sleeper(run: Run) -> None:
        await run.sleep(86_400)

    return app


async def sleepers(count: int, folder: Path) -> Found:
    """Return the memory of runs that sleep, each with its code, and what they cost idle."""
    async with sleeping_app().open(folder, snapshot_every=0) as engine:
        before = resident_bytes()
        for first in range(0, count, 1000):
            await engine.emit_many([("go", None)] * min(1000, count - first))
            due = first + min(1000, count - first)
            while len(engine.kernel.state.timers) < due:  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.001)
        each = (resident_bytes() - before) / count
        idle_s = time.process_time()
        await asyncio.sleep(IDLE_S)
        idle_s = time.process_time() - idle_s
        await engine.snapshot()
    return {"each": each, "idle": idle_s / IDLE_S * 1e3}


async def restored(count: int, folder: Path) -> Found:
    """Return how long a start with them takes, and their memory after it."""
    before, start = resident_bytes(), time.perf_counter()
    async with sleeping_app().open(folder, snapshot_every=0) as engine:
        took_s = time.perf_counter() - start
        each = (resident_bytes() - before) / count
        assert len(engine.runs("active")) == count
    return {"each": each, "start": took_s}


# ---------------------------------------------------------------- the table

PARTS: Final[dict[str, Callable[[int, Path], Any]]] = {
    "fan-out": lambda count, _folder: fan_out(count),
    "sleeping runs": sleepers,
    "sleeping runs, after a start": restored,
}


def apart(part: str, count: int, folder: Path) -> Found:
    """Do *part* in a process of its own: memory is not given back."""
    command = [sys.executable, __file__, "--part", part, str(count), str(folder)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Found = json.loads(ran.stdout)
    return found


ROWS: Final = [
    Row("W2, headrace", "workflows/s", "", at_least(10_000)),
    *(Row(way, "workflows/s", "W2, headrace", note="two steps each") for way in DBOS),
    Row("workflow alone, ms", "ms", "workflow alone, three fdatasyncs"),
    Row("workflow alone, syncs", "syncs", "", at_most(3)),
    Row("fan-out, children", "runs/s", "fan-out, bare tasks"),
    Row("fan-out, spawn and join", "s", "", at_most(3)),
    Row("fan-out, peak", "MB", "", at_most(500)),
    Row("a step beyond a bare await, loop, CPU", "µs", "", at_most(60)),
    Row("a step beyond a bare await, loop, wall", "µs"),
    *(
        Row(f"a step beyond a bare await, {place}, {of}", "µs")
        for place in ("thread", "process")
        for of in ("CPU", "wall")
    ),
    Row("sleeping runs, each", "bytes", "", at_most(6000)),
    Row("sleeping runs, idle", "ms CPU/s"),
    Row("sleeping runs, after a start, each", "bytes", "", at_most(2000)),
    Row("sleeping runs, after a start, start", "s", "", at_most(3)),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    quick = options.quick
    children, slept = (500, 500) if quick else (CHILDREN, SLEEPERS)
    with scratch() as folder:
        names = [folder / f"sleepers-{number}" for number in range(options.repeat)]
        live, again = iter(names), iter(names)
        ways: dict[str, Callable[[], float | Found]] = {
            "W2, headrace": lambda: on_asyncio(workflows(500 if quick else WORKFLOWS, folder)),
            **on_dbos(quick=quick),
            "workflow alone": lambda: on_asyncio(alone(folder, 10 if quick else ALONE)),
            "fan-out": lambda: apart("fan-out", children, folder),
        }
        for place in ("loop", "thread", "process"):
            count = 50 if quick else STEPS if place == "loop" else STEPS_APART
            ways[f"a step beyond a bare await, {place}"] = partial(step_way, place, count)
        ways["sleeping runs"] = lambda: apart("sleeping runs", slept, next(live))
        ways["sleeping runs, after a start"] = lambda: apart(
            "sleeping runs, after a start", slept, next(again)
        )
        return measured(ways, ROWS, options)


def step_way(place: str, count: int) -> Found:
    """Measure steps that execute in *place*."""
    return on_asyncio(step_cost(place, count))


def main() -> None:
    """Measure, or be one of the processes."""
    if sys.argv[1:2] == ["--part"]:
        part, count, folder = sys.argv[2:]
        print(json.dumps(on_asyncio(PARTS[part](int(count), Path(folder)))))
        return
    script(__doc__, "tasks: workflows, fan-out, steps, sleep", take)


if __name__ == "__main__":
    main()
