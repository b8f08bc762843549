"""`HttpSink` against a server that fails in every way."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from tests.connectors.asking import SECRET

from headrace import App, MemoryLog, on
from headrace.connecting import sink_retry
from headrace.connectors.http_out import HttpMessage, HttpResult, HttpSink, retry_after_s
from headrace.connectors.protocol import ExtraMissing, SinkRefused, SinkUnavailable
from headrace.engine.clock import VirtualClock

pytestmark = pytest.mark.slow

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Answers each request with the next of its answers: bytes, or ways to fail."""

    def __init__(self) -> None:
        self.answers: list[bytes | str] = []
        self.requests: list[bytes] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def header(self, name: str) -> list[str]:
        """Return the header *name* of each request."""
        found = []
        for request in self.requests:
            for line in request.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
                key, _, value = line.partition(": ")
                if key.lower() == name:
                    found.append(value)
        return found

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            try:
                while True:
                    await self._one(stream)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    async def _one(self, stream: SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive()
        head, _, body = request.partition(b"\r\n\r\n")
        found = re.search(rb"\r\ncontent-length: (\d+)", head.lower())
        length = int(found[1]) if found else 0
        while len(body) < length:
            body += await stream.receive()
        self.requests.append(head + b"\r\n\r\n" + body)
        answer = self.answers.pop(0) if self.answers else OK
        if answer == "hangs":
            await anyio.sleep_forever()
        if answer == "resets":
            import socket
            import struct

            raw = stream.extra(SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise anyio.EndOfStream
        if answer == "closes":
            raise anyio.EndOfStream
        if answer == "slow":
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            while True:
                await stream.send(b"x")
                await anyio.sleep(0.02)
        assert isinstance(answer, bytes)
        await stream.send(answer)
        if b"content-length" not in answer or answer.endswith(b"half"):
            raise anyio.EndOfStream


@asynccontextmanager
async def serving() -> AsyncGenerator[Server, None]:
    server = Server()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        server.port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, server.serve)
            try:
                yield server
            finally:
                group.cancel_scope.cancel()


async def test_request_is_sent_under_its_key() -> None:
    """With the body as JSON or as bytes, and the headers of message and sink."""
    async with (
        serving() as server,
        HttpSink(f"{server.url}/in", headers={"X-Api-Key": "k"}) as sink,
    ):
        result = await sink.send(HttpMessage({"a": 1}, headers={"X-A": "b"}), key="key-1")
        await sink.send(HttpMessage(b"\xff", "/other?x=1", "PUT"), key="key-2")
        await sink.send(HttpMessage(None, method="DELETE"), key="key-3")

    assert result == HttpResult(200, b"ok", "text/plain")
    one, two, three = server.requests
    assert one.startswith(b"POST /in HTTP/1.1\r\n")
    assert one.endswith(b'\r\n\r\n{"a":1}')
    assert two.startswith(b"PUT /other?x=1 HTTP/1.1\r\n")
    assert two.endswith(b"\r\n\r\n\xff")
    assert three.startswith(b"DELETE /in HTTP/1.1\r\n")
    assert server.header("idempotency-key") == ["key-1", "key-2", "key-3"]
    assert server.header("x-api-key") == ["k", "k", "k"]
    assert server.header("x-a") == ["b"]
    assert server.header("content-type") == ["application/json", "application/octet-stream"]


def status(code: int, *headers: str, body: bytes = b"why") -> bytes:
    lines = [f"HTTP/1.1 {code} X", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("resets", "expected an answer"), ("closes", "expected an answer"),
        ("hangs", "a whole answer within 0.3 s"), ("slow", "a whole answer within 0.3 s"),
        (b"220 mail ESMTP\r\n", "expected an answer"), (b"\x00\xff\r\n\r\n", "expected an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", "expected an answer"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000, "expected an answer"),
        (status(500), "found 500 and 'why'"), (status(502), "found 502"),
        (status(503), "found 503"),
        (status(408), "found 408"), (status(425), "found 425"), (status(429), "found 429"),
    ],
)  # fmt: skip
async def test_what_may_work_the_next_time_is_tried_again(answer: bytes | str, said: str) -> None:
    """It is said as that; and the next request is sent over a connection that works."""
    async with serving() as server, HttpSink(server.url, timeout_s=0.3) as sink:
        server.answers = [answer]
        with pytest.raises(SinkUnavailable, match=said) as caught:
            await sink.send(HttpMessage(1), key="k")
        assert "\n" not in str(caught.value)
        assert (await sink.send(HttpMessage(1), key="k")).status == 200
    assert server.header("idempotency-key") == ["k", "k"]


