"""PostgreSQL, with a real cluster that is killed and comes back."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest
from anyio import to_thread
from tests.connectors.crashes import Crashes
from tests.connectors.postgres_server import PostgresServer

from headrace import App, MemoryLog
from headrace.connectors.feeder import status_of
from headrace.connectors.postgres import PostgresNotify, PostgresOutbox
from headrace.connectors.postgres_connection import gone
from headrace.connectors.postgres_sink import PostgresMessage, PostgresSink
from headrace.connectors.protocol import ConnectorError, SinkRefused, Source
from headrace.testing.lives import GatedIntake, Lives, Stop, kept, until
from headrace.testing.sink_contract import SinkContract, SinkHarness
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "connectors" / "postgres.md"
ADD = "INSERT INTO outbox (subject, data) VALUES ($1, $2)"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The library is made for asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def made() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.make()
        yield server
    finally:
        server.remove()


@pytest.fixture
def server(made: PostgresServer) -> PostgresServer:
    """A server that is up, with an empty schema."""
    if made.process is None:
        made.start()
    made.sql("DROP SCHEMA public CASCADE")
    made.sql("CREATE SCHEMA public")
    made.sql(PostgresOutbox(made.url).schema())
    return made


@asynccontextmanager
async def connected(server: PostgresServer) -> AsyncGenerator[Any, None]:
    connection = await asyncpg.connect(server.url)
    try:
        yield connection
    finally:
        await connection.close()


class OutboxHarness(SourceHarness):
    in_flight_max = 100

    def __init__(self, server: PostgresServer) -> None:
        self.server = server

    def source(self) -> Source:
        return PostgresOutbox(self.server.url, batch_max=100, poll_s=0.2, timeout_s=4)

    async def publish(self, numbers: Sequence[int]) -> None:
        async with connected(self.server) as connection:
            rows = [("a.b", json.dumps({"number": number})) for number in numbers]
            await connection.executemany(ADD, rows)

    async def republish(self, number: int) -> bool:
        return False  # a row that is added again is another row

    async def disorder(self, numbers: Sequence[int]) -> bool:
        # The lowest id is the last that is committed.
        first, *others = numbers
        async with connected(self.server) as connection, connection.transaction():
            await connection.execute(ADD, "a.b", json.dumps({"number": first}))
            await self.publish(others)
            async with connected(self.server) as other:
                count = "SELECT count(*) FROM outbox"
                while await other.fetchval(count):
                    await anyio.sleep(0.01)
        return True

    async def poison(self) -> bool:
        async with connected(self.server) as connection:
            await connection.execute(ADD, "a.*", '"bad"')
        return True

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await to_thread.run_sync(self.server.start)

    def unusable(self) -> list[Source]:
        url = self.server.url
        return [
            PostgresOutbox(url.replace("sesame", "planted-secret")),
            PostgresOutbox(url.rpartition("/")[0] + "/nowhere"),
            PostgresOutbox(url, "nowhere", create=False),
            PostgresOutbox(url, data_column="nothing"),
        ]


class TestPostgresOutbox(SourceContract):
    @pytest.fixture
    def harness(self, server: PostgresServer) -> SourceHarness:
        return OutboxHarness(server)


class NotifyHarness(OutboxHarness):
    in_flight_max = 1000
    keeps = False

    def source(self) -> Source:
        return PostgresNotify(self.server.url, ["c 1"], batch_max=100)

    async def publish(self, numbers: Sequence[int]) -> None:
        async with connected(self.server) as connection:
            texts = [(json.dumps({"number": number}),) for number in numbers]
            await connection.executemany("SELECT pg_notify('c 1', $1)", texts)

    async def disorder(self, numbers: Sequence[int]) -> bool:
        return False  # in the order of the commits, and without ids

    async def poison(self) -> bool:
        async with connected(self.server) as connection:
            await connection.execute("SELECT pg_notify('c 1', $1)", '{"number": ')
        return True

    def unusable(self) -> list[Source]:
        return [PostgresNotify(self.server.url.replace("sesame", "planted-secret"), ["c"])]


class TestPostgresNotify(SourceContract):
    @pytest.fixture
    def harness(self, server: PostgresServer) -> SourceHarness:
        return NotifyHarness(server)


class SinkOfPostgres(SinkHarness):
    dedupes = True

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        server.sql(
            "CREATE TABLE results (row bigserial, number int NOT NULL, at timestamptz, "
            "more jsonb, idempotency_key text UNIQUE)"
        )

    def sink(self) -> PostgresSink:
        return PostgresSink(self.server.url, "results", timeout_s=4)

    def message(self, number: int) -> PostgresMessage:
        values = {"number": number, "at": "2026-03-01T08:00:00Z", "more": {"a": [1]}}
        return PostgresMessage("a.b", values)

    async def taken(self) -> list[int]:
        async with connected(self.server) as connection:
            rows = await connection.fetch("SELECT number FROM results ORDER BY row")
        return [row["number"] for row in rows]

    async def keys(self) -> list[str] | None:
        async with connected(self.server) as connection:
            rows = await connection.fetch("SELECT idempotency_key FROM results ORDER BY row")
        return [row["idempotency_key"] for row in rows]

    def refused(self) -> Any:
        return PostgresMessage("a.b", {"number": "no number"})

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await to_thread.run_sync(self.server.start)


class TestPostgresSink(SinkContract):
    @pytest.fixture
    def harness(self, server: PostgresServer) -> SinkHarness:
        return SinkOfPostgres(server)


async def counts(server: PostgresServer) -> tuple[int, int]:
    """How many rows wait in the outbox, and beside it."""
    async with connected(server) as connection:
        return (
            await connection.fetchval("SELECT count(*) FROM outbox"),
            await connection.fetchval("SELECT count(*) FROM outbox_taken"),
        )


async def test_deleted_behind_the_log(server: PostgresServer) -> None:
    """A row that is taken is kept beside the outbox until it is stored."""
    harness = OutboxHarness(server)
    lives = Lives(harness.source, MemoryLog())
    async with lives.life():
        await harness.publish([0])
        await until(lambda: len(lives.kept()) == 1, "the first", within_s=5)
    await harness.publish([1, 2, 3])
    async with lives.life("before it stores") as life:
        await life.intake.stopped.wait()
        assert await counts(server) == (0, 3)
    async with lives.life():
        await until(lambda: len(lives.kept()) == 4, "all", within_s=5)
        with anyio.fail_after(5):
            while await counts(server) != (0, 0):
                await anyio.sleep(0.01)


async def test_transaction_that_commits_late(server: PostgresServer) -> None:
    """Its rows have lower ids than rows that are stored: they come all the same."""
    harness = OutboxHarness(server)
    lives = Lives(harness.source, MemoryLog())
    async with connected(server) as late, lives.life() as life:
        transaction = late.transaction()
        await transaction.start()
        await late.execute(ADD, "a.b", '{"number": 0}')
        await harness.publish([1, 2])
        await until(lambda: life.status.stored == 2, "the others", within_s=5)
        await transaction.commit()
        await until(lambda: life.status.stored == 3, "the late one", within_s=5)
    assert [harness.number(event) for event in lives.kept()] == [1, 2, 0]
    assert [event.id for event in lives.kept()] == ["2", "3", "1"]
    positions = [event.position or 0 for event in lives.kept()]
    assert positions == sorted(set(positions))


async def test_what_is_taken_for_longer_than_ids_are_known(server: PostgresServer) -> None:
    """The cursor in the log says that it is stored: an engine may be gone for weeks."""
    harness = OutboxHarness(server)
    log = MemoryLog()
    await harness.publish(range(3))
    stops: list[Stop | None] = ["behind it", None]
    for stop in stops:
        source = harness.source()
        async with App("plant").open(log, dedupe_window=0) as engine:
            intake = GatedIntake(engine, status_of(source), stop)
            async with anyio.create_task_group() as group:
                group.start_soon(source.run, intake)
                if stop:
                    await intake.stopped.wait()
                    assert await counts(server) == (0, 3)
                else:
                    await harness.publish([3])
                    await until(lambda: len(kept(log)) == 4, "the new one", within_s=5)
                group.cancel_scope.cancel()
    assert [harness.number(event) for event in kept(log)] == [0, 1, 2, 3]


async def test_server_of_an_older_copy(server: PostgresServer) -> None:
    """Its places begin again; none is taken for one that is stored."""
    harness = OutboxHarness(server)
    lives = Lives(harness.source, MemoryLog())
    await harness.publish(range(3))
    async with lives.life():
        await until(lambda: len(lives.kept()) == 3, "all", within_s=5)
    async with connected(server) as connection:
        await connection.execute("DROP TABLE outbox_taken")
    await harness.publish([3])
    async with lives.life():
        await until(lambda: len(lives.kept()) == 4, "the new one", within_s=5)


async def test_connection_that_was_cut_off_is_ended(server: PostgresServer) -> None:
    """Two connections of one log would take rows out of order: the older one has to go."""
    harness = OutboxHarness(server)
    log = MemoryLog()
    lives = Lives(harness.source, log)
    async with lives.life() as life:
        taker = life.intake.engine.log.log_id.hex()
    async with connected(server) as zombie:
        await zombie.execute(
            "SELECT pg_advisory_lock($1, hashtext($2))", 0x68647263, f'{taker} "outbox"'
        )
        async with lives.life() as life:
            await until(lambda: life.status.state == "connected", "a connection", within_s=5)
        assert zombie.is_closed()


async def test_notification_wakes_it_up(server: PostgresServer) -> None:
    """At once, and not when it looks the next time."""
    lives = Lives(lambda: PostgresOutbox(server.url, poll_s=60), MemoryLog())
    harness = OutboxHarness(server)
    async with lives.life() as life:
        await until(lambda: life.status.lag == 0, "an empty outbox", within_s=5)
        await harness.publish([0])
        await until(lambda: life.status.stored == 1, "the row", within_s=2)


async def test_tables_are_made_and_may_have_other_shapes(server: PostgresServer) -> None:
    """Names of its own, one subject for all, bytes that are no JSON."""
    async with connected(server) as connection:
        await connection.execute("CREATE SCHEMA shop")
        await connection.execute(
            'CREATE TABLE shop.mail ("No" uuid PRIMARY KEY DEFAULT gen_random_uuid(), body bytea)'
        )
        await connection.execute("INSERT INTO shop.mail (body) VALUES ($1)", b"[1, 2]")
        await connection.execute("INSERT INTO shop.mail (body) VALUES ($1)", b"\xff")

    def source() -> Source:
        return PostgresOutbox(
            server.url, "shop.mail", id_column="No", data_column="body", subject="mail.in"
        )

    lives = Lives(source, MemoryLog())
    async with lives.life() as life:
        await until(lambda: life.status.stored == 2, "both", within_s=5)
    good = [event for event in lives.kept() if not event.is_refusal]
    bad = [event for event in lives.kept() if event.is_refusal]
    assert [(event.subject, event.data) for event in good] == [("mail.in", [1, 2])]
    assert [event.data["raw"] for event in bad] == [b"\xff"]
    made = Lives(lambda: PostgresOutbox(server.url, "shop.fresh"), MemoryLog())
    async with made.life() as life:
        await until(lambda: life.status.state == "connected", "a connection", within_s=5)
        async with connected(server) as connection:
            await connection.execute("INSERT INTO shop.fresh (subject) VALUES ('a.b')")
        await until(lambda: life.status.stored == 1, "the row", within_s=5)


async def test_notifications_that_are_too_many_are_dropped(server: PostgresServer) -> None:
    """The oldest go; what is kept is bounded."""
    lives = Lives(lambda: PostgresNotify(server.url, ["c 1"], waiting_max=5), MemoryLog())
    harness = NotifyHarness(server)
    async with lives.life() as life:
        await until(lambda: life.status.state == "connected", "a connection", within_s=5)
        life.intake.shut()
        await harness.publish([0])
        await until(lambda: life.intake.held == 1, "the first", within_s=5)
        await harness.publish(range(1, 20))
        await anyio.sleep(0.1)
        life.intake.open()
        await until(lambda: life.status.stored == 6, "what was kept", within_s=5)
    assert [harness.number(event) for event in lives.kept()] == [0, 15, 16, 17, 18, 19]


async def test_statement_of_ones_own(server: PostgresServer) -> None:
    """Data, key and subject are its parameters, as far as it has them."""
    server_sql = to_thread.run_sync
    await server_sql(server.sql, "CREATE TABLE state (unit text PRIMARY KEY, value int, by text)")
    statement = (
        "INSERT INTO state VALUES ($1::jsonb->>'unit', ($1::jsonb->>'value')::int, $2) "
        "ON CONFLICT (unit) DO UPDATE SET value = excluded.value"
    )
    async with PostgresSink(server.url, statement=statement) as sink:
        for value in (1, 2):
            data = {"unit": "m1", "value": value}
            assert await sink.send(PostgresMessage("a", data), key=f"k{value}") == 1
    rows = await server_sql(server.sql, "SELECT unit, value, by FROM state")
    assert [tuple(row) for row in rows] == [("m1", 2, "k1")]
    async with PostgresSink(server.url, statement="SELECT $1::int") as sink:
        # The library encodes it, so the server never sees it: no later try would do better.
        with pytest.raises(SinkRefused, match=r"\$1: '7'"):
            await sink.send(PostgresMessage("a", 7), key="k")
    many = "SELECT $1::text, $2::text, $3::text, $4::text"
    async with PostgresSink(server.url, statement=many) as sink:
        with pytest.raises(SinkRefused, match="found 4"):
            await sink.send(PostgresMessage("a", 1), key="k")


async def test_table_that_cannot_take_rows(server: PostgresServer) -> None:
    """Each says what to mend."""
    await to_thread.run_sync(server.sql, "CREATE TABLE bare (n int, idempotency_key text)")
    async with PostgresSink(server.url, "bare") as sink:
        for data, reason in (
            ({"n": 1}, "make a unique index"),
            ({"x": 1}, 'column "x" of relation "bare" does not exist'),
            ({"a;b": 1}, "expected names of columns"),
            ([1], "a value for each column"),
            ({"n": "\0"}, "PostgresSink"),
        ):
            with pytest.raises(SinkRefused, match=reason):
                await sink.send(PostgresMessage("a", data), key="k")
        with pytest.raises(ValueError, match="a value for each column"):
            sink.message_of("a", 7)


async def test_server_of_another_protocol() -> None:
    """It is said that it is another, and no secret with it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        url = f"postgresql://u:planted@127.0.0.1:{port}/x"
        with pytest.raises(BaseExceptionGroup) as found, anyio.fail_after(5):
            async with Lives(lambda: PostgresOutbox(url), MemoryLog()).life():
                await anyio.sleep_forever()
    (error,) = found.value.exceptions
    assert isinstance(error, ConnectorError)
    assert "check the port" in str(error)
    assert "planted" not in str(error)


