"""`KafkaFront`: what a broker has and the mock of a cluster lacks: TLS, users, and an end.

It stands before the mock, which keeps what it has: so a broker can be killed and started again at
the same address, with all of its records.  What the mock says of its own address is rewritten.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from typing import Final, Self

HANDSHAKE, VERSIONS, AUTHENTICATE = 17, 18, 36
BAD_MECHANISM, BAD_USER = 33, 58
HASHES: Final = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
SALT: Final = b"salt"
ROUNDS: Final = 4096


class KafkaFront:
    """A broker before that at *servers*; *users* are names and passwords for SASL."""

    def __init__(
        self,
        servers: str,
        *,
        tls: ssl.SSLContext | None = None,
        users: Mapping[str, str] | None = None,
        mechanisms: tuple[str, ...] = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
    ) -> None:
        host, _, port = servers.rpartition(":")
        assert host == "127.0.0.1", "the address that is rewritten"
        self.behind = int(port)
        self.users = users
        self.mechanisms = mechanisms
        self.port = 0
        self._tls = tls
        self._thread: threading.Thread | None = None

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Listen, at the same port as before."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(listener,))
        self._thread.start()

    def kill(self) -> None:
        """Reset all connections, and be there no more."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            thread.join()

    def _run(self, listener: socket.socket) -> None:
        self._loop.run_until_complete(self._serve(listener))
        self._loop.close()

    async def _serve(self, listener: socket.socket) -> None:
        tasks = set[asyncio.Task[None]]()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.ensure_future(self._connection(reader, writer)))

        server = await asyncio.start_server(accept, sock=listener, ssl=self._tls)
        await self._end.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self.behind)
        client = writer.get_extra_info("socket")
        # A reset, as of a process that is killed.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        answers = asyncio.ensure_future(self._answers(back, writer))
        try:
            await self._requests(reader, writer, forth)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of them has gone, so the other one goes
        finally:
            answers.cancel()
            writer.transport.abort()
            forth.transport.abort()

    async def _answers(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what the mock says, with the address of the front for its own."""
        ours, its = (b"127.0.0.1" + struct.pack(">i", port) for port in (self.port, self.behind))
        while True:
            frame = (await _frame(back)).replace(its, ours)
            if self.users is not None and frame[4:6] == b"\0\0" and _is_versions(frame):
                frame = _with_sasl(frame)
            _send(writer, frame)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        forth: asyncio.StreamWriter,
    ) -> None:
        login: Login | None = None
        is_in = self.users is None
        while True:
            frame = await _frame(reader)
            kind, _, correlation, client = struct.unpack(">hhih", frame[:10])
            body = frame[10 + max(client, 0) :]
            if kind == HANDSHAKE:
                login = Login(body[2:].decode(), self.users or {})
                known = [name.encode() for name in self.mechanisms]
                answer = struct.pack(
                    ">hi", 0 if login.mechanism in self.mechanisms else BAD_MECHANISM, len(known)
                )
                answer += b"".join(struct.pack(">h", len(name)) + name for name in known)
            elif kind == AUTHENTICATE and login is not None:
                said = login.step(body[4:])
                is_in = is_in or login.is_in
                why = b"Authentication failed" if said is None else b""
                answer = struct.pack(">hh", BAD_USER if said is None else 0, len(why)) + why
                answer += struct.pack(">i", len(said or b"")) + (said or b"")
                answer += bytes(8)  # how long it lasts, of version 1
            elif is_in or kind == VERSIONS:
                _send(forth, frame)
                continue
            else:
                return  # as a broker does with who has not said who it is
            _send(writer, struct.pack(">i", correlation) + answer)


class Login:
    """One login by SASL: PLAIN, or SCRAM as RFC 5802 has it."""

    def __init__(self, mechanism: str, users: Mapping[str, str]) -> None:
        self.mechanism = mechanism
        self.is_in = False
        self._users = users
        self._first = ""
        self._nonce = ""

    def step(self, said: bytes) -> bytes | None:
        """Return the answer; ``None``: not let in."""
        if self.mechanism == "PLAIN":
            _, user, password = said.decode().split("\0")
            self.is_in = self._users.get(user) == password
            return b"" if self.is_in else None
        if not self._first:
            bare = said.decode().removeprefix("n,,")
            user, nonce = (part[2:] for part in bare.split(","))
            self._password = self._users.get(user, "")
            self._nonce = nonce + "front"
            salt = base64.b64encode(SALT).decode()
            server = f"r={self._nonce},s={salt},i={ROUNDS}"
            self._first = f"{bare},{server}"
            return server.encode()
        return self._proven(said.decode())

    def _proven(self, said: str) -> bytes | None:
        bare, _, proof = said.rpartition(",p=")
        name = HASHES[self.mechanism]
        salted = hashlib.pbkdf2_hmac(name, self._password.encode(), SALT, ROUNDS)
        key = hmac.digest(salted, b"Client Key", name)
        everything = f"{self._first},{bare}".encode()
        signature = hmac.digest(hashlib.new(name, key).digest(), everything, name)
        expected = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        self.is_in = f"r={self._nonce}" in bare and base64.b64decode(proof) == expected
        own = hmac.digest(hmac.digest(salted, b"Server Key", name), everything, name)
        return b"v=" + base64.b64encode(own) if self.is_in else None


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)


def _is_versions(frame: bytes) -> bool:
    """Say whether it is an answer to the question for versions: a list of six bytes each."""
    (count,) = struct.unpack(">i", frame[6:10]) if len(frame) >= 10 else (0,)
    return bool(count > 5 and len(frame) == 10 + 6 * count)


def _with_sasl(frame: bytes) -> bytes:
    kept = [frame[at : at + 6] for at in range(10, len(frame), 6)]
    kept = [one for one in kept if struct.unpack(">h", one[:2])[0] not in (HANDSHAKE, AUTHENTICATE)]
    kept += [struct.pack(">hhh", kind, 0, 1) for kind in (HANDSHAKE, AUTHENTICATE)]
    return frame[:6] + struct.pack(">i", len(kept)) + b"".join(kept)