async def test_server_that_is_gone_is_tried_again() -> None:
    """Nobody listens there."""
    async with serving() as server:
        url = server.url
    async with HttpSink(url) as sink:
        with pytest.raises(SinkUnavailable, match="ConnectError"):
            await sink.send(HttpMessage(1), key="k")


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 409, 410, 413, 422, 451])
async def test_what_is_refused_is_not_tried_again(code: int) -> None:
    """With the beginning of what the server says about it."""
    async with serving() as server, HttpSink(server.url) as sink:
        server.answers = [status(code, body=b"no\x1b[31m such")]
        with pytest.raises(SinkRefused, match=f"found {code}") as caught:
            await sink.send(HttpMessage(1), key="k")
    assert "\x1b" not in str(caught.value)


async def test_retry_after_is_kept() -> None:
    """As seconds and as a date; what is neither is passed over."""
    at = datetime(2030, 1, 1, tzinfo=UTC)
    clock = VirtualClock(wall_ns=int(at.timestamp() - 90) * 10**9)
    async with serving() as server, HttpSink(server.url, clock=clock) as sink:
        for text, after_s in [
            ("7", 7.0), (format_datetime(at, usegmt=True), 90.0), ("soon", None), ("", None),
            ("Tue, 01 Jan 2019 00:00:00 GMT", 0.0), ("9" * 50, 1e9), ("-3", None), ("1.5", None),
        ]:  # fmt: skip
            server.answers = [status(503, f"retry-after: {text}")]
            with pytest.raises(SinkUnavailable) as caught:
                await sink.send(HttpMessage(1), key="k")
            assert caught.value.retry_after_s == after_s, text
    assert retry_after_s(None, clock) is None


async def test_redirects_are_not_followed_by_default() -> None:
    """Whoever answers for the server could send us anywhere."""
    async with serving() as server, HttpSink(server.url) as sink:
        server.answers = [status(307, "location: /there")]
        with pytest.raises(SinkRefused, match="redirects_max"):
            await sink.send(HttpMessage(1), key="k")
    assert len(server.requests) == 1


async def test_redirects_are_followed_so_far_and_no_further() -> None:
    """Only to the same server, with the same method and body; a loop ends."""
    async with serving() as server, HttpSink(server.url, redirects_max=2) as sink:
        server.answers = [status(307, "location: /a"), status(308, f"location: {server.url}/b")]
        assert (await sink.send(HttpMessage(5), key="k")).status == 200
        paths = [request.split(b" ")[1] for request in server.requests]
        bodies = {request.partition(b"\r\n\r\n")[2] for request in server.requests}
        server.answers = [status(307, "location: /loop")] * 9
        with pytest.raises(SinkRefused, match="at most 2 redirects"):
            await sink.send(HttpMessage(5), key="k")
        server.answers = [status(307, "location: http://127.0.0.2/")]
        with pytest.raises(SinkRefused, match="elsewhere"):
            await sink.send(HttpMessage(5), key="k")
        for code, location in [(302, "/a"), (307, "")]:
            server.answers = [status(code, f"location: {location}")]
            with pytest.raises(SinkRefused, match=f"found {code}"):
                await sink.send(HttpMessage(5), key="k")

    assert (paths, bodies) == ([b"/", b"/a", b"/b"], {b"5"})


async def test_headers_of_the_sink_go_to_its_server_only() -> None:
    """A message may not name another one, which would get them."""
    async with serving() as server, HttpSink(server.url, headers={"authorization": "s"}) as sink:
        for url in ("http://127.0.0.2:1/", "//evil.example/", "https://127.0.0.1/"):
            with pytest.raises(SinkRefused, match="elsewhere"):
                await sink.send(HttpMessage(1, url), key="k")
    assert server.requests == []


async def test_large_answer_is_kept_up_to_a_bound() -> None:
    """It goes into the log; what is not read is not waited for."""
    async with serving() as server, HttpSink(server.url, response_bytes_max=10) as sink:
        server.answers = [status(200, body=b"x" * 1_000_000)]
        result = await sink.send(HttpMessage(1), key="k")
        again = await sink.send(HttpMessage(1), key="k")

    assert (result.body, result.truncated) == (b"x" * 10, True)
    assert (again.body, again.truncated) == (b"ok", False)


@pytest.mark.parametrize(
    "message",
    [HttpMessage(1, headers={"a b": "c"}), HttpMessage(1, headers={"a": "b\r\nc: d"}),
     HttpMessage(1, headers={"a": "ä"}), HttpMessage(1, method="get it"),
     HttpMessage(1, "http://[")],
)  # fmt: skip
async def test_what_is_no_request_is_refused(message: HttpMessage) -> None:
    """Trying again would not help; nothing is sent."""
    async with serving() as server, HttpSink(server.url) as sink:
        with pytest.raises(SinkRefused):
            await sink.send(message, key="k")
        assert (await sink.send(HttpMessage(1), key="k")).status == 200
    assert len(server.requests) == 1


