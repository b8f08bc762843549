"""What durable tasks cost: workflows, fan-out, steps, and runs that sleep.

W2 (two chained steps with recorded results) is printed beside DBOS on SQLite, if that is
installed, in the same run.  A step's overhead is the time of a call that is recorded in a
memory log, less that of a bare await.  Memory is the growth of this process's resident set;
each measurement of it has a process of its own.

    .venv/bin/python benchmarks/tasks.py [--workflows 5000] [--children 100000]
        [--steps 5000] [--sleepers 100000] [--repeat 3]
    .venv/bin/python benchmarks/tasks.py --part steps 5000
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from ceiling import w2
from common import Sample, percentile, repeat, row, samples, scratch, span, unused
from w2_workflow import headrace

from headrace import App, MemoryLog, Run, on
from headrace.engine.log import FileLog

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return what this process has in memory now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


# ---------------------------------------------------------------- workflows


async def alone(folder: Path, count: int = 200) -> tuple[float, float]:
    """Return the median milliseconds of a workflow alone, and its commits before it returns."""
    app = App("alone")

    @app.task
    async def step(number: int) -> int:
        return number

    syncs = 0
    datasync = os.fdatasync
    at_return: list[int] = []

    @app.rule(on("sensors.temp", Sample))
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
    async with app.open(FileLog(folder / f"alone-{time.monotonic_ns()}")) as engine:
        await engine.emit("sensors.temp", samples(1)[0])
        await engine.drain()
        os.fdatasync = counted
        try:
            for sample in samples(count):
                start = time.perf_counter()
                await engine.emit("sensors.temp", sample)
                await engine.drain()
                took.append((time.perf_counter() - start) * 1e3)
        finally:
            os.fdatasync = datasync
    return percentile(took, 0.5), sum(at_return[1:]) / count


def dbos_workflows(folder: Path, count: int) -> float:
    """Return how many two-step workflows a second DBOS does on SQLite, many in flight."""
    DBOS: Any = import_module("dbos").DBOS  # noqa: N806 (a class)
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{folder}/dbos-{time.monotonic_ns()}.sqlite",
            "log_level": "ERROR",
        }
    )

    def first(device: str) -> str:
        return device

    def second(device: str) -> int:
        return len(device)

    steps = [DBOS.step()(first), DBOS.step()(second)]

    def work(device: str) -> Any:
        return steps[1](steps[0](device))

    workflow = DBOS.workflow()(work)
    DBOS.launch()
    try:
        start = time.perf_counter()
        handles = [DBOS.start_workflow(workflow, f"d{n}") for n in range(count)]
        for handle in handles:
            handle.get_result()
        return count / (time.perf_counter() - start)
    finally:
        DBOS.destroy()


def workflows(folder: Path, count: int, times: int) -> None:
    """Print W2, many in flight and alone."""
    print(row("two-step workflows/s, fsynced", "workflows/s"))
    floor = repeat(lambda: asyncio.run(w2(count, unused(folder, "bare"))), times)
    print(row("bare loop of three commits each", span(floor)))
    many = repeat(lambda: asyncio.run(headrace(count, folder)), times)
    print(row("headrace, 1 000 in flight", span(many), f"{many[0] / floor[0]:.2f} x bare"))
    took_ms, commits = asyncio.run(alone(folder))
    print(row("headrace, alone", f"{took_ms:.2f} ms", f"{commits:.2f} syncs each"))
    if find_spec("dbos") is None:
        print(row("DBOS on SQLite", "not installed"))
    else:
        rate = dbos_workflows(folder, 300)
        print(row("DBOS on SQLite", f"{rate:.0f}", f"headrace {many[0] / rate:.0f} x"))


# ---------------------------------------------------------------- children and steps


def fan_out(children: int) -> None:
    """Print what it takes to spawn and join *children* that do nothing."""
    app = App("fan")

    @app.task
    async def nothing(number: int) -> None:
        pass

    @app.rule(on("go"))
    async def fan(run: Run) -> None:
        for handle in [run.spawn(nothing, number) for number in range(children)]:
            await handle

    async def main() -> None:
        async with app.open(MemoryLog()) as engine:
            start = time.perf_counter()
            await engine.emit("go")
            await engine.drain()
            took_s = time.perf_counter() - start
            assert engine.state().runs_ended == {"completed": children + 1}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(row(f"spawn and join {children} children", f"{took_s:.2f} s", f"{peak:.0f} MB peak"))

    asyncio.run(main())


async def on_loop(number: int) -> int:
    """Do nothing, in the event loop."""
    return number


def beside(number: int) -> int:
    """Do nothing, in a thread or in a worker process."""
    return number


def spent_s() -> float:
    """Return the processor time that this process has taken."""
    return time.process_time()


async def step_cost(place: str, count: int) -> tuple[float, float]:
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
    return (
        (cpu_steps - 2 * cpu_bare + cpu) / count * 1e6,
        (wall_steps - 2 * wall_bare + wall) / count * 1e6,
    )


def step_overhead(count: int) -> None:
    """Print what a recorded step costs, by where its task is executed."""
    print(row("a step beyond a bare await", "us CPU", "us wall"))
    for place in ("loop", "thread", "process"):
        costs = [asyncio.run(step_cost(place, count)) for _ in range(3)]
        spans = (
            f"{median(each):.0f} [{min(each):.0f}-{max(each):.0f}]"
            for each in zip(*costs, strict=True)
        )
        print(row(f"its task in a {place}" if place != "loop" else "its task on the loop", *spans))


# ---------------------------------------------------------------- sleeping runs


def sleeping_app() -> App:
    """Return an app whose runs sleep for a day."""
    app = App("sleepers")

    @app.rule(on("go"))
    async def sleeper(run: Run) -> None:
        await run.sleep(86_400)

    return app


def sleepers_live(count: int, folder: Path) -> None:
    """Print the memory of runs that sleep, each with its code."""

    async def main() -> None:
        async with sleeping_app().open(folder, snapshot_every=0) as engine:
            before = resident_bytes()
            for first in range(0, count, 1000):
                await engine.emit_many([("go", None)] * min(1000, count - first))
                due = first + min(1000, count - first)
                while len(engine.kernel.state.timers) < due:  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(0.001)
            each = (resident_bytes() - before) / count
            idle = time.process_time()
            await asyncio.sleep(2)
            idle = time.process_time() - idle
            await engine.snapshot()
        print(row(f"{count} sleeping runs, live", f"{each:.0f} bytes each"))
        print(row("processor time of two idle seconds", f"{idle * 1e3:.0f} ms"))

    asyncio.run(main())


def sleepers_restored(count: int, folder: Path) -> None:
    """Print how long a start with them takes, and their memory after it."""

    async def main() -> None:
        app = sleeping_app()
        before, start = resident_bytes(), time.perf_counter()
        async with app.open(folder, snapshot_every=0) as engine:
            took_s = time.perf_counter() - start
            each = (resident_bytes() - before) / count
            assert len(engine.runs("active")) == count
        print(row("after a start from a snapshot", f"{each:.0f} bytes each", f"{took_s:.2f} s"))

    asyncio.run(main())


def apart(name: str, *arguments: object) -> None:
    """Measure in a process of its own."""
    program = [sys.executable, __file__, "--part", name, *map(str, arguments)]
    subprocess.run(program, check=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workflows", type=int, default=5000)
    parser.add_argument("--children", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--sleepers", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, count, *folder = options.part
        parts: dict[str, Callable[[], None]] = {
            "fan_out": lambda: fan_out(int(count)),
            "steps": lambda: step_overhead(int(count)),
            "sleepers_live": lambda: sleepers_live(int(count), Path(folder[0])),
            "sleepers_restored": lambda: sleepers_restored(int(count), Path(folder[0])),
        }
        parts[name]()
        return
    with scratch() as folder:
        workflows(folder, options.workflows, options.repeat)
        print(row("children and steps", ""))
        apart("fan_out", options.children)
        apart("steps", options.steps)
        print(row("runs that sleep", ""))
        apart("sleepers_live", options.sleepers, folder / "sleepers")
        apart("sleepers_restored", options.sleepers, folder / "sleepers")


if __name__ == "__main__":
    main()
