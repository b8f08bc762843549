"""`WebSocket` against a server on this machine that closes, floods, sleeps and restarts."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from headrace import App, Engine, MemoryLog
from headrace.connectors.feeder import Feeder
from headrace.connectors.protocol import ConnectorError, ExtraMissing
from headrace.connectors.websocket import HELD_BYTES_MAX, WebSocket, _Held
from headrace.engine.record import EventStored, decode

pytestmark = pytest.mark.slow

websockets = pytest.importorskip("websockets.asyncio.server")
Talk = Callable[[Any], Awaitable[None]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The library is made for asyncio."""
    return "asyncio"


@asynccontextmanager
async def serving(talk: Talk, port: int = 0) -> AsyncGenerator[int, None]:
    async with websockets.serve(talk, "127.0.0.1", port, compression=None) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def taking(port: int, **options: Any) -> AsyncGenerator[Engine, None]:
    app = App("feed")
    app.source(WebSocket(f"ws://127.0.0.1:{port}/secret-path", **options))
    async with app.open(MemoryLog()) as engine:
        yield engine


def feeder(engine: Engine) -> Feeder:
    (companion,) = engine.companions
    assert isinstance(companion, Feeder)
    return companion


def stored(engine: Engine) -> list[EventStored]:
    records = [decode(raw) for _, batch in engine.log.read() for raw in batch]
    return [record for record in records if isinstance(record, EventStored)]


async def until(engine: Engine, count: int) -> list[Any]:
    # What is in the log: the state is ahead of it.
    with anyio.fail_after(10):
        while len(stored(engine)) < count:
            await anyio.sleep(0.005)
    return [msgspec.msgpack.decode(event.data) for event in stored(engine)]


async def test_messages_come_in_behind_a_subscription() -> None:
    """Texts and bytes, in their order; one that is none is kept, and the next goes on."""
    heard: list[Any] = []

    async def talk(connection: Any) -> None:
        heard.append((await connection.recv(), connection.request.headers["x-key"]))
        for message in ('{"a": 1}', b"2", "{", "3"):
            await connection.send(message)
        await connection.wait_closed()

    own: dict[str, Any] = {"subscribe": '{"op": "all"}', "headers": {"x-key": "k"}}
    async with serving(talk) as port, taking(port, **own) as engine:
        first, second, refused, last = await until(engine, 4)
        status = feeder(engine).status
        assert (status.stored, status.refused, status.state) == (4, 1, "connected")

    assert heard == [('{"op": "all"}', "k")]
    assert (first, second, refused["raw"], last) == ({"a": 1}, 2, b"{", 3)


@pytest.mark.parametrize("how", ["closes", "aborts"])
async def test_lost_connection_is_made_again(how: str) -> None:
    """Each goes on with what comes then."""
    talks = 0

    async def talk(connection: Any) -> None:
        nonlocal talks
        talks += 1
        await connection.send(str(talks))
        if how == "aborts":
            await asyncio.sleep(0.02)
            connection.transport.abort()

    async with serving(talk) as port, taking(port) as engine:
        assert (await until(engine, 3))[:3] == [1, 2, 3]
        assert feeder(engine).status.connections >= 3


async def test_server_that_is_back_is_found_again() -> None:
    """Within five seconds, however long it was gone."""

    async def talk(connection: Any) -> None:
        await connection.send("1")
        await connection.wait_closed()

    async with serving(talk) as port:
        pass
    async with taking(port) as engine:
        await anyio.sleep(0.5)
        assert feeder(engine).status.state == "lost"
        async with serving(talk, port):
            with anyio.fail_after(5):
                await until(engine, 1)


async def test_silent_connection_is_lost() -> None:
    """A half-open one answers no ping."""
    async with serving_silence() as (port, seen), taking(port, ping_s=0.1):
        with anyio.fail_after(10):
            while len(seen) < 2:
                await anyio.sleep(0.01)


@asynccontextmanager
async def serving_silence() -> AsyncGenerator[tuple[int, list[int]], None]:
    """Accept connections, and say nothing more: no pong either."""
    from websockets.utils import accept_key

    seen: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = request.lower().index("sec-websocket-key: ") + 19
        accepted = accept_key(request[key:].split("\r\n")[0])
        writer.write(
            b"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: " + accepted.encode() + b"\r\n\r\n"
        )
        seen.append(1)
        while await reader.read(1000):
            pass
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()
        await server.wait_closed()


