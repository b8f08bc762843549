"""Redis streams, with a real server that is killed and comes back."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
from anyio import to_thread
from tests.connectors.crashes import Crashes
from tests.connectors.redis_server import RedisServer

from headrace import App, MemoryLog
from headrace.connectors.feeder import status_of
from headrace.connectors.protocol import ConnectorError, Source
from headrace.connectors.redis_stream import RedisStream, RedisStreamSink, StreamMessage
from headrace.testing.lives import GatedIntake, Lives, Stop, kept, until
from headrace.testing.sink_contract import SinkContract, SinkHarness
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "connectors" / "redis.md"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The library is made for asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path_factory.mktemp("redis"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def stream(server: RedisServer) -> str:
    """A stream on a server that is up and empty."""
    server.kill()
    server.start()
    with server.client as client:
        client.flushall()
    return "jobs"


class RedisHarness(SourceHarness):
    in_flight_max = 100

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def source(self) -> Source:
        return RedisStream(self.server.url, "jobs", batch_max=100, timeout_s=4)

    async def publish(self, numbers: Sequence[int]) -> None:
        def add() -> None:
            with self.server.client as client, client.pipeline(transaction=False) as pipeline:
                for number in numbers:
                    data = json.dumps({"number": number})
                    pipeline.xadd("jobs", {"data": data, "idempotency-key": f"k{number}"})
                pipeline.execute()

        await to_thread.run_sync(add)

    async def republish(self, number: int) -> bool:
        await self.publish([number])
        return True

    async def poison(self) -> bool:
        with self.server.client as client:
            client.xadd("jobs", {"data": b'{"number": \xff'})
        return True

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await to_thread.run_sync(self.server.start)

    def unusable(self) -> list[Source]:
        with self.server.client as client:
            client.set("a-text", "x")
        wrong = self.server.url.replace("sesame", "planted-secret")
        return [
            RedisStream(wrong, "jobs"),
            RedisStream(f"redis://127.0.0.1:{self.server.port}", "jobs"),
            RedisStream(self.server.url, "a-text"),
            RedisStream(self.server.url, "nowhere", create=False),
        ]


class TestRedisStream(SourceContract):
    @pytest.fixture
    def harness(self, server: RedisServer, stream: str) -> SourceHarness:
        return RedisHarness(server)


class SinkOfRedis(SinkHarness):
    dedupes = True

    def __init__(self, server: RedisServer) -> None:
        self.server = server

    def sink(self) -> RedisStreamSink:
        return RedisStreamSink(self.server.url, "jobs", maxlen=1000)

    def message(self, number: int) -> StreamMessage:
        return StreamMessage("a.b", {"number": number}, {"extra": "1"})

    async def taken(self) -> list[int]:
        return [json.loads(fields[b"data"])["number"] for fields in self._entries()]

    async def keys(self) -> list[str] | None:
        return [fields[b"idempotency-key"].decode() for fields in self._entries()]

    def _entries(self) -> list[dict[bytes, bytes]]:
        with self.server.client as client:
            entries: Any = client.xrange("jobs")
        return [fields for _, fields in entries]

    def refused(self) -> Any:
        with self.server.client as client:
            client.set("a-text", "x")
        return StreamMessage("a.b", 1, stream="a-text")

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await to_thread.run_sync(self.server.start)


class TestRedisStreamSink(SinkContract):
    @pytest.fixture
    def harness(self, server: RedisServer, stream: str) -> SinkHarness:
        return SinkOfRedis(server)


def pending(server: RedisServer) -> int:
    with server.client as client:
        found: Any = client.xpending("jobs", "headrace")
        count: int = found["pending"]
        return count


async def test_acknowledged_behind_the_log(server: RedisServer, stream: str) -> None:
    """What was handed out stays pending until it is stored, and then no longer."""
    harness = RedisHarness(server)
    lives = Lives(harness.source, MemoryLog())
    await harness.publish(range(3))
    async with lives.life("behind it") as life:
        await life.intake.stopped.wait()
        assert pending(server) == 3
    async with lives.life():
        await until(lambda: pending(server) == 0, "nothing pending", within_s=5)
    assert len(lives.kept()) == 3


async def test_what_is_pending_for_longer_than_ids_are_known(
    server: RedisServer, stream: str
) -> None:
    """The cursor in the log says that it is stored: an engine may be gone for weeks."""
    harness = RedisHarness(server)
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
                    assert pending(server) == 3
                else:
                    await until(lambda: pending(server) == 0, "acknowledged", within_s=5)
                group.cancel_scope.cancel()
    assert [harness.number(event) for event in kept(log)] == [0, 1, 2]


@pytest.mark.slow
async def test_what_another_consumer_has_left(server: RedisServer, stream: str) -> None:
    """It is taken over after a time, although its place is before what is stored."""
    harness = RedisHarness(server)
    with server.client as client:
        client.xgroup_create("jobs", "headrace", "0", mkstream=True)
        await harness.publish([0])
        client.xreadgroup("headrace", "dead", {"jobs": ">"})

    def source() -> Source:
        return RedisStream(server.url, "jobs", claim_idle_s=0.5)

    await harness.publish([1])
    lives = Lives(source, MemoryLog())
    async with lives.life() as life:
        await until(lambda: life.status.stored == 2, "both", within_s=5)
        assert [harness.number(event) for event in lives.kept()] == [1, 0]
        await until(lambda: pending(server) == 0, "nothing pending", within_s=5)
        assert life.status.lag == 0


async def test_server_that_forgets_what_it_handed_out(server: RedisServer, stream: str) -> None:
    """A group that is set back hands out again: what is stored is not stored again."""
    harness = RedisHarness(server)
    lives = Lives(harness.source, MemoryLog())
    async with lives.life() as life:
        await harness.publish(range(3))
        await until(lambda: life.status.stored == 3, "all", within_s=5)
        with server.client as client:
            client.xgroup_setid("jobs", "headrace", "0")
        await harness.publish([3])
        await until(lambda: life.status.stored == 4, "the new one", within_s=5)
        assert life.status.duplicates == 3
        # Gone altogether: it is made anew behind what is stored.
        with server.client as client:
            client.xgroup_destroy("jobs", "headrace")
        await harness.publish([4])
        await until(lambda: life.status.stored == 5, "a new group", within_s=8)
        assert life.status.duplicates == 3
    assert [harness.number(event) for event in lives.kept()] == [0, 1, 2, 3, 4]


async def test_entries_of_other_shapes(server: RedisServer, stream: str) -> None:
    """Subjects of their own, fields instead of data, ids that fit into no position."""
    with server.client as client:
        client.xadd("jobs", {"subject": "a.b", "data": "1"})
        client.xadd("jobs", {"subject": "a.*", "data": "2"})
        client.xadd("jobs", {"unit": "m1", "value": "3"})
        client.xadd("jobs", {"data": "4"}, id="9999999999999999-99999999")
    log = MemoryLog()
    lives = Lives(lambda: RedisStream(server.url, "jobs"), log)
    async with lives.life() as life:
        await until(lambda: life.status.stored == 4, "all", within_s=5)
    one, two, three, four = lives.kept()
    assert (one.subject, one.data) == ("a.b", 1)
    assert two.is_refusal
    assert "wildcard" in two.data["reason"]
    assert "expected a field 'data'" in three.data["reason"]
    assert (four.subject, four.data, four.position) == ("redis.jobs", 4, None)
    whole = Lives(
        lambda: RedisStream(server.url, "jobs", group="g2", data_field=None, subject="x.y"),
        MemoryLog(),
    )
    async with whole.life() as life:
        await until(lambda: life.status.stored == 4, "all", within_s=5)
    assert (whole.kept()[2].subject, whole.kept()[2].data) == ("x.y", {"unit": "m1", "value": "3"})


async def test_entry_that_was_deleted_while_pending(server: RedisServer, stream: str) -> None:
    """There is nothing to store of it, and it does not stop what comes behind it."""
    harness = RedisHarness(server)
    lives = Lives(harness.source, MemoryLog())
    await harness.publish(range(2))
    async with lives.life("before it stores") as life:
        await life.intake.stopped.wait()
    with server.client as client:
        client.xtrim("jobs", maxlen=1, approximate=False)
    async with lives.life():
        await until(lambda: pending(server) == 0, "acknowledged", within_s=5)
    assert [harness.number(event) for event in lives.kept()] == [1]


async def test_server_of_another_protocol() -> None:
    """It is said that it is another, and no secret with it."""

    async def answer(connection: anyio.abc.SocketStream) -> None:
        async with connection:
            await connection.receive()
            await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        group.start_soon(listener.serve, answer)
        lives = Lives(lambda: RedisStream(f"redis://:planted@127.0.0.1:{port}", "s"), MemoryLog())
        with pytest.raises(BaseExceptionGroup) as found, anyio.fail_after(5):
            async with lives.life():
                await anyio.sleep_forever()
        (error,) = found.value.exceptions
        assert isinstance(error, ConnectorError)
        assert "check the port" in str(error)
        assert "planted" not in str(error)
        group.cancel_scope.cancel()


async def test_server_that_is_silent_is_gone() -> None:
    """A half-open connection is noticed within `timeout_s`."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        lives = Lives(
            lambda: RedisStream(f"redis://127.0.0.1:{port}", "s", timeout_s=0.3), MemoryLog()
        )
        async with lives.life() as life:
            await until(lambda: life.status.state == "lost", "it is noticed", within_s=3)
            assert "Timeout" in life.status.error


