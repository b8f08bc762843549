"""bytewax: a dataflow of filter and map.  It starts no tasks, and recovery is off."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Final

from work import Sample, Way, is_hot, main, samples

PACKAGES: Final = ("bytewax",)


def w1(count: int, _folder: Path, *, batch: int) -> float:
    """Let events through a filter; what is kept updates a dict."""
    from bytewax import operators
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSink, TestingSource, run_main

    seen: dict[str, float] = {}

    def update(event: Sample) -> Sample:
        seen[event.device] = event.temp
        return event

    events = samples(count)
    kept: list[Sample] = []
    flow = Dataflow("w1")
    stream = operators.input("in", flow, TestingSource(events, batch_size=batch))
    stream = operators.filter("hot", stream, is_hot)
    stream = operators.map("update", stream, update)
    operators.output("out", stream, TestingSink(kept))
    start = time.perf_counter()
    run_main(flow)
    took = time.perf_counter() - start
    assert len(kept) == count // 10
    return count / took


WAYS: Final = {
    "W1, bytewax, batch 1": Way(partial(w1, batch=1), "nothing", 200_000),
    "W1, bytewax, batch 100": Way(partial(w1, batch=100), "nothing", 500_000),
}

if __name__ == "__main__":
    main(WAYS)
