"""DBOS on SQLite: workflows in threads; what is kept is asked for by the caller."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from work import Result, Way, hot, main, percentiles

PACKAGES: Final = ("dbos",)
RATE: Final = 20.0


def started(folder: Path, *, wal: bool) -> Any:
    """Return DBOS, configured over a new database."""
    from dbos import DBOS

    path = folder / f"dbos-{time.monotonic_ns()}.sqlite"
    if wal:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA journal_mode=WAL")
    url = f"sqlite:///{path}"
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
    return DBOS


def timed(begin: Callable[[Any], Any], arguments: list[Any]) -> float:
    """Start a workflow for each of *arguments*; return the seconds until all have ended."""
    start = time.perf_counter()
    for handle in [begin(argument) for argument in arguments]:
        handle.get_result()
    return time.perf_counter() - start


def w1(count: int, folder: Path, *, wal: bool) -> float:
    """Start a workflow of one step for each event that is kept."""
    dbos = started(folder, wal=wal)
    seen: dict[str, float] = {}

    @dbos.step()
    def update(device: str, temp: float) -> None:
        seen[device] = temp

    @dbos.workflow()
    def react(device: str, temp: float) -> None:
        update(device, temp)

    dbos.launch()
    took = timed(lambda e: dbos.start_workflow(react, e.device, e.temp), hot(count))
    assert seen
    return count / took


def w2(count: int, folder: Path, *, wal: bool) -> float:
    """Start workflows of two steps."""
    dbos = started(folder, wal=wal)

    @dbos.step()
    def first(device: str) -> str:
        return device

    @dbos.step()
    def second(device: str) -> int:
        return len(device)

    @dbos.workflow()
    def work(device: str) -> int:
        return second(first(device))

    dbos.launch()
    return count / timed(
        lambda device: dbos.start_workflow(work, device), [f"d{n}" for n in range(count)]
    )


def w3(count: int, folder: Path, *, wal: bool) -> Result:
    """Start workflows at a steady rate; take the time to their first line."""
    dbos = started(folder, wal=wal)
    took: list[float] = []

    @dbos.workflow()
    def react(sent: float) -> None:
        took.append((time.perf_counter() - sent) * 1e3)

    dbos.launch()
    for _ in range(count):
        start = time.perf_counter()
        dbos.start_workflow(react, start).get_result()
        time.sleep(max(0.0, 1 / RATE - (time.perf_counter() - start)))
    return percentiles(took)


DEFAULT: Final = "SQLite, synced at each commit"
WAL: Final = "SQLite in WAL mode, synced at each commit"
WAYS: Final = {
    "W1, DBOS, SQLite": Way(partial(w1, wal=False), DEFAULT, 1000),
    "W1, DBOS, SQLite WAL": Way(partial(w1, wal=True), WAL, 1000),
    "W2, DBOS, SQLite": Way(partial(w2, wal=False), DEFAULT, 100),
    "W2, DBOS, SQLite WAL": Way(partial(w2, wal=True), WAL, 200),
    "W3, DBOS, SQLite": Way(partial(w3, wal=False), DEFAULT, 60),
    "W3, DBOS, SQLite WAL": Way(partial(w3, wal=True), WAL, 60),
}

if __name__ == "__main__":
    main(WAYS)
