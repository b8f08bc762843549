"""A loaded engine that a test kills: its app, and the program of the child process.

As a program: ``victim.py BACKEND LOG SIDE KEEP_BYTES``.  It reads lines ``LIFE LAST`` and forks
a child for each, since starting Python and importing all takes longer than most lives: it says
its ``pid``, and ``over`` with its exit code once it has ended.  The child emits jobs from three
sources, each from its cursor up to number LAST, and says on stdout what was acknowledged.
What its tasks do to the world is a line in SIDE.  Segments are small and snapshots frequent,
so that kills come in the middle of rotating, of writing snapshots, and of removing what
KEEP_BYTES (if not negative) gives up.  All end when stdin does: with whoever started them.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from headrace import App, Emission, Engine, FileLog, Firing, MemoryLog, Retry, Run, StepFailed, on

SOURCES = ("north", "east", "south")
OPEN_MAX = 60
"""More runs than this are not piled up, so that each life gets somewhere."""
SEGMENT_BYTES = 4000
SNAPSHOT_EVERY = 60
BRIEF = Retry(attempts=3, wait_first=0.004, wait_max=0.01)
Act = Callable[[Run], None]


class Job(msgspec.Struct):
    source: str
    number: int


def make_app(act: Act) -> App:
    """Return the app; *act* is what its tasks do to the world."""
    app = App("victim")
    _add_tasks(app, act)
    return app


def _add_tasks(app: App, act: Act) -> None:
    @app.task
    async def prepare(run: Run, number: int) -> int:
        act(run)
        return number + 1

    @app.task
    def grind(run: Run, number: int) -> int:
        act(run)
        return number * number

    @app.task(retry=BRIEF)
    async def flaky(run: Run, number: int) -> str:
        act(run)
        if number % 5 == 0 or run.attempt < 2:
            raise OSError(f"attempt {run.attempt}")
        await run.sleep(0.002)
        return f"{number} in attempt {run.attempt}"

    @app.task
    async def leaf(run: Run, number: int) -> int:
        act(run)
        await run.sleep(0.001 * (number % 3))
        return number

    @app.rule(on("job.*", Job).key(lambda e: e.tokens[1]))
    async def work(run: Run, firing: Firing[Job]) -> list[Any]:
        act(run)
        job = firing.events[0].data
        ready = await run.call(prepare, job.number)
        try:
            tried = await run.call(flaky, ready)
        except StepFailed as error:
            tried = error.error
        leaves = await run.map(leaf, range(job.number % 4), max_concurrency=2)
        ground = await run.call(grind, ready) if job.number % 4 == 0 else 0
        await run.emit(f"done.{job.source}", job)
        return [ready, tried, leaves, ground]

    @app.rule(on("done.*", Job), retry=BRIEF)
    async def note(run: Run, firing: Firing[Job]) -> int:
        act(run)
        if firing.events[0].data.number % 3 == 0 and run.attempt == 1:
            raise ValueError("not at once")
        return await run.call(prepare, 1000 + firing.events[0].data.number)


def jobs(source: str, first: int, last: int) -> list[Emission]:
    """Return the events of the jobs *first* to *last* of *source*."""
    return [
        Emission(f"job.{source}", Job(source, number), source=source, position=number)
        for number in range(first, last + 1)
    ]


async def emit_all(engine: Engine, source: str, last: int, said: Callable[[str], None]) -> None:
    """Emit what is left of *source*, singly and in batches; say what was acknowledged."""
    done = engine.cursor(source)
    number = 0 if done is None else done + 1
    while number <= last:
        while engine.state().runs_active > OPEN_MAX:
            await anyio.sleep(0.002)
        upto = min(last, number + number % 3)
        sequences = await engine.emit_many(jobs(source, number, upto))
        for n, sequence in enumerate(sequences, number):
            said(f"{source} {n} {sequence}\n")
        number = upto + 1


async def live(log: FileLog, act: Act, life: int, last: int, said: Callable[[str], None]) -> None:
    """One life: go on from the log, emit, and let everything end."""
    async with make_app(act).open(
        log,
        snapshot_every=SNAPSHOT_EVERY,
        crash_attempts_max=0,  # it is killed for no fault of a run's
    ) as engine:
        await engine.emit("life", life)
        async with anyio.create_task_group() as group:
            for source in SOURCES:
                group.start_soon(emit_all, engine, source, last, said)
        await engine.drain()
    said("end\n")


async def warm_up() -> None:
    """Have what a life imports on its way imported before children are forked."""
    async with make_app(lambda _: None).open(MemoryLog()) as engine:
        await engine.emit_many(jobs("north", 1, 3))  # none that takes a thread: those do not fork
        await engine.drain()


def main() -> None:
    """Have one child after the other, each until it is killed or has done all."""
    anyio.run(warm_up, backend=sys.argv[1])
    assert threading.active_count() == 1
    gc.freeze()
    read_fd, write_fd = os.pipe()  # its end is the child's end
    for line in sys.stdin:
        life, last = line.split()
        pid = os.fork()
        if pid == 0:
            os.close(write_fd)
            try:
                be_child(read_fd, life, last)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        said(f"over {os.waitstatus_to_exitcode(status)}\n")


def said(line: str) -> None:
    """Say *line* whole, and at once."""
    os.write(1, line.encode())


def be_child(parent_fd: int, life: str, last: str) -> None:
    """Live until killed."""
    said(f"pid {os.getpid()}\n")
    backend, path, side, keep_bytes = sys.argv[1:]
    side_fd = os.open(side, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def act(run: Run) -> None:
        os.write(side_fd, f"{life} {run.idempotency_key} {run.task}\n".encode())

    def end_with_parent() -> None:
        os.read(parent_fd, 1)
        os._exit(3)

    threading.Thread(target=end_with_parent, daemon=True).start()
    keep = int(keep_bytes) if int(keep_bytes) >= 0 else None
    log = FileLog(path, segment_bytes_max=SEGMENT_BYTES, keep_bytes=keep, compress=True)
    anyio.run(live, log, act, int(life), int(last), said, backend=backend)
    os._exit(0)


if __name__ == "__main__":
    main()