async def test_cancelled_at_any_moment_it_goes_on() -> None:
    """Nothing of the request is left behind, and the next one is sent."""
    async with serving() as server, HttpSink(server.url) as sink:
        for turn in range(8):
            server.answers = ["hangs"] if turn % 2 else []
            with anyio.move_on_after(turn * 0.002):
                await sink.send(HttpMessage(turn), key="k")
        server.answers = []
        with anyio.fail_after(5):
            assert (await sink.send(HttpMessage(1), key="k")).status == 200


async def test_events_are_forwarded_until_they_are_taken() -> None:
    """By the retries of a run: each attempt under its key, and none before the server wants it."""
    async with serving() as server:
        app = App("out")
        sink = HttpSink(f"{server.url}/events/{{subject}}")
        sent = app.sink(sink, retry=sink_retry(wait_first=0.01, wait_max=0.05))
        app.rule(on("alert.>"))(sent.forward)
        server.answers = [status(503, "retry-after: 0"), "resets", status(429)]
        async with app.open(MemoryLog()) as engine:
            await engine.emit("alert.t1/x", {"c": 93})
            await engine.drain()
            (run,) = [run for run in engine.runs() if run.rule]
            assert run.status == "completed"
    keys = server.header("idempotency-key")
    assert (len(keys), len(set(keys))) == (4, 1)
    assert {request.split(b" ")[1] for request in server.requests} == {b"/events/alert.t1%2Fx"}


@pytest.mark.parametrize("code", [200, 400, 503])
async def test_server_that_sends_our_secrets_back(code: int) -> None:
    """As one that says what it got: neither in the result nor in an error, both are in the log."""
    key = "planted-key-1234"
    async with serving() as server:
        path, login = "/hooks/T1/planted-path", f"u:{'planted-word'}@"
        headers = {"Authorization": f"Bearer {key}", "X-Key": key, "Accept": "planted"}
        body = b'Cannot POST /hooks/T1/planted-path {"authorization": "Bearer planted-key-1234"}'
        body += b" planted-word dTpwbGFudGVkLXdvcmQ= /planted"
        server.answers = [status(code, body=body)]
        url = server.url.replace("://", f"://{login}") + path
        async with HttpSink(url, headers=headers) as sink:
            try:
                found = repr(await sink.send(HttpMessage(1), key="k"))
            except (SinkRefused, SinkUnavailable) as error:
                found = str(error)
    for secret in (key, "planted-word", "dTpwbGFudGVkLXdvcmQ="):
        assert secret not in found
    assert "***" in found
    assert code != 200 or found.count("planted") == 2, "what is no secret stays"
    # What an answer is about may well be a path; an error is for people.
    assert ("planted-path" in found) == (code == 200)


async def test_secrets_are_not_shown() -> None:
    """Neither headers nor what stands in the address: of a chat's webhook the path is secret."""
    async with serving() as server:
        url = f"http://user:{SECRET}@127.0.0.1:{server.port}/{SECRET}?token={SECRET}"
        async with HttpSink(url, headers={"authorization": SECRET}) as sink:
            server.answers = [status(400), "closes"]
            for kind in (SinkRefused, SinkUnavailable):
                with pytest.raises(kind) as caught:
                    await sink.send(HttpMessage(1), key="k")
                assert SECRET not in str(caught.value)
            assert SECRET not in repr(sink)
    assert len(server.header("authorization")) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: HttpSink("ftp://a"), "http://"), (lambda: HttpSink(f"{SECRET}"), "http://"),
        (lambda: HttpSink("http://a", method="post"), "such as 'POST'"),
        (lambda: HttpSink("http://a", timeout_s=0), "timeout_s: expected a number from"),
        (lambda: HttpSink("http://a", redirects_max=-1), "redirects_max"),
        (lambda: HttpSink("http://a", key_header="a b"), "key_header"),
        (lambda: HttpSink("http://a", headers={"a b": ""}), "names of headers"),
        (lambda: HttpSink("http://a", headers={"a": f"{SECRET}\n"}), "headers, a"),
        (lambda: HttpSink("http://a", headers=[1]), "a table"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(change: Callable[[], Any], said: str) -> None:
    """At once."""
    with pytest.raises((ValueError, TypeError), match=said):
        change()


async def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ExtraMissing, match=r"headrace\[http\]"):
        async with HttpSink("http://127.0.0.1"):
            pytest.fail("it is open")


def test_import_needs_no_extra() -> None:
    """Who does not send by HTTP has no httpx2."""
    code = (
        "import sys; sys.modules['httpx2']=None\nfrom headrace.connectors.http_out import HttpSink"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
