"""The server of the example in docs/connectors/write-your-own.md, which can be killed."""

from __future__ import annotations

import contextlib
import socket
import threading


class LineQueue:
    """Hands out each message to all who connect, until somebody takes it off."""

    def __init__(self) -> None:
        self._messages: dict[str, bytes] = {}
        self._published = 0
        self._changed = threading.Condition()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._listener.close()

    def __len__(self) -> int:
        return len(self._messages)

    def start(self) -> None:
        self._alive = True
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._go(self._accept, self._listener)

    def kill(self) -> None:
        """End all connections at once."""
        with self._changed:
            self._alive = False
            self._changed.notify_all()
            for one in (self._listener, *self._connections):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._connections):
            one.close()
        self._connections.clear()
        self._threads.clear()

    def publish(self, id: str, raw: bytes) -> None:
        with self._changed:
            self._published += 1
            self._messages[f"{id} {self._published}"] = raw
            self._changed.notify_all()

    def _go(self, what: object, *arguments: object) -> None:
        thread = threading.Thread(target=what, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                if not self._alive:
                    connection.close()
                    return
                self._connections.append(connection)
                self._go(self._send, connection)
                self._go(self._receive, connection)

    def _send(self, connection: socket.socket) -> None:
        sent: set[str] = set()
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_gone(connection) or self._messages.keys() - sent
                )
                if self._is_gone(connection):
                    return
                new = [(key, raw) for key, raw in self._messages.items() if key not in sent]
            sent.update(key for key, _ in new)
            lines = [key.split(" ")[0].encode() + b" " + raw + b"\n" for key, raw in new]
            try:
                connection.sendall(b"".join(lines))
            except OSError:
                return

    def _is_gone(self, connection: socket.socket) -> bool:
        return not self._alive or connection not in self._connections

    def _receive(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                self._take_off(line.decode().rstrip("\n"))
        with self._changed:
            if self._alive:
                self._connections.remove(connection)
                self._changed.notify_all()
                connection.close()

    def _take_off(self, id: str) -> None:
        with self._changed:
            first = next((key for key in self._messages if key.split(" ")[0] == id), None)
            self._messages.pop(first or "", None)
