"""Dagster: jobs executed in this process, recorded by an instance on SQLite."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Final

from work import Result, Way, hot, main, percentiles

PACKAGES: Final = ("dagster",)


def instance(folder: Path) -> Any:
    """Return an instance that keeps everything in *folder*."""
    from dagster import DagsterInstance

    logging.disable(logging.CRITICAL)
    home = folder / "dagster"
    home.mkdir()
    return DagsterInstance.local_temp(str(home))


def w1(count: int, folder: Path) -> Result:
    """Execute a job of one op for each event that is kept."""
    from dagster import job, op

    seen: dict[str, float] = {}
    present: list[Any] = []

    @op
    def update() -> None:
        seen[present[0].device] = present[0].temp

    @job
    def react() -> None:
        update()

    kept = instance(folder)
    start = time.perf_counter()
    for event in hot(count):
        present[:] = [event]
        assert react.execute_in_process(instance=kept).success
    assert seen
    return count / (time.perf_counter() - start)


def w2(count: int, folder: Path) -> Result:
    """Execute jobs of two ops, one after the other."""
    from dagster import job, op

    @op
    def first():  # noqa: ANN202 (its annotations are the types of its outputs)
        return "d1"

    @op
    def second(device):  # noqa: ANN001, ANN202 (as above)
        return len(device)

    @job
    def work() -> None:
        second(first())

    kept = instance(folder)
    start = time.perf_counter()
    for _ in range(count):
        assert work.execute_in_process(instance=kept).success
    return count / (time.perf_counter() - start)


def w3(count: int, folder: Path) -> Result:
    """Execute jobs; take the time to the first line of their op."""
    from dagster import job, op

    took: list[float] = []
    sent = 0.0

    @op
    def react() -> None:
        took.append((time.perf_counter() - sent) * 1e3)

    @job
    def work() -> None:
        react()

    kept = instance(folder)
    for _ in range(count):
        sent = time.perf_counter()
        work.execute_in_process(instance=kept)
    return percentiles(took)


KEEPS: Final = "events of each run in SQLite"
WAYS: Final = {
    "W1, Dagster": Way(w1, KEEPS, 200),
    "W2, Dagster": Way(w2, KEEPS, 15),
    "W3, Dagster": Way(w3, KEEPS, 15),
}

if __name__ == "__main__":
    main(WAYS)
