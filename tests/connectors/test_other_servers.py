"""Each source at a port where something else listens: one line says so, and no secret is in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.connectors.asking import SECRET

from headrace import MemoryLog
from headrace.connectors import websocket
from headrace.connectors.jetstream import JetStream
from headrace.connectors.kafka import Kafka
from headrace.connectors.mqtt import Mqtt
from headrace.connectors.nats import Nats
from headrace.connectors.postgres import PostgresNotify, PostgresOutbox
from headrace.connectors.protocol import ConnectorError, Source
from headrace.connectors.redis_stream import RedisStream
from headrace.connectors.sse import Sse
from headrace.connectors.websocket import WebSocket
from headrace.testing.lives import Lives

LINE_CHARS_MAX = 500
TAKEN_BYTES_MAX = 16 * 1024 * 1024
"""What a source may have read of an answer without an end; what the network holds is in it."""
LOGIN = f"u:{SECRET}@127.0.0.1"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Most of the libraries are made for asyncio."""
    return "asyncio"


SOURCES: dict[str, Callable[[int], Source]] = {
    "mqtt": lambda p: Mqtt(f"mqtt://{LOGIN}:{p}", topics="a", client_id="c", timeout_s=1),
    "nats": lambda p: Nats(f"nats://{LOGIN}:{p}", "a", timeout_s=1),
    "jetstream": lambda p: JetStream(f"nats://{LOGIN}:{p}", "A", timeout_s=1),
    "kafka": lambda p: Kafka(f"127.0.0.1:{p}", ["a"], timeout_s=1),
    "kafka-sasl": lambda p: Kafka(
        f"127.0.0.1:{p}", ["a"], timeout_s=1, security="SASL_PLAINTEXT", user="u", password=SECRET
    ),
    "redis": lambda p: RedisStream(f"redis://{LOGIN}:{p}", "a", timeout_s=1),
    "outbox": lambda p: PostgresOutbox(f"postgresql://{LOGIN}:{p}/d", timeout_s=1),
    "notify": lambda p: PostgresNotify(f"postgresql://{LOGIN}:{p}/d", ["c"], timeout_s=1),
    "sse": lambda p: Sse(f"http://{LOGIN}:{p}/{SECRET}?token={SECRET}", silence_s=1),
    "websocket": lambda p: WebSocket(f"ws://{LOGIN}:{p}/{SECRET}?token={SECRET}"),
}


class Other:
    """Something that listens at a port, and what it could say."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.said_bytes = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.kind == "http":
                await reader.read(10)
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
            elif self.kind == "echo":
                while data := await reader.read(1000):
                    writer.write(data)
            elif self.kind == "endless":
                while True:
                    writer.write(b"A" * 65_536)
                    await writer.drain()
                    self.said_bytes += 65_536
            elif self.kind == "ssh":
                writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
                await reader.read()
        except OSError:
            pass  # whoever was there has gone
        finally:
            writer.close()


@asynccontextmanager
async def listening(other: Other) -> AsyncGenerator[int]:
    async with await asyncio.start_server(other.serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def said_of(source: Source) -> tuple[str, bool]:
    """Return what *source* says of its first connection, and whether it has given up."""
    try:
        async with Lives(lambda: source, MemoryLog()).life() as life:
            with anyio.fail_after(10):
                while life.status.state == "starting":
                    await anyio.sleep(0.01)
            assert life.status.state == "lost"
            return life.status.error, False
    except BaseExceptionGroup as several:
        found: BaseException = several
        while isinstance(found, BaseExceptionGroup):
            (found,) = found.exceptions
        assert isinstance(found, ConnectorError), found
        return str(found), True


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["http", "echo", "endless", "ssh", "closes"])
async def test_something_else_listens(
    source: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says, and if it sends back what it was told, or does not stop."""
    monkeypatch.setattr(websocket, "CONNECT_TIMEOUT_S", 1.0)
    other = Other(kind)
    async with listening(other) as port:
        said, _ = await said_of(SOURCES[source](port))
    assert said
    assert "\n" not in said
    assert len(said) <= LINE_CHARS_MAX
    assert SECRET not in said
    if source != "websocket":  # its library reads on until its time is over, and drops it
        assert other.said_bytes <= TAKEN_BYTES_MAX


@pytest.mark.parametrize(
    "source", ["mqtt", "kafka", "kafka-sasl", "redis", "outbox", "notify", "sse", "websocket"]
)
async def test_web_server_is_known_as_one(source: str) -> None:
    """The commonest mistake ends the engine at once, and says what to look at."""
    async with listening(Other("http")) as port:
        said, has_given_up = await said_of(SOURCES[source](port))
    assert has_given_up, said
    assert "expected" in said
    assert "found" in said