async def test_slow_engine_slows_the_server() -> None:
    """No more is taken than the bound: the rest waits where it comes from."""
    sent = 0

    async def talk(connection: Any) -> None:
        nonlocal sent
        while True:
            await connection.send(json.dumps("x" * 20_000))
            sent += 1
            await asyncio.sleep(0)

    async with serving(talk) as port, taking(port, in_flight_max=10) as engine:
        await until(engine, 1)
        real = engine.emit_many

        async def slow(events: Any) -> list[int]:
            await anyio.sleep(0.02)
            return await real(events)

        engine.emit_many = slow  # type: ignore[method-assign]
        most = 0
        for _ in range(20):
            await anyio.sleep(0.01)
            most = max(most, feeder(engine).status.in_flight)
        assert most <= 10
        # What is under way is in buffers of the network and of two libraries.
        assert sent - engine.state().events < 1000


async def test_large_messages_are_bounded_by_their_bytes() -> None:
    """A thousand of them would be a gigabyte."""
    held = _Held(1000)
    for _ in range(HELD_BYTES_MAX // 2**20):
        with anyio.fail_after(1):
            await held.room()
        held.add(b"x" * 2**20)
    with anyio.move_on_after(0.05) as waited:
        await held.room()
    assert waited.cancelled_caught
    held.done(await held.take())
    with anyio.fail_after(1):
        await held.room()


async def test_what_had_come_is_stored_although_the_connection_broke() -> None:
    """It was received: an engine that is slow is no reason to lose it."""

    async def talk(connection: Any) -> None:
        for number in range(10):
            await connection.send(str(number))
        connection.transport.close()  # without a farewell

    async with serving(talk) as port, taking(port) as engine:
        real = engine.emit_many

        async def slow(events: Any) -> list[int]:
            await anyio.sleep(0.05)
            return await real(events)

        engine.emit_many = slow  # type: ignore[method-assign]
        assert (await until(engine, 10))[:10] == list(range(10))


async def test_redirects_are_not_followed() -> None:
    """The other server would get our headers, and those are secrets."""
    heard: list[Any] = []

    async def elsewhere(connection: Any) -> None:
        heard.append(connection.request.headers.get("x-key"))

    async def never(connection: Any) -> None:
        pytest.fail("it was let in")

    async with serving(elsewhere) as other:

        def away(connection: Any, _: Any) -> Any:
            answer = connection.respond(307, "")
            answer.headers["location"] = f"ws://127.0.0.1:{other}/"
            return answer

        async with websockets.serve(never, "127.0.0.1", 0, process_request=away) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ConnectorError, match="found status 307; is the address right"):
                async with taking(port, headers={"x-key": "planted"}):
                    await anyio.sleep(1)
    assert heard == []


async def test_cancellation_that_is_nobodys_is_a_lost_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library cancels tasks of its own when a connection ends, and may await one of them."""
    opened = WebSocket._opened
    calls = 0

    async def awaits_what_is_cancelled(self: WebSocket) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return await opened(self)

    async def talk(connection: Any) -> None:
        await connection.send("1")
        await connection.wait_closed()

    monkeypatch.setattr(WebSocket, "_opened", awaits_what_is_cancelled)
    async with serving(talk) as port, taking(port) as engine:
        assert await until(engine, 1) == [1]


async def test_long_message_is_not_taken() -> None:
    """The connection is given up with it; the next one works."""
    talks = 0

    async def talk(connection: Any) -> None:
        nonlocal talks
        talks += 1
        await connection.send("1" * (5000 if talks == 1 else 1))
        await connection.wait_closed()

    async with serving(talk) as port, taking(port, message_bytes_max=1000) as engine:
        assert await until(engine, 1) == [1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"HTTP/1.1 403 X\r\ncontent-length: 0\r\n\r\n", "status 403"),
     (b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n", "status 200"),
     (b"220 mail\r\n\r\n", "another protocol")],
)  # fmt: skip
async def test_what_is_no_such_server_ends_the_engine(answer: bytes, said: str) -> None:
    """At the first connection, with one line that has no secrets in it."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ConnectorError, match=said) as caught:
            async with taking(server.sockets[0].getsockname()[1], headers={"x": "planted"}):
                await anyio.sleep_forever()
    assert "planted" not in str(caught.value)
    assert "secret-path" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"url": "http://a"}, "ws://"), ({"subject": "a.*"}, "wildcard"), ({"ping_s": 0}, "ping_s"),
     ({"payload": "xml"}, "payload"), ({"subscribe": [1]}, "subscribe")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], said: str) -> None:
    """At once."""
    made: dict[str, Any] = {"url": "ws://a"} | options
    with pytest.raises((ValueError, TypeError, ConnectorError), match=said):
        WebSocket(**made)


async def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "websockets.exceptions", None)
    with pytest.raises(ExtraMissing, match=r"headrace\[websocket\]"):
        async with taking(1):
            await anyio.sleep_forever()


def test_other_loops_are_told_what_to_do() -> None:
    """The library is made for asyncio."""

    async def main() -> None:
        async with taking(1):
            await anyio.sleep_forever()

    with pytest.raises(ConnectorError, match="asyncio"):
        anyio.run(main, backend="trio")
