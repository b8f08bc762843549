"""What every source keeps, for `Sse` and `WebSocket`: servers that are killed and started again."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest

from headrace.connectors.protocol import Source
from headrace.connectors.sse import Sse
from headrace.connectors.websocket import WebSocket
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = [
    pytest.mark.slow,
    # On trio: httpx2 does not close its own iterations inside each other when one is cancelled.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning"
    ),
]


class EventServer:
    """Sends to each connection what is behind its last id, and keeps that when it is killed."""

    def __init__(self) -> None:
        self.events: list[tuple[int, bytes]] = []
        self.port = 0
        self._more = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._sockets: list[socket.socket] = []

    def start(self) -> None:
        events = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                events._serve(self, self.server)

            def log_message(self, format: str, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def kill(self) -> None:
        """End it with its connections, as ``kill -9`` does."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        self._thread.join()
        server.server_close()
        with self._more:
            for one in self._sockets:
                one.close()
            self._sockets.clear()
            self._more.notify_all()

    def add(self, *events: tuple[int, bytes]) -> None:
        with self._more:
            self.events += events
            self._more.notify_all()

    def _serve(self, request: BaseHTTPRequestHandler, server: Any) -> None:
        is_there = request.path == "/events"
        request.send_response(200 if is_there else 404)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        if not is_there:
            return
        with self._more:
            self._sockets.append(request.connection)
            last = request.headers["Last-Event-ID"]
            ids = [b"%d" % id for id, _ in self.events]
            sent = len(ids) - ids[::-1].index(last.encode()) if last else 0
        while True:
            with self._more:
                if sent == len(self.events) and server is self._server:
                    self._more.wait(0.05)
                # A client that has gone can be read from: that is how it is noticed.
                if server is not self._server or select.select([request.connection], [], [], 0)[0]:
                    return
                new, sent = self.events[sent:], len(self.events)
            try:
                request.wfile.write(b"".join(b"id: %d\ndata: %s\n\n" % event for event in new))
            except (OSError, ValueError):
                return


class SseHarness(SourceHarness):
    """The ids are numbers, so what was missed comes after a restart."""

    in_flight_max = 2500  # the shortest events in 64 KiB, which is what is read at once

    def __init__(self, server: EventServer) -> None:
        self.server = server

    def source(self) -> Source:
        return Sse(f"http://127.0.0.1:{self.server.port}/events", silence_s=5)

    async def publish(self, numbers: Sequence[int]) -> None:
        self.server.add(*[(number + 1, b'{"number": %d}' % number) for number in numbers])

    async def republish(self, number: int) -> bool:
        await self.publish([number])
        return True

    async def disorder(self, numbers: Sequence[int]) -> bool:
        await self.publish(numbers[::-1])
        return True

    async def poison(self) -> bool:
        self.server.add((10_000, b'{"number": '))
        return True

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        self.server.start()

    def unusable(self) -> list[Source]:
        return [Sse(f"http://127.0.0.1:{self.server.port}/nowhere")]


class TestSse(SourceContract):
    @pytest.fixture
    def harness(self) -> Iterator[SourceHarness]:
        server = EventServer()
        server.start()
        yield SseHarness(server)
        server.kill()


class WebSocketHarness(SourceHarness):
    """What is sent while nobody listens goes nowhere, and nothing has an identity."""

    in_flight_max = 50
    keeps = False

    def __init__(self) -> None:
        self.port = 0
        self._server: Any = None

    def source(self) -> Source:
        return WebSocket(f"ws://127.0.0.1:{self.port}/feed", ping_s=5, in_flight_max=50)

    async def publish(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self._send(b'{"number": %d}' % number)

    async def poison(self) -> bool:
        await self._send(b'{"number": ')
        return True

    async def _send(self, message: bytes) -> None:
        import websockets

        for connection in list(self._server.connections):
            try:
                await connection.send(message)
            except websockets.exceptions.ConnectionClosed:
                continue

    async def kill(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            for connection in list(server.connections):
                connection.transport.abort()
            server.close(close_connections=False)
            await server.wait_closed()

    async def start(self) -> None:
        import websockets.asyncio.server

        def only_feed(connection: Any, request: Any) -> Any:
            return None if request.path == "/feed" else connection.respond(404, "no feed\n")

        self._server = await websockets.asyncio.server.serve(
            lambda connection: connection.wait_closed(),
            "127.0.0.1", self.port, process_request=only_feed, compression=None,
        )  # fmt: skip
        self.port = self._server.sockets[0].getsockname()[1]

    def unusable(self) -> list[Source]:
        return [WebSocket(f"ws://127.0.0.1:{self.port}/nowhere")]


class TestWebSocket(SourceContract):
    @pytest.fixture
    def anyio_backend(self) -> str:
        """The library is made for asyncio."""
        return "asyncio"

    @pytest.fixture
    async def harness(self) -> AsyncGenerator[SourceHarness, None]:
        pytest.importorskip("websockets")
        harness = WebSocketHarness()
        await harness.start()
        yield harness
        with anyio.move_on_after(5):
            await harness.kill()
