"""What the JetStream source takes into a fsynced log, beside the bare client of nats-py.

A nats-server holds the messages in a stream on disk; how long it takes until the last one is
durable is what counts.  The bare client takes them in the same way, by a callback, and stores
nothing; and by `fetch`, as its own documentation shows, with an acknowledgement for each.

    python benchmarks/connectors_jetstream.py [--repeat 3] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from common import on_asyncio, scratch, unused
from figures import Figure, Row, at_least, measured, script

from headrace import App
from headrace.connectors.feeder import Feeder
from headrace.connectors.jetstream import JetStream

EVENTS: Final = 100_000
QUICK: Final = 2000
WAIT_S: Final = 120.0
PAYLOAD: Final = b'{"device":"d17","celsius":61.5,"at":1732838400.123,"line":"north","unit":7}'
BARE: Final = "bare nats-py, pull by callback"
FETCH: Final = "bare nats-py, fetch and ack each"
INTO_LOG: Final = "JetStream source into a fsynced log"
LEAST_PER_S: Final = 20_000

Taking = Callable[[int, int, Path], Awaitable[float]]


@contextmanager
def server(folder: Path) -> Generator[int]:
    """Run a nats-server; give its port."""
    ports = unused(folder, "ports")
    ports.mkdir()
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("nats-server"), "-a", "127.0.0.1", "-p", "-1", "-js",
            "-sd", unused(folder, "store"), "--ports_file_dir", ports,
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + WAIT_S
        while not (found := [one for one in ports.glob("*.ports") if one.stat().st_size]):
            assert time.monotonic() < deadline, "nats-server does not start"
            time.sleep(0.01)
        address: str = json.loads(found[0].read_text())["nats"][0]
        yield int(address.rpartition(":")[2])
    finally:
        process.terminate()
        process.wait()


async def filled(port: int, count: int) -> Any:
    """Make a stream of *count* messages; return the client that has."""
    import nats

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    stream = client.jetstream()
    await stream.add_stream(name="BENCH", subjects=["bench.>"])
    for _ in range(count):
        await client.publish("bench.a", PAYLOAD)
    await client.flush(60)
    while (await stream.stream_info("BENCH")).state.messages < count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return client


async def by_callback(port: int, count: int, __: Path) -> float:
    """Return the messages per second that a callback takes, a batch asked for after the other."""
    client = await filled(port, count)
    stream = client.jetstream()
    await stream.add_consumer("BENCH", durable_name="bare", ack_policy="all", max_ack_pending=4000)
    inbox, done, seen = client.new_inbox(), asyncio.Event(), 0
    ask = json.dumps({"batch": 2000, "expires": 60_000_000_000}).encode()

    async def take(message: Any) -> None:
        nonlocal seen
        json.loads(message.data)
        seen += 1
        if seen % 1000 == 0 or seen == count:
            await client.publish(message.reply, b"+ACK")
        if seen % 2000 == 0:
            await client.publish("$JS.API.CONSUMER.MSG.NEXT.BENCH.bare", ask, reply=inbox)
        if seen == count:
            done.set()

    await client.subscribe(inbox, cb=take)
    start = time.perf_counter()
    for _ in range(2):
        await client.publish("$JS.API.CONSUMER.MSG.NEXT.BENCH.bare", ask, reply=inbox)
    await asyncio.wait_for(done.wait(), WAIT_S)
    took_s = time.perf_counter() - start
    await client.close()
    return count / took_s


async def by_fetch(port: int, count: int, __: Path) -> float:
    """Return the messages per second that `fetch` takes."""
    client = await filled(port, count)
    puller = await client.jetstream().pull_subscribe("", "bare", stream="BENCH")
    start, seen = time.perf_counter(), 0
    while seen < count:
        for message in await puller.fetch(500):
            json.loads(message.data)
            await message.ack()
            seen += 1
    took_s = time.perf_counter() - start
    await client.close()
    return count / took_s


async def into_log(port: int, count: int, log: Path) -> float:
    """Return the messages per second that come into a log, each durable and then acknowledged."""
    await (await filled(port, count)).close()
    app = App("bench")
    app.source(JetStream(f"nats://127.0.0.1:{port}", "BENCH"))
    start = time.perf_counter()
    async with app.open(str(log)) as engine:
        (feeder,) = engine.companions
        assert isinstance(feeder, Feeder)
        with anyio.fail_after(WAIT_S):
            while feeder.status.stored < count:  # noqa: ASYNC110 (nothing says so otherwise)
                await anyio.sleep(0.002)
        return count / (time.perf_counter() - start)


def rate(folder: Path, taking: Taking, count: int) -> float:
    """Return what *taking* reaches with a server of its own."""
    with server(folder) as port:

        async def main() -> float:
            return await taking(port, count, unused(folder, "log"))

        return on_asyncio(main())


ROWS: Final = [
    Row(BARE, "messages/s"),
    Row(FETCH, "messages/s"),
    Row(INTO_LOG, "events/s", BARE, at_least(LEAST_PER_S)),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure; return the lines of the table."""
    count = QUICK if options.quick else EVENTS
    with scratch() as folder:
        ways = {
            BARE: partial(rate, folder, by_callback, count),
            # It is slow enough to be known after less.
            FETCH: partial(rate, folder, by_fetch, count // 4),
            INTO_LOG: partial(rate, folder, into_log, count),
        }
        return measured(ways, ROWS, options)


if __name__ == "__main__":
    script(__doc__, "JetStream", take)
