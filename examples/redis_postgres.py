"""Orders from a Redis stream, through a durable workflow, into a table of PostgreSQL: each once.

    python examples/redis_postgres.py

starts both servers (from apt: redis-server, postgresql), places orders, some of them twice, kills
Redis half-way and starts it again, and counts what is in the table in the end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import asyncpg
import msgspec
import redis

sys.path.insert(0, str(Path(__file__).parent))

from servers import Redis, postgres

from headrace import App, Firing, Retry, Run, on
from headrace.connectors.postgres_sink import PostgresMessage, PostgresSink
from headrace.connectors.redis_stream import RedisStream

ORDERS = 60
TABLE = "CREATE TABLE shipments (order_no int, parcel text, idempotency_key text UNIQUE)"


class Order(msgspec.Struct):
    """What somebody wants to have."""

    number: int
    article: str


def shop(redis_url: str, postgres_url: str) -> App:
    """Return the app: where orders come from, what is done, and where shipments go."""
    app = App("shop")
    app.source(RedisStream(redis_url, "orders", subject="order.placed"))
    shipments = app.sink(PostgresSink(postgres_url, "shipments", name="shipments"))

    @app.task(retry=Retry(attempts=3, wait_first=0.01, on=OSError))
    async def pack(run: Run, article: str) -> str:
        if run.attempt == 1 and run.random() < 0.2:
            raise OSError("the packing machine is stuck")
        return f"parcel of {article}"

    @app.rule(on("order.placed", Order))
    async def ship(run: Run, firing: Firing[Order]) -> None:
        order = firing.events[-1].data
        parcel = await run.call(pack, order.article)
        row = {"order_no": order.number, "parcel": parcel}
        await run.call(shipments.send, PostgresMessage(data=row))

    return app


def place(port: int, first: int, last: int) -> None:
    """Put orders into the stream; the key says which one it is, should it come again."""
    with redis.Redis(port=port) as client:
        for number in range(first, last):
            order = json.dumps({"number": number, "article": f"bolt {number}"})
            client.xadd("orders", {"data": order, "idempotency-key": f"order-{number}"})


async def main(folder: Path) -> None:
    """Let orders come, kill a server, and count."""
    half = ORDERS // 2
    with Redis(folder) as stream, postgres() as database:
        table = await asyncpg.connect(database)
        await table.execute(TABLE)
        place(stream.port, 0, half)
        async with shop(stream.url, database).open(folder / "shop.log") as engine:
            await shipped(table, 1)
            stream.__exit__()
            stream.__enter__()
            place(stream.port, half - 10, ORDERS)  # ten of them for the second time
            await shipped(table, ORDERS)
            await engine.drain()
            state = engine.state()
        rows = await table.fetchval("SELECT count(*) FROM shipments")
        distinct = await table.fetchval("SELECT count(DISTINCT order_no) FROM shipments")
        await table.close()
    print(f"{ORDERS} orders placed, 10 of them twice, and Redis was killed in between")
    print(f"{state.events} events in the log, {state.retries} tries again, {rows} shipments")
    print("each order was shipped once" if rows == distinct == ORDERS else "that is wrong")


async def shipped(table: asyncpg.Connection, count: int) -> None:
    """Wait until there are so many shipments."""
    async with asyncio.timeout(60):
        count_sql = "SELECT count(*) FROM shipments"
        while (await table.fetchval(count_sql) or 0) < count:  # noqa: ASYNC110 (a table sets no event)
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(main(Path(made)))