async def test_server_that_is_silent_is_gone() -> None:
    """A half-open connection is noticed within `timeout_s`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/x"
        lives = Lives(lambda: PostgresOutbox(url, timeout_s=0.3), MemoryLog())
        async with lives.life() as life:
            await until(lambda: life.status.state == "lost", "it is noticed", within_s=3)


def test_settings_are_checked_at_once() -> None:
    """With the place, what was expected and what was found, and without the password."""
    url = "postgresql://u:planted@x/y"
    with pytest.raises(ConnectorError, match=r"PostgresOutbox 'outbox': expected an address"):
        PostgresOutbox("http://u:planted@x")
    with pytest.raises(ValueError, match="table: expected a name of letters"):
        PostgresOutbox(url, 'a"; DROP TABLE b')
    with pytest.raises(ValueError, match="poll_s: expected a number from"):
        PostgresOutbox(url, poll_s=0.0)
    with pytest.raises(TypeError, match="channels: expected a list"):
        PostgresNotify(url, "c")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a table or a statement, found neither"):
        PostgresSink(url)
    with pytest.raises(ValueError, match="a table or a statement, found both"):
        PostgresSink(url, "t", statement="SELECT 1")
    assert "planted" not in repr(PostgresOutbox(url))


@pytest.mark.parametrize(
    "cycles",
    [pytest.param(2, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.soak)],
)
async def test_kills_under_load(server: PostgresServer, tmp_path: Path, cycles: int) -> None:
    """Our process and the server are killed in turn: what was committed is there once."""
    loop = asyncio.new_event_loop()
    connections: list[Any] = []

    async def add(number: int) -> None:
        if not connections:
            connections.append(await asyncpg.connect(server.url))
        try:
            await connections[0].execute(ADD, "a.b", json.dumps({"number": number}))
        except gone():
            connections.pop().terminate()
            raise

    crashes = Crashes(
        tmp_path,
        f"from headrace.connectors.postgres import PostgresOutbox as S; source = S({server.url!r})",
        lambda number: loop.run_until_complete(add(number)),
        gone(),
    )
    await to_thread.run_sync(lambda: crashes.run(cycles, server.kill, server.start))
    for connection in connections:
        await to_thread.run_sync(loop.run_until_complete, connection.close())
    loop.close()
    assert crashes.missing() == []
    assert crashes.twice() == []


async def test_example_of_the_page(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page shows works as it stands."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (table, add) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.setenv("DATABASE_URL", server.url)
    async with connected(server) as connection:
        await connection.execute(table)
        page: dict[str, Any] = {"__name__": "page"}
        exec(compile(program, str(PAGE), "exec"), page)
        async with page["app"].open(MemoryLog()):
            await connection.execute(add)
            with anyio.fail_after(10):
                while not (rows := await connection.fetch("SELECT article, amount FROM big")):
                    await anyio.sleep(0.01)
    assert [tuple(row) for row in rows] == [("bolt", 2000)]
