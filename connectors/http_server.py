"""A server for `Webhook`: uvicorn, with the limits that it has not got by itself.

uvicorn waits for the headers of a request as long as they take, takes any number of connections,
and answers headers that are too large with 400.  Signals are left alone: those are the host's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import anyio
from anyio import CancelScope
from msgspec import Struct

from headrace.connectors.checks import needs_asyncio
from headrace.connectors.protocol import ConnectorError, ExtraMissing

LEAVE_S: Final = 2
"""Seconds that those get who are answered while the engine ends."""
KEEP_ALIVE_S: Final = 5
CHUNK_TIMES_MAX: Final = 8
"""How many times as long as its body a request may be on the wire."""
BACKLOG: Final = 1024
_PHRASES: Final = {
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Serving(Struct, frozen=True):
    """What is served, and within which limits."""

    name: str
    asgi: Callable[..., Any]
    header_bytes_max: int
    header_deadline_s: float
    connections_max: int


async def serve(
    serving: Serving,
    listen: tuple[str, int],
    opened: Callable[[str, int], None],
    close: Callable[[], None],
) -> None:
    """Let an application answer at *listen* until cancelled.

    Calls *opened*, with host and port, once it listens, and *close* before those who wait for an
    answer are let go of.

    Raises:
        ConnectorError: the address is taken, uvicorn is not there, or the loop is not asyncio's.
    """
    name = serving.name
    needs_asyncio(
        f"{name}, listen", "uvicorn", instead="mount `asgi` in a server that works on this one"
    )
    listener = _bound(name, listen)
    try:
        host, port = listener.getsockname()[:2]
        stopped = asyncio.Event()
        server = _server(serving, stopped, lambda: opened(host, port))

        async def at_work() -> None:
            # It is told to stop in words: cancelled, it would leave its sockets open.
            with CancelScope(shield=True):
                await server.serve([listener])

        async with anyio.create_task_group() as group:
            group.start_soon(at_work, name=f"{name} server")
            try:
                await anyio.sleep_forever()
            finally:
                close()
                stopped.set()
    finally:
        listener.close()


def _bound(name: str, listen: tuple[str, int]) -> socket.socket:
    host, port = listen
    try:
        return socket.create_server(
            listen,
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
        )
    except OSError as error:
        raise ConnectorError(
            f"{name}, listen: expected to listen at {host}:{port}, found "
            f"{error.strerror or error}; choose another address, or end what listens there"
        ) from None


def _server(serving: Serving, stopped: asyncio.Event, opened: Callable[[], None]) -> Any:
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise ExtraMissing(f"{serving.name}, listen", "http", error.name) from None

    class Server(uvicorn.Server):
        """Stops when it is told to, and leaves signals alone."""

        @contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

        async def main_loop(self) -> None:
            opened()
            await stopped.wait()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            for connection in list(self.server_state.connections):
                connection.transport.abort()  # it had its time

    return Server(
        uvicorn.Config(
            serving.asgi,
            http=_protocol(serving),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            h11_max_incomplete_event_size=serving.header_bytes_max,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=LEAVE_S,
        )
    )


def _protocol(serving: Serving) -> type[asyncio.Protocol]:
    """Return what reads requests: by httptools if it is there, which takes a third of the time."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ModuleNotFoundError:
        return _on_h11(serving)

    class Protocol(_Guard, HttpToolsProtocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.guard(serving, self.loop)
            self.logger = _quiet()
            self.is_in_headers = False
            self.head_bytes = 0
            self.is_in_body = False
            self.spare_bytes = 0

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            before = self.head_bytes if self.is_in_headers else 0
            if self.is_in_body:
                self.spare_bytes += len(data)
            super().data_received(data)
            if self.is_in_body and self.spare_bytes > serving.header_bytes_max:
                self.refuse(431)
            if self.is_in_headers:
                self.head_bytes = before + len(data)
                if self.head_bytes > serving.header_bytes_max:
                    self.refuse(431)
                elif self.late is None:
                    self.expect_headers()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.is_in_headers = True

        def on_headers_complete(self) -> None:
            self.is_in_headers = False
            self.is_in_body, self.spare_bytes = True, 0
            self.forget()
            super().on_headers_complete()

        # What is in a body and is none of it, such as headers behind the last chunk, the parser
        # keeps or drops without a bound.  A chunk has a line of its own: of one byte, five more.

        def on_body(self, body: bytes) -> None:
            self.spare_bytes -= CHUNK_TIMES_MAX * len(body)
            super().on_body(body)

        def on_message_complete(self) -> None:
            self.is_in_body = False
            super().on_message_complete()

    return Protocol


def _on_h11(serving: Serving) -> type[asyncio.Protocol]:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(_Guard, H11Protocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.guard(serving, self.loop)
            self.logger = _quiet()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self.forget()
            elif self.late is None and self.conn.trailing_data[0]:
                self.expect_headers()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # What came meanwhile of the next request is not announced again.
            if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
                self.expect_headers()

        def send_400_response(self, msg: str) -> None:
            # Called where the error is looked at, which is what tells the two apart.
            if getattr(sys.exc_info()[1], "error_status_hint", 400) == 431:
                self.refuse(431)
            else:
                super().send_400_response(msg)

    return Protocol


class _Guard(asyncio.Protocol):
    """One connection: it is one of not too many, and headers come in time, or it is closed."""

    transport: asyncio.Transport
    connections: set[Any]

    def guard(self, serving: Serving, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; nothing is connected yet."""
        self._serving = serving
        self._loop = loop
        self.late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        whole: Any = _Whole(transport, self._loop)
        super().connection_made(whole)
        if len(self.connections) > self._serving.connections_max:
            self.refuse(503)
        else:
            self.expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget()
        super().connection_lost(exc)

    def expect_headers(self) -> None:
        """Close the connection if they do not come in time."""
        self.forget()
        self.late = self._loop.call_later(self._serving.header_deadline_s, self.refuse, 408)

    def forget(self) -> None:
        """They have come."""
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def refuse(self, status: int) -> None:
        """Answer, and close."""
        self.forget()
        _refuse(self.transport, status)


class _Whole:
    """A transport that sends head and body of an answer at once, which uvicorn writes by turns.

    So each costs one call of the system, and one packet.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send *data* in this turn of the loop."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def _flush(self) -> None:
        if self._parts:
            data, self._parts = b"".join(self._parts), []
            self._transport.write(data)

    def close(self) -> None:
        """Close it behind what was written."""
        self._flush()
        self._transport.close()


def _refuse(transport: asyncio.Transport, status: int) -> None:
    """Answer past the parser, which may be in any state, and close."""
    if not transport.is_closing():
        head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\n"
        transport.write(f"{head}content-length: 0\r\nconnection: close\r\n\r\n".encode())
        transport.close()


def _quiet() -> logging.Logger:
    # Not a line for each request that is none: whoever sends them would fill the disk.
    found = logging.getLogger("headrace.uvicorn")
    found.setLevel(logging.ERROR)
    return found