@pytest.mark.slow
async def test_tls(tmp_path: Path) -> None:
    """With a certificate that is vouched for it works, and without it is refused."""
    made = await anyio.run_process(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        cwd=tmp_path, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    server = RedisServer(
        tmp_path, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert,
        "--tls-auth-clients", "no", tls=True,
    )  # fmt: skip
    server.start()
    try:
        async with RedisStreamSink(server.url, "jobs", ca_file=cert) as sink:
            await sink.send(StreamMessage("a.b", 1), key="k")
        lives = Lives(lambda: RedisStream(server.url, "jobs", ca_file=cert), MemoryLog())
        async with lives.life() as life:
            await until(lambda: life.status.stored == 1, "the entry", within_s=5)
        with pytest.raises(BaseExceptionGroup) as found:
            async with Lives(lambda: RedisStream(server.url, "jobs"), MemoryLog()).life():
                await anyio.sleep(5)
        assert "check ca_file" in str(found.value.exceptions[0])
    finally:
        server.kill()


def test_settings_are_checked_at_once() -> None:
    """With the place, what was expected and what was found, and without the password."""
    with pytest.raises(ConnectorError, match=r"RedisStream 'redis': expected an address"):
        RedisStream("http://u:planted@x", "s")
    with pytest.raises(ValueError, match="batch_max: expected a whole number from 1"):
        RedisStream("redis://x", "s", batch_max=0)
    with pytest.raises(TypeError, match="stream: expected a text, found 7"):
        RedisStream("redis://x", 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="payload"):
        RedisStream("redis://x", "s", payload="xml")  # type: ignore[arg-type]
    with pytest.raises(ConnectorError, match="number of a database"):
        RedisStream("redis://x/jobs", "s")
    assert "planted" not in repr(RedisStream("redis://:planted@x", "s"))


async def test_example_of_the_page(
    server: RedisServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the page shows works as it stands."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.setenv("REDIS_URL", server.url)
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile(program, str(PAGE), "exec"), page)
    async with page["app"].open(MemoryLog()):
        with server.client as client:
            client.xadd("orders", {"data": '{"article": "bolt", "count": 2000}'})
            with anyio.fail_after(10):
                while not client.xlen("big-orders"):
                    await anyio.sleep(0.01)
            entries: Any = client.xrange("big-orders")
    assert json.loads(entries[0][1][b"data"]) == {"article": "bolt", "count": 2000}


@pytest.mark.parametrize(
    "cycles", [pytest.param(2, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.soak)]
)
async def test_kills_under_load(
    server: RedisServer, stream: str, tmp_path: Path, cycles: int
) -> None:
    """Our process and the server are killed in turn: what the server acknowledged is there once."""
    clients: list[redis.Redis] = []

    def publish(number: int) -> None:
        if not clients:
            clients.append(server.client)
        try:
            clients[0].xadd("jobs", {"data": json.dumps({"number": number})})
        except redis.RedisError:
            clients.pop().close()
            raise

    crashes = Crashes(
        tmp_path,
        f"from headrace.connectors.redis_stream import RedisStream as S; "
        f"source = S({server.url!r}, 'jobs')",
        publish,
        (redis.RedisError,),
    )
    await to_thread.run_sync(lambda: crashes.run(cycles, server.kill, server.start))
    clients.pop().close()
    assert crashes.missing() == []
    assert crashes.twice() == []


def test_trio_is_refused_in_one_line() -> None:
    """The library would fail in a way that nobody understands."""

    async def enter() -> None:
        async with RedisStreamSink("redis://127.0.0.1:1", "s"):
            pass

    with pytest.raises(ConnectorError, match="expected asyncio"):
        anyio.run(enter, backend="trio")
