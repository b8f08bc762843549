"""bubus: an event for each that is kept, with and without its log; the caller filters."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from work import Result, Way, hot, in_loop, main, percentiles, steadily

PACKAGES: Final = ("bubus",)
RATE: Final = 20.0
AT_ONCE: Final = 50
"""Of more it refuses the hundredth that is pending."""


async def w1(count: int, folder: Path, *, wal: bool) -> Result:
    """Dispatch the events that are kept."""
    from bubus import BaseEvent, EventBus

    class Hot(BaseEvent[None]):
        device: str
        temp: float

    bus = EventBus(wal_path=folder / f"bubus-{time.monotonic_ns()}.jsonl" if wal else None)
    seen: dict[str, float] = {}

    async def update(event: Any) -> None:
        seen[event.device] = event.temp

    bus.on("Hot", update)
    events = hot(count)
    start = time.perf_counter()
    for first in range(0, len(events), AT_ONCE):
        for event in [
            bus.dispatch(Hot(device=event.device, temp=event.temp))
            for event in events[first : first + AT_ONCE]
        ]:
            await event
    took = time.perf_counter() - start
    assert seen
    return count / took


async def w3(count: int, _folder: Path) -> Result:
    """Dispatch at a steady rate; take the time to the handler's first line."""
    from bubus import BaseEvent, EventBus

    class Hot(BaseEvent[None]):
        sent: float

    bus, took = EventBus(), list[float]()

    async def react(event: Any) -> None:
        took.append((time.perf_counter() - event.sent) * 1e3)

    async def emit(sent: float) -> None:
        await bus.dispatch(Hot(sent=sent))

    bus.on("Hot", react)
    await steadily(count, RATE, emit)
    return percentiles(took)


WAYS: Final = {
    "W1, bubus": Way(in_loop(partial(w1, wal=False)), "nothing", 5000),
    "W1, bubus, with its log": Way(in_loop(partial(w1, wal=True)), "JSONL, not synced", 5000),
    "W3, bubus": Way(in_loop(w3), "nothing", 60),
}

if __name__ == "__main__":
    main(WAYS)
