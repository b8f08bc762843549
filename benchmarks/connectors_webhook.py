"""Webhooks into a fsynced log, with a check of each signature, beside a bare Starlette app.

Both are served by uvicorn on asyncio in a process of their own, which is kept on one core where
the machine has several; requests come over 64 connections, one after the other on each, from this
process on another core.  Each request has a body of about 1 KB of JSON, as those of payment
services, or of about 8 KB, as those of GitHub; the bare app decodes it and answers.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import msgspec
from common import on_asyncio, scratch, unused
from figures import Figure, Row, Ways, at_least, measured, script

SECRET: Final = "a secret of the benchmark"
REQUESTS: Final = 10_000
CONNECTIONS: Final = 64
LEAST_PER_S: Final = 2000
SMALL: Final = msgspec.json.encode(
    {"id": "evt_1", "type": "invoice.paid", "data": {"object": {
        f"field_{n}": f"value {n}" for n in range(36)
    }}}
)  # fmt: skip
LARGE: Final = msgspec.json.encode(
    {"action": "opened", "issue": {"number": 7, "body": "x" * 200, "labels": [
        {"id": n, "name": f"label {n}", "color": "ededed", "default": False} for n in range(100)
    ]}}
)  # fmt: skip

BARE: Final = "bare Starlette app"
SIGNED: Final = "webhook, signed, fsynced log"
PLAIN: Final = "webhook, not signed, fsynced log"


class Sender(asyncio.Protocol):
    """One connection: the next request once the one before is answered.

    It costs little, so that the server is what is measured.
    """

    def __init__(self, numbers: Iterator[int], body: bytes) -> None:
        """Send *body* under each of *numbers* as its id."""
        digest = hmac.digest(SECRET.encode(), body, "sha256").hex()
        self._head = (
            f"POST /github HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-github-event: issues\r\n"
            f"x-hub-signature-256: sha256={digest}\r\n"
        )
        self._body = body
        self._numbers = numbers
        self._answer = b""
        self._transport: Any = None
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._next()

    def _next(self) -> None:
        number = next(self._numbers, None)
        if number is None:
            self._transport.close()
            self.done.set_result(None)
            return
        ids = f"x-github-delivery: {number}\r\nidempotency-key: {number}\r\n\r\n"
        self._transport.write((self._head + ids).encode() + self._body)

    def data_received(self, data: bytes) -> None:
        """Take an answer, and go on."""
        self._answer += data
        head, end, told = self._answer.partition(b"\r\n\r\n")
        if end and told.endswith(b"}"):
            assert head.startswith(b"HTTP/1.1 202 "), head
            self._answer = b""
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so if that was too early."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed"))


async def load(port: int, count: int, body: bytes = SMALL) -> float:
    """Send *count* requests; return how many a second were answered with 202."""
    loop, numbers = asyncio.get_running_loop(), iter(range(count))
    begun = time.perf_counter()
    made = await asyncio.gather(
        *(
            loop.create_connection(lambda: Sender(numbers, body), "127.0.0.1", port)
            for _ in range(CONNECTIONS)
        )
    )
    await asyncio.gather(*(sender.done for _, sender in made))
    return count / (time.perf_counter() - begun)


def rate(kind: str, body: bytes, count: int) -> float:
    """Return the requests per second that a server of *kind* answers."""
    with scratch() as folder:
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind, str(unused(folder, "log"))],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
        )
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[1:] or cores)
            try:
                on_asyncio(load(port, count // 10, body))
                return on_asyncio(load(port, count, body))
            finally:
                os.sched_setaffinity(0, cores)
        finally:
            server.kill()
            server.wait()
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.close()
            server.stdout.close()


def serve(kind: str, log: str) -> None:
    """Serve until killed, on one core; say the port."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    on_asyncio(_bare() if kind == BARE else _webhook(kind == SIGNED, log))


async def _webhook(signed: bool, log: str) -> None:  # noqa: FBT001
    from headrace import App, FileLog
    from headrace.connectors.http_in import Webhook

    route: Any = "github.issues"
    if signed:
        route = {"subject": "github.{event}", "scheme": "github", "secrets": [SECRET]}
    hook = Webhook({"/github": route}, listen="127.0.0.1:0", rate=None)
    app = App("bench")
    app.source(hook)
    async with app.open(FileLog(log)):
        while hook.address is None:  # noqa: ASYNC110 (once, before anything is measured)
            await asyncio.sleep(0.001)
        print(hook.address[1], flush=True)
        await asyncio.Event().wait()


async def _bare() -> None:
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def take(request: Request) -> JSONResponse:
        data = msgspec.json.decode(await request.body())
        return JSONResponse({"sequence": len(data)}, status_code=202)

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        Starlette(routes=[Route("/github", take, methods=["POST"])]),
        http="auto", ws="none", lifespan="off", log_config=None, access_log=False,
    )  # fmt: skip
    await uvicorn.Server(config).serve([listener])


LARGER: Final = ", 8 KB"
ROWS: Final = [
    Row(BARE, "requests/s"),
    Row(SIGNED, "requests/s", BARE, at_least(LEAST_PER_S)),
    Row(PLAIN, "requests/s", BARE),
    Row(BARE + LARGER, "requests/s"),
    Row(SIGNED + LARGER, "requests/s", BARE + LARGER),
]


def ways(count: int) -> Ways:
    """Return what is measured, for this script and for one that includes it with `ROWS`."""
    small = {kind: partial(rate, kind, SMALL, count) for kind in (BARE, SIGNED, PLAIN)}
    large = {kind + LARGER: partial(rate, kind, LARGE, count) for kind in (BARE, SIGNED)}
    return small | large


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure."""
    return measured(ways(500 if options.quick else REQUESTS), ROWS, options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:4])
    else:
        script(__doc__, "webhooks: requests/s that one core answers", take)
