"""llama-index-workflows: a workflow for each event that is kept; the caller filters."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from work import Result, Way, hot, in_loop, main, percentiles, steadily

PACKAGES: Final = ("llama-index-workflows",)
RATE: Final = 50.0
AT_ONCE: Final = 100


async def all_of(make: Any, inputs: list[dict[str, Any]]) -> float:
    """Run a workflow for each of *inputs*, so many at a time; return the seconds that it took."""
    start = time.perf_counter()
    for first in range(0, len(inputs), AT_ONCE):
        await asyncio.gather(*(make(**given) for given in inputs[first : first + AT_ONCE]))
    return time.perf_counter() - start


async def w1(count: int, _folder: Path) -> Result:
    """Run workflows of one step."""
    from llama_steps import Update

    seen: dict[str, float] = {}
    workflow = Update(timeout=None)
    inputs = [{"seen": seen, "device": event.device, "temp": event.temp} for event in hot(count)]
    took = await all_of(workflow.run, inputs)
    assert seen
    return count / took


async def w2(count: int, _folder: Path) -> Result:
    """Run workflows of two chained steps."""
    from llama_steps import Chained

    workflow = Chained(timeout=None)
    return count / await all_of(workflow.run, [{"device": f"d{n}"} for n in range(count)])


async def w3(count: int, _folder: Path) -> Result:
    """Run workflows at a steady rate; take the time to the step's first line."""
    from llama_steps import React

    took: list[float] = []
    workflow = React(timeout=None)

    async def emit(sent: float) -> None:
        await workflow.run(took=took, sent=sent)

    await steadily(count, RATE, emit)
    return percentiles(took)


WAYS: Final = {
    "W1, llama-index-workflows": Way(in_loop(w1), "nothing", 10_000),
    "W2, llama-index-workflows": Way(in_loop(w2), "nothing", 500),
    "W3, llama-index-workflows": Way(in_loop(w3), "nothing", 100),
}

if __name__ == "__main__":
    main(WAYS)
