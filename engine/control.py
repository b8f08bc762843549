# ruff: noqa: PTH101, PTH104, PTH108, PTH116
# The calls of the system are what this is about, and the log's folder is a string.
"""`ControlSocket`: commands for a running engine, over a socket in the log's directory.

For the command line, and for whoever may read and write the log anyway: only the owner of
the socket can connect.  Whatever a client sends, or does not send, does not harm the
engine: messages, clients and waiting are bounded, and closing waits for nobody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import msgspec
from msgspec import Raw

from headrace.engine.control_wire import (
    DECODE_ERRORS,
    LENGTH_BYTES,
    MESSAGE_BYTES_MAX,
    NAME,
    TEMPORARY,
    VERSION,
    Answer,
    Fault,
    Request,
    addressable,
    packed,
)
from headrace.engine.diagnostics import logger
from headrace.engine.errors import HeadraceError

CLIENTS_MAX: Final = 16
IDLE_S: Final = 60.0
"""How long a client may say nothing."""
MESSAGE_S: Final = 10.0
"""How long a request may take to come, from its first byte, and an answer to be taken."""
PAUSE_S: Final = 1.0
"""How long nobody is let in after the system could not do it."""
CHUNK_BYTES: Final = 64 * 1024
BACKLOG: Final = 16

Command = Callable[[Any], Awaitable[Any]]


class _Refused(Exception):
    """What came is no request; its reason is told and the connection ends."""


class ControlSocket:
    """The commands that an engine takes, and the socket over which it takes them."""

    def __init__(self, folder: str | None) -> None:
        """Serve in *folder*, the log's directory; ``None``: nowhere."""
        self._folder = folder
        self._commands: dict[str, tuple[Command, msgspec.msgpack.Decoder[Any]]] = {}
        self._clients = 0

    def register(self, name: str, command: Command, arguments: Any = dict[str, Any]) -> None:
        """Let clients ask for *name*: *command* gets the arguments and returns plain data.

        *arguments* is the type that they are decoded as.  Whatever the command raises is
        told to the client, by the name of its class and its message.
        """
        self._commands[name] = (command, msgspec.msgpack.Decoder(arguments))

    async def serve(self) -> None:
        """Answer clients, until cancelled.  Returns at once if there can be no socket."""
        if self._folder is None:
            return
        try:
            listener, inode = _listen(self._folder)
        except OSError as error:
            if error.errno != errno.ENOENT:  # else the log's directory is gone
                logger().warning("control_socket_missing", log=self._folder, reason=str(error))
            return
        try:
            async with anyio.create_task_group() as clients:
                while True:
                    await anyio.wait_readable(listener)
                    try:
                        connection, _ = listener.accept()
                    except (BlockingIOError, ConnectionError):
                        continue
                    except OSError:
                        await anyio.sleep(PAUSE_S)  # too many open files, or no memory
                        continue
                    connection.settimeout(0)
                    clients.start_soon(self._attend, connection)
        finally:
            listener.close()
            _remove(self._folder, inode)

    async def _attend(self, connection: socket.socket) -> None:
        """Talk to one client until it goes, or is not worth waiting for."""
        self._clients += 1
        try:
            with contextlib.suppress(OSError, TimeoutError):
                await self._talk(connection)
        finally:
            self._clients -= 1
            connection.close()

    async def _talk(self, connection: socket.socket) -> None:
        if self._clients > CLIENTS_MAX:
            said = f"expected at most {CLIENTS_MAX} clients at once; try again"
            await _send(connection, _failed("Busy", said))
            return
        while True:
            try:
                body = await _receive(connection)
            except _Refused as refused:
                await _send(connection, _failed("BadRequest", str(refused)))
                return
            if body is None:
                return
            await _send(connection, await self._answer(body))

    async def _answer(self, body: bytes) -> bytes:
        """Carry out a request; return the answer as it is sent."""
        try:
            request = _decode_request(body)
        except DECODE_ERRORS as error:
            return _failed("BadRequest", f"expected {{v, command, arguments}}: {error}")
        if request.v != VERSION:
            found = f"expected version {VERSION} of the protocol, found {request.v}"
            return _failed("BadRequest", f"{found}; use the headrace that runs the engine")
        found_command = self._commands.get(request.command)
        if found_command is None:
            known = ", ".join(sorted(self._commands))
            return _failed(
                "UnknownCommand", f"expected one of {known}, found {request.command[:40]!r}"
            )
        command, decoder = found_command
        try:
            arguments = decoder.decode(request.arguments)
        except DECODE_ERRORS as error:
            return _failed("BadRequest", f"{request.command}: its arguments: {error}")
        try:
            result = await command(arguments)
            return packed(Answer(VERSION, Raw(msgspec.msgpack.encode(result))))
        except (HeadraceError, OSError, ValueError, TypeError) as error:
            return _failed(type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001  a bug of a command must not stop the engine
            logger().error("control_command_failed", command=request.command, exc_info=True)
            return _failed(type(error).__name__, f"internal error: {error}")


_decode_request = msgspec.msgpack.Decoder(Request).decode


def _failed(kind: str, message: str) -> bytes:
    text = message[:2000].encode(errors="backslashreplace").decode()
    return packed(Answer(VERSION, error=Fault(kind, text)))


def _listen(folder: str) -> tuple[socket.socket, tuple[int, int]]:
    """Return a socket that listens in *folder*, and its inode.

    What a dead process left is replaced: whoever calls this holds the log's lock.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with addressable(folder) as short:
            path = f"{short}/{TEMPORARY}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            # Nobody can connect before `listen`, so there is no moment at which others may.
            os.chmod(path, 0o600)
            listener.listen(BACKLOG)
            listener.settimeout(0)
            status = os.stat(path)
            os.rename(path, f"{short}/{NAME}")
    except BaseException:
        listener.close()
        raise
    return listener, (status.st_dev, status.st_ino)


def _remove(folder: str, inode: tuple[int, int]) -> None:
    """Remove our socket; leave alone what somebody else may have put in its place."""
    path = f"{folder}/{NAME}"
    with contextlib.suppress(OSError):
        status = os.stat(path)
        if (status.st_dev, status.st_ino) == inode:
            os.unlink(path)


async def _receive(connection: socket.socket) -> bytes | None:
    """Return the body of the next message; ``None``: the client has gone, or says nothing."""
    with anyio.move_on_after(IDLE_S) as idle:
        await anyio.wait_readable(connection)
    if idle.cancelled_caught:
        return None
    with anyio.fail_after(MESSAGE_S):
        head = await _read(connection, LENGTH_BYTES)
        if head is None:
            return None
        length = int.from_bytes(head, "big")
        if length > MESSAGE_BYTES_MAX:
            raise _Refused(
                f"expected a message of at most {MESSAGE_BYTES_MAX} bytes, found {length}"
            )
        return await _read(connection, length)


async def _read(connection: socket.socket, length: int) -> bytes | None:
    """Return *length* bytes, or ``None`` if the client goes before.  Memory grows as they come."""
    body = bytearray()
    while len(body) < length:
        try:
            part = connection.recv(min(CHUNK_BYTES, length - len(body)))
        except BlockingIOError:
            await anyio.wait_readable(connection)
            continue
        if not part:
            return None
        body += part
    return bytes(body)


async def _send(connection: socket.socket, message: bytes) -> None:
    left = memoryview(message)
    with anyio.fail_after(MESSAGE_S):
        while left:
            try:
                left = left[connection.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(connection)
