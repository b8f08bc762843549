"""What every sink keeps, for `HttpSink`: a server that knows keys, killed and started again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headrace.connectors.http_out import HttpMessage, HttpSink
from headrace.testing.sink_contract import SinkContract, SinkHarness


class HttpHarness(SinkHarness):
    """A server that does the work of a key once."""

    dedupes = True

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.seen: list[str] = []
        self.port = 0
        self.server: ThreadingHTTPServer | None = None
        self.begin()

    def begin(self) -> None:
        harness = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                number = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["number"]
                key = self.headers["Idempotency-Key"]
                if number >= 0 and key not in harness.seen:
                    harness.numbers.append(number)
                harness.seen.append(key)
                self.send_response(200 if number >= 0 else 422)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def end(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()
            self.server = None

    async def kill(self) -> None:
        self.end()

    async def start(self) -> None:
        self.begin()

    def sink(self) -> HttpSink:
        return HttpSink(f"http://127.0.0.1:{self.port}/", timeout_s=5)

    def message(self, number: int) -> HttpMessage:
        return HttpMessage({"number": number})

    def refused(self) -> Any:
        return HttpMessage({"number": -1})

    async def taken(self) -> list[int]:
        return list(self.numbers)

    async def keys(self) -> list[str]:
        return list(self.seen)


class TestHttpSink(SinkContract):
    @pytest.fixture
    def harness(self) -> Iterator[SinkHarness]:
        made = HttpHarness()
        yield made
        made.end()
