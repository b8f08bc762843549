"""Prefect 3: flows and tasks in this process, recorded by the server that it starts by itself."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from work import Result, Way, hot, main, percentiles

PACKAGES: Final = ("prefect", "fastapi<0.165")
"""With a newer fastapi its server does not start."""
RATE: Final = 5.0


def at_home(folder: Path) -> None:
    """Keep everything in *folder*, and say little."""
    os.environ |= {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def w1(count: int, folder: Path) -> Result:
    """In one flow, submit a task for each event that is kept."""
    at_home(folder)
    from prefect import flow, task

    seen: dict[str, float] = {}

    @task
    def update(device: str, temp: float) -> None:
        seen[device] = temp

    @flow
    def begin() -> None:
        pass

    @flow
    def react() -> None:
        for future in [update.submit(event.device, event.temp) for event in hot(count)]:
            future.wait()

    begin()  # starts the server
    start = time.perf_counter()
    react()
    took = time.perf_counter() - start
    assert seen
    return count / took


def w2(count: int, folder: Path) -> Result:
    """Run flows of two tasks, one after the other."""
    at_home(folder)
    from prefect import flow, task

    @task
    def first(device: str) -> str:
        return device

    @task
    def second(device: str) -> int:
        return len(device)

    @flow
    def work(device: str) -> int:
        return second(first(device))

    work("d")
    start = time.perf_counter()
    for number in range(count):
        work(f"d{number}")
    return count / (time.perf_counter() - start)


def w3(count: int, folder: Path) -> Result:
    """Call tasks of a running flow at a steady rate; take the time to their first line."""
    at_home(folder)
    from prefect import flow, task

    took: list[float] = []

    @task
    def react(sent: float) -> None:
        took.append((time.perf_counter() - sent) * 1e3)

    @flow
    def work() -> None:
        for _ in range(count):
            react(time.perf_counter())
            time.sleep(1 / RATE)

    work()
    return percentiles(took)


KEEPS: Final = "states of flows and tasks in a server on SQLite"
WAYS: Final = {
    "W1, Prefect": Way(w1, KEEPS, 500),
    "W2, Prefect": Way(w2, KEEPS, 15),
    "W3, Prefect, a task in a flow": Way(w3, KEEPS, 25),
}

if __name__ == "__main__":
    main(WAYS)
