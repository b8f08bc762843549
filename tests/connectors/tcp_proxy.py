"""`TcpProxy`: a network that is slow, breaks, or swallows what is sent, between client and server.

async with TcpProxy(server_port) as proxy:
    connect("127.0.0.1", proxy.port)
    proxy.delay_s = 0.2     # each way, from now on
    proxy.reset_all()       # both sides of each connection see it reset
    proxy.freeze()          # half-open: nobody hears anything, nor that a side has gone
    proxy.thaw()            # what was held back goes on
    proxy.refuse = True     # new connections are reset at once
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Final, Self

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

CHUNK_BYTES: Final = 64 * 1024
CHUNKS_MAX: Final = 256
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset instead of an end."""

Chunk = tuple[float, bytes]


class TcpProxy:
    """Listens on a free loopback port and passes on to *target_port*, which may be changed."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.delay_s = 0.0
        """How long each piece is under way, in each direction."""
        self.refuse = False
        self.connections = 0
        """How many were made until now."""
        self._open: set[_Connection] = set()
        self._flows = anyio.Event()
        self._flows.set()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def reset_all(self) -> None:
        """Reset all connections, on both sides; new ones can be made."""
        for connection in self._open:
            connection.reset()

    def freeze(self) -> None:
        """Pass nothing on from now on, new connections and ends of old ones included."""
        if self._flows.is_set():
            self._flows = anyio.Event()

    def thaw(self) -> None:
        """Pass on again, beginning with what was held back."""
        self._flows.set()

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.setblocking(False)
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._accept, self._group)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._group.cancel_scope.cancel()
        try:
            return await self._group.__aexit__(exc_type, exc, traceback)
        finally:
            self._listener.close()

    async def _accept(self, group: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(self._listener)
            try:
                client, _ = self._listener.accept()
            except OSError:  # it is gone already
                continue
            client.setblocking(False)
            self.connections += 1
            group.start_soon(self._serve, client)

    async def _serve(self, client: socket.socket) -> None:
        connection = _Connection(client)
        self._open.add(connection)
        try:
            if self.refuse:
                connection.reset()
            with connection.scope:
                await self._flowing()
                await connection.run(self)
        finally:
            self._open.discard(connection)
            connection.close()

    async def _flowing(self) -> None:
        while not self._flows.is_set():
            await self._flows.wait()

    async def receive_into(
        self, side: socket.socket, chunks: MemoryObjectSendStream[Chunk]
    ) -> None:
        """Read what *side* sends until its end."""
        async with chunks:
            while True:
                await anyio.wait_readable(side)
                data = side.recv(CHUNK_BYTES)
                await chunks.send((anyio.current_time() + self.delay_s, data))
                if not data:
                    return

    async def send_from(
        self, chunks: MemoryObjectReceiveStream[Chunk], side: socket.socket
    ) -> None:
        """Send to *side* what has been under way long enough; empty is the end."""
        async with chunks:
            async for due_s, data in chunks:
                await anyio.sleep_until(due_s)
                await self._flowing()
                view = memoryview(data)
                while view:
                    await anyio.wait_writable(side)
                    view = view[side.send(view) :]
                if not data:
                    side.shutdown(socket.SHUT_WR)


class _Connection:
    """A client and, once it is reached, the server."""

    def __init__(self, client: socket.socket) -> None:
        self._sides = [client]
        self.scope = anyio.CancelScope()

    async def run(self, proxy: TcpProxy) -> None:
        """Pass on until both sides have ended, or one has broken: then the other is reset."""
        client = self._sides[0]
        try:
            server = socket.create_connection(("127.0.0.1", proxy.target_port), timeout=5)
        except OSError:  # nobody listens
            self.reset()
            return
        self._sides.append(server)
        server.setblocking(False)
        try:
            async with anyio.create_task_group() as group:
                for one, other in ((client, server), (server, client)):
                    send, receive = anyio.create_memory_object_stream[Chunk](CHUNKS_MAX)
                    group.start_soon(proxy.receive_into, one, send)
                    group.start_soon(proxy.send_from, receive, other)
        except* OSError:
            self.reset()

    def reset(self) -> None:
        for side in self._sides:
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.scope.cancel()

    def close(self) -> None:
        for side in self._sides:
            side.close()
