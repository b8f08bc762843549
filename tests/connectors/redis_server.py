"""A real redis-server on a loopback port, which keeps what it has acknowledged, also if killed."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from random import shuffle
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.needs import program

START_S: Final = 20.0


def free_port() -> int:
    """Return a loopback port that was free a moment ago.

    Not one that the system gives to those who connect: while a server is down, who tries to
    reach it again and again might be given its port.
    """
    ports = list(range(20_000, 30_000))
    shuffle(ports)
    for port in ports:
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


class RedisServer:
    """A server with its own folder, port and password."""

    password = "sesame"

    def __init__(self, folder: Path, *extra: str, tls: bool = False) -> None:
        self._program = program("redis-server", package="redis-server", need="redis")
        self._folder = folder
        self._extra = extra
        self._tls = tls
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        # Tries nothing again: what it adds twice would be there twice.
        return redis.Redis(
            port=self.port, password=self.password, protocol=2, retry=Retry(NoBackoff(), 0)
        )

    def start(self) -> None:
        ports = (
            ["--port", "0", "--tls-port", str(self.port)]
            if self._tls
            else ["--port", str(self.port)]
        )
        self._process = subprocess.Popen(
            [
                self._program, "--bind", "127.0.0.1", *ports, "--dir", self._folder,
                "--requirepass", self.password, "--save", "", "--appendonly", "yes",
                "--appendfsync", "always", *self._extra,
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        if self._tls:
            self._until_it_listens()
            return
        deadline = time.monotonic() + START_S
        while True:
            try:
                with self.client as client:
                    client.ping()
            except redis.ConnectionError:
                assert self._process.poll() is None, "redis-server has ended"
                assert time.monotonic() < deadline, "redis-server does not answer"
                time.sleep(0.01)
            else:
                return

    def _until_it_listens(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < deadline, "redis-server does not listen"
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
