"""`Sse`: the format of server-sent events, and a server that breaks off, repeats and restarts."""

from __future__ import annotations

import gzip
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import SocketAttribute, SocketStream
from hypothesis import given
from hypothesis import strategies as st

from headrace import App, Engine, MemoryLog
from headrace.connectors.event_stream import EventStream, ServerEvent, TooLong
from headrace.connectors.feeder import Feeder
from headrace.connectors.protocol import ConnectorError
from headrace.connectors.sse import Sse
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import EventStored, decode

# On trio: httpx2 does not close its own iterations inside each other when one is cancelled.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning"
)

# ---------------------------------------------------------------- the format


def read(text: bytes, *, last_id: str = "") -> list[ServerEvent]:
    return EventStream(bytes_max=1000, last_id=last_id).feed(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
        (
            b": test stream\n\ndata: first\nid: 1\n\ndata:second event\nid\n\ndata:  third\n\n",
            [("message", "first", "1"), ("message", "second event", ""),
             ("message", " third", "")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
        (b"event: add\ndata: 7\n\ndata: 8\n\n", [("add", "7", ""), ("message", "8", "")]),
        (b"event: add\n\ndata: 8\n\n", [("message", "8", "")]),
        (b"\xef\xbb\xbfdata: 1\r\rdata: 2\r\n\r\n", [("message", "1", ""), ("message", "2", "")]),
        (b"id: 1\x00\ndata: a\n\n", [("message", "a", "")]),
        (b"other: 1\ndata: \xff\n\n", [("message", "\ufffd", "")]),
        (b"id: 5\n\ndata: a\n\n", [("message", "a", "5")]),
    ],
)  # fmt: skip
def test_streams_of_the_standard_are_read(text: bytes, found: list[Any]) -> None:
    """Its examples, and what it says of lines, ids and bytes that are no UTF-8."""
    assert [(e.type, e.data, e.last_id) for e in read(text)] == found


@given(
    st.lists(st.sampled_from([b"data: a", b"id: 1", b"event: x", b":c", b"", b"retry: 5"])),
    st.sampled_from([b"\n", b"\r", b"\r\n"]),
    st.data(),
)
@pytest.mark.slow
def test_chunks_change_nothing(lines: list[bytes], end: bytes, data: st.DataObject) -> None:
    """However the network cuts it, also between the two bytes that end a line."""
    whole = end.join(lines) + end + b"data: last\n\n"
    stream, found, at = EventStream(bytes_max=10_000), list[ServerEvent](), 0
    while at < len(whole):
        size = data.draw(st.integers(1, len(whole) - at))
        found += stream.feed(whole[at : at + size])
        at += size

    assert found == EventStream(bytes_max=10_000).feed(whole)


def test_long_events_end_the_stream() -> None:
    """Whether it is one line without an end, or many."""
    for chunk in (b"data: " + b"x" * 1000, b"data: x\n" * 200):
        with pytest.raises(TooLong):
            read(chunk)
    assert len(read(b"data: x\n\n" * 500)) == 500


def test_server_says_when_to_come_again() -> None:
    """In milliseconds; what is no number is passed over."""
    stream = EventStream(bytes_max=100)
    stream.feed(b"retry: 1500\nretry: soon\n\n")

    assert stream.retry_s == 1.5


# ---------------------------------------------------------------- a server

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n"


BOMB = gzip.compress(b"data: " + b"x" * 50_000_000)


class Server:
    """Sends to each connection what it is told, or, by default, what is behind its last id."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.scripts: list[bytes] = []
        self.last_ids: list[str | None] = []
        self.port = 0

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            try:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += await stream.receive()
                found = request.lower().partition(b"last-event-id: ")[2].partition(b"\r\n")[0]
                self.last_ids.append(found.decode() or None)
                if self.scripts:
                    await stream.send(self.scripts.pop(0))
                    return
                await stream.send(HEAD)
                sent = int(found or b"0")
                while True:
                    for event in self.events[sent:]:
                        sent += 1
                        await stream.send(b"id: %d\ndata: %s\n\n" % (sent, event))
                    await anyio.sleep(0.01)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return


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


@asynccontextmanager
async def taking(
    server: Server, log: EventLog | None = None, **options: Any
) -> AsyncGenerator[Engine, None]:
    app = App("sse")
    app.source(Sse(f"http://127.0.0.1:{server.port}/events", **options))
    async with app.open(log or MemoryLog()) as engine:
        yield engine


def stored(engine: Engine) -> list[EventStored]:
    records = [decode(raw) for _, batch in engine.log.read() for raw in batch]
    return [record for record in records if isinstance(record, EventStored)]


async def until(engine: Engine, count: int) -> list[Any]:
    # What is in the log: the state is ahead of it.
    with anyio.fail_after(10):
        while len(stored(engine)) < count:
            await anyio.sleep(0.005)
    return [msgspec.msgpack.decode(event.data) for event in stored(engine)]


async def test_events_come_in() -> None:
    """Their type is in the subject, their id is that of the event."""
    async with serving() as server:
        server.scripts = [HEAD + b'event: a.b\nid: x1\ndata: {"c": 1}\n\nid: 7\ndata: 2\n\n']
        async with taking(server) as engine:
            assert await until(engine, 2) == [{"c": 1}, 2]
            first, second = stored(engine)

    assert (first.subject, first.id, first.position) == ("sse.a%2Eb", "x1", None)
    assert (second.subject, second.id, second.position) == ("sse.message", "7", 7)


@pytest.mark.slow
async def test_broken_connection_goes_on_behind_the_last_id() -> None:
    """Whatever breaks it off, and what comes again is not stored again."""
    async with serving() as server:
        server.events = [b"1", b"2", b"3", b"4"]
        half = HEAD + b"id: 1\ndata: 1\n\nid: 2\ndata: 2\n\nid: 3\nda"
        server.scripts = [half, b"HTTP/1.1 503 X\r\n\r\n", b"", b"nonsense\r\n\r\n", half]
        async with taking(server) as engine:
            assert await until(engine, 4) == [1, 2, 3, 4]
            (feeder,) = engine.companions
            assert isinstance(feeder, Feeder)
            assert (feeder.status.stored, feeder.status.duplicates) == (4, 2)
    assert server.last_ids == [None, "2", "2", "2", "2", "2"]


async def test_last_id_is_known_after_a_restart() -> None:
    """If it is a number, which is the cursor in the log."""
    log = MemoryLog()
    async with serving() as server:
        server.events = [b"1", b"2"]
        async with taking(server, log) as engine:
            await until(engine, 2)
        server.events.append(b"3")
        async with taking(server, log) as engine:
            assert await until(engine, 3) == [1, 2, 3]
    assert server.last_ids == [None, "2"]


async def test_event_that_is_none_is_kept_and_the_next_goes_on() -> None:
    """It is refused with its bytes, and its id is passed all the same."""
    async with serving() as server:
        server.events = [b"{", b"2"]
        async with taking(server) as engine:
            first, second = await until(engine, 2)
            assert (first["raw"], second) == (b"{", 2)
            assert [event.position for event in stored(engine)] == [1, 2]


@pytest.mark.slow
async def test_silence_is_a_lost_connection() -> None:
    """A half-open connection says nothing: it is given up, and there is another one."""
    async with serving() as server, taking(server, silence_s=0.1):
        with anyio.fail_after(10):
            while len(server.last_ids) < 3:
                await anyio.sleep(0.01)


async def test_endless_event_is_given_up() -> None:
    """The connection is lost with it; the next one works."""
    async with serving() as server:
        server.scripts = [HEAD + b"data: " + b"x" * 5000]
        server.events = [b"1"]
        async with taking(server, event_bytes_max=1000) as engine:
            assert await until(engine, 1) == [1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 401 X\r\ncontent-length: 0\r\n\r\n", "found 401"),
        (b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n", "found 404"),
        (b"HTTP/1.1 307 X\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", "found 307"),
        (b"HTTP/1.1 200 X\r\ncontent-type: text/html\r\ncontent-length: 0\r\n\r\n", "text/html"),
        # What it unfolds to has no bound before it is unfolded.
        (HEAD[:-2] + b"content-encoding: gzip\r\n\r\n" + BOMB, "found one in 'gzip'"),
    ],
)
async def test_address_without_a_stream_ends_the_engine(answer: bytes, said: str) -> None:
    """At the first connection, with one line that has no secrets in it."""
    async with serving() as server:
        server.scripts = [answer]
        with pytest.raises(ConnectorError, match=said) as caught:
            async with taking(server, headers={"authorization": "planted"}):
                await anyio.sleep_forever()
    assert "planted" not in str(caught.value)
    assert "/events" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"url": "ws://a"}, "http://"), ({"subject": "a.*"}, "wildcard"),
     ({"silence_s": 0}, "silence_s"), ({"payload": "xml"}, "payload")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], said: str) -> None:
    """At once."""
    with pytest.raises((ValueError, TypeError, ConnectorError), match=said):
        made: dict[str, Any] = {"url": "http://a"} | options
        Sse(**made)
