"""`Webhook` at an address of its own: what the network may do to it, and its figures."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from tests.connectors.asking import SECRET, github

from headrace import App, Engine, FileLog, MemoryLog, Run, on
from headrace.connectors.feeder import Feeder
from headrace.connectors.http_in import Webhook
from headrace.connectors.memory import Memory, Topic
from headrace.connectors.metrics import LABELS_MAX, OTHERS, _bounded, metrics_of
from headrace.connectors.protocol import ConnectorError, ExtraMissing
from headrace.engine.log.protocol import EventLog

pytestmark = pytest.mark.slow

ANYWHERE = "127.0.0.1:0"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Uvicorn works on asyncio."""
    return "asyncio"


@pytest.fixture(params=["httptools", "h11"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads requests: each has to keep the limits."""
    if request.param == "h11":
        monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.httptools_impl", None)
    else:
        pytest.importorskip("httptools")


@asynccontextmanager
async def served(
    webhook: Webhook, log: EventLog | None = None, app: App | None = None
) -> AsyncGenerator[tuple[Engine, httpx2.AsyncClient], None]:
    app = app or App("hooks")
    app.source(webhook)
    async with app.open(log or MemoryLog()) as engine:
        with anyio.fail_after(5):
            while webhook.address is None:
                await anyio.sleep(0.001)
        host, port = webhook.address
        async with httpx2.AsyncClient(base_url=f"http://{host}:{port}") as client:
            yield engine, client


def webhook(**options: Any) -> Webhook:
    routes: dict[str, Any] = {"/plain": "plain.event", "/github": {
        "subject": "github.{event}", "scheme": "github", "secrets": SECRET,
    }}  # fmt: skip
    return Webhook(routes, listen=ANYWHERE, **options)


async def raw(webhook: Webhook, data: bytes, *, ends: bool = False) -> bytes:
    """Send *data* as it is, and return what comes back until the connection is closed."""
    assert webhook.address is not None
    async with await anyio.connect_tcp(*webhook.address) as stream:
        answer = b""
        with anyio.fail_after(10):
            try:
                await stream.send(data)
                if ends:
                    await stream.send_eof()
                async for chunk in stream:
                    answer += chunk
            except anyio.BrokenResourceError:
                pass
        return answer


@pytest.mark.usefixtures("parser")
async def test_requests_over_one_connection_are_stored() -> None:
    """Signed ones, one after the other; with what the answers say."""
    hook = webhook()
    async with served(hook) as (engine, client):
        for number in range(3):
            headers = github(b"{}", f"d-{number}") | {"content-type": "application/json"}
            answer = await client.post("/github", content=b"{}", headers=headers)
            assert (answer.status_code, answer.json()["sequence"]) == (
                202,
                engine.kernel.sequence,
            )
        assert (await client.post("/github", json={})).status_code == 401
        assert (await client.get("/readyz")).text == "ok\n"
        address = hook.address
    assert address is not None
    assert hook.address is None
    with pytest.raises(OSError, match="connect"):
        await anyio.connect_tcp(*address)


@pytest.mark.usefixtures("parser")
async def test_sender_of_too_much_reads_why() -> None:
    """It is let to send for a while, instead of being cut off in the middle of it."""
    async with served(webhook()) as (_, client):
        answer = await client.post("/plain", content=b" " * (2 * 1024 * 1024))
        again = await client.post("/plain", json=1)

        assert (answer.status_code, again.status_code) == (413, 202)
        assert "1048576" in answer.json()["error"]


@pytest.mark.usefixtures("parser")
async def test_sender_of_slow_headers_gets_408() -> None:
    """Also one that says nothing at all, and one whose second request is slow."""
    hook = webhook(header_deadline_s=0.2)
    first = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    async with served(hook) as (_, client):
        for data in (b"", b"POST /plain HTTP/1.1\r\nhost:", first + b"GET /healthz HTTP"):
            answer = await raw(hook, data)
            assert b"HTTP/1.1 408 " in answer
            assert answer.endswith(b"connection: close\r\n\r\n")
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.usefixtures("parser")
async def test_sender_of_a_slow_body_gets_408() -> None:
    """After its own deadline, which begins with the headers."""
    hook = webhook(body_deadline_s=0.2)
    head = b"POST /plain HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    async with served(hook) as (engine, _):
        answer = await raw(hook, head + b"content-length: 10\r\n\r\n1")

        assert answer.startswith(b"HTTP/1.1 408 ")
        assert engine.state().events == 0


CHUNKED = (
    b"POST /plain HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "begin", [b"1\r\n1\r\n0\r\nx: ", b"1;x=", b"1\r\n1\r\n1;x="], ids=["trailer", "first", "next"]
)
async def test_chunks_without_an_end_are_bounded(begin: bytes) -> None:
    """Headers behind the body and parameters of a chunk would otherwise be taken for ever."""
    hook = webhook()
    async with served(hook) as (engine, client):
        assert hook.address is not None
        async with await anyio.connect_tcp(*hook.address) as stream:
            sent = 0
            with anyio.fail_after(10), suppress(anyio.BrokenResourceError):
                await stream.send(CHUNKED + begin)
                while sent < 64 * 1024 * 1024:
                    await stream.send(b"x" * 65_536)
                    sent += 65_536
            assert sent < 32 * 1024 * 1024, "it was taken"
        assert (await client.post("/plain", json=1)).status_code == 202
        assert engine.state().events == 1


@pytest.mark.usefixtures("parser")
async def test_body_in_chunks_of_one_byte_is_taken() -> None:
    """It is six times as long on the wire, and nothing is wrong with it."""
    body = b"1" * 15_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b'"' + body + b'"') + b"0\r\n\r\n"
    hook = webhook()
    # Else the connection is kept for seconds, for the next request.
    head = CHUNKED.replace(b"host: a", b"host: a\r\nconnection: close")
    async with served(hook) as (_, __):
        assert b"HTTP/1.1 202 " in await raw(hook, head + chunks)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 200_000, 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 101 + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n", 400),
        (b"GET /a?" + b"x" * 17_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 431),
        (b"POST /plain HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST /plain HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_what_is_no_request_is_refused(data: bytes, status: int) -> None:
    """And the next connection is served."""
    hook = webhook()
    async with served(hook) as (_, client):
        answer = await raw(hook, data)

        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:100]
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.usefixtures("parser")
async def test_connections_are_bounded() -> None:
    """One that is too many is told so at once, and takes nobody's place."""
    hook = webhook(connections_max=3)
    async with served(hook) as (_, client):
        assert hook.address is not None
        streams = [await anyio.connect_tcp(*hook.address) for _ in range(3)]
        for stream in streams:
            await stream.send(b"POST /plain HTTP/1.1\r\nhost: a\r\n")
        await anyio.sleep(0.05)
        answer = await raw(hook, b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        for stream in streams:
            await stream.aclose()
        with anyio.fail_after(5):
            while (await client.get("/healthz")).status_code != 200:
                await anyio.sleep(0.01)

    assert answer.startswith(b"HTTP/1.1 503 ")


@pytest.mark.usefixtures("parser")
async def test_requests_are_answered_while_it_ends() -> None:
    """The engine does not wait for who sends nothing more."""
    hook = webhook()
    head = b"POST /plain HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    async with served(hook) as (_, _client):
        assert hook.address is not None
        stream = await anyio.connect_tcp(*hook.address)
        await stream.send(head + b"content-length: 10\r\n\r\n1")
        await anyio.sleep(0.05)
        begun = anyio.current_time()
    took_s = anyio.current_time() - begun
    answer = await stream.receive()
    await stream.aclose()

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert took_s < 4


async def test_address_that_is_taken_ends_the_engine() -> None:
    """With one line; nothing is left of it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = App("hooks")
        app.source(Webhook({}, listen=f"127.0.0.1:{port}"))
        with pytest.raises(ConnectorError, match=f"127.0.0.1:{port}, found Address already in use"):
            async with app.open(MemoryLog()):
                await anyio.sleep_forever()


PROGRAM = """
import sys, anyio
from headrace import App, FileLog
from headrace.connectors.http_in import Webhook
hook = Webhook({"/plain": "plain.event"}, listen="127.0.0.1:0")
app = App("hooks")
app.source(hook)
async def main():
    async with app.open(FileLog(sys.argv[1])):
        while hook.address is None:
            await anyio.sleep(0.001)
        print(hook.address[1], flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


async def lives(log: Path, count: int) -> tuple[set[str], list[str]]:
    """Kill the program *count* times under load; return the ids it took, and those in the log."""
    taken: set[str] = set()
    last = [0]

    async def send(client: httpx2.AsyncClient, waiting: list[str]) -> None:
        while True:
            if not waiting:
                last[0] += 1
            key = waiting.pop() if waiting else f"k{last[0]}"
            try:
                answer = await client.post("/plain", json=key, headers={"idempotency-key": key})
            except (httpx2.TransportError, OSError):
                waiting.append(key)  # as a sender does: until it has its 202
                return
            assert answer.status_code == 202
            taken.add(key)

    waiting: list[str] = []
    for _ in range(count):
        program = await anyio.open_process(
            [sys.executable, "-c", PROGRAM, str(log)], stderr=subprocess.PIPE
        )
        async with program:
            assert program.stdout is not None
            port = int(await program.stdout.receive())
            async with (
                httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
                anyio.create_task_group() as group,
            ):
                for _ in range(8):
                    group.start_soon(send, client, waiting)
                before = len(taken)
                with anyio.fail_after(20):
                    while len(taken) < before + 50:
                        await anyio.sleep(0.005)
                program.send_signal(signal.SIGKILL)
    hook, ids = webhook(), list[str]()
    async with served(hook, FileLog(log)) as (engine, _):
        for _, batch in engine.log.read():
            ids += [event.id for raw in batch if (event := stored(raw)) is not None]
    return taken, ids


def stored(raw: bytes) -> Any:
    from headrace.engine.record import EventStored, decode

    record = decode(raw)
    return record if isinstance(record, EventStored) else None


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.soak)])
async def test_what_was_answered_with_202_outlives_kill_9(count: int, tmp_path: Path) -> None:
    """Each delivery that got its 202 is in the log once, however often it was sent."""
    taken, ids = await lives(tmp_path / "log", count)

    assert len(taken) >= 50 * count
    assert taken <= set(ids)
    assert len(ids) == len(set(ids))


# ---------------------------------------------------------------- figures


async def test_figures_say_what_is_so() -> None:
    """In the text format that Prometheus reads; computed when it asks."""
    from prometheus_client.parser import text_string_to_metric_families

    app = App("hooks")

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    @app.rule(on("plain.event"))
    async def look(run: Run) -> None:
        await run.call(fail)

    hook = webhook()
    async with served(hook, app=app) as (engine, client):
        for _ in range(2):
            await client.post("/plain", json=1, headers={"idempotency-key": "a"})
        await client.post("/plain", content=b"{", headers={"content-type": "application/json"})
        await engine.drain()
        answer = await client.get("/metrics")
        found = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

        def value(name: str, **labels: str) -> float:
            return float(found["headrace_" + name, tuple(sorted(labels.items()))])

        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert value("up") == value("ready") == 1
        assert value("events_total") == 1
        assert value("log_sequence") == engine.kernel.sequence
        assert value("rule_fired_total", rule="look") == 1
        assert value("runs_ended_total", status="dead") == 1
        assert value("runs", state="active") == 0
        assert value("source_stored_total", source="webhook") == 1
        assert value("source_duplicates_total", source="webhook") == 1
        assert value("source_refused_total", source="webhook") == 1
        assert value("source_in_flight", source="webhook") == 0
        assert value("source_state", source="webhook", state="connected") == 1
        assert value("source_commit_seconds_count", source="webhook") == 2
        assert value("source_commit_seconds_sum", source="webhook") > 0
        assert value("log_uncommitted") == 0


async def test_figures_of_the_queue_and_of_what_was_lost() -> None:
    """How many runs wait for room, and how many messages nobody will see again."""
    app = App("hooks")
    goes_on = anyio.Event()

    @app.task(concurrency=1)
    async def slow() -> None:
        await goes_on.wait()

    @app.rule(on("plain.event"))
    async def look(run: Run) -> None:
        run.spawn(slow)

    app.source(Memory(Topic()))
    async with app.open(MemoryLog()) as engine:
        (feeder,) = [one for one in engine.companions if isinstance(one, Feeder)]
        feeder.status.dropped = 3
        for _ in range(4):
            await engine.emit("plain.event", 1)
        await anyio.wait_all_tasks_blocked()
        figures = metrics_of("memory", engine)
        assert b'headrace_runs{state="queued"} 3.0' in figures
        assert b'headrace_source_dropped_total{source="memory"} 3.0' in figures
        goes_on.set()
        await engine.drain()
        assert b'headrace_runs{state="queued"} 0.0' in metrics_of("memory", engine)


async def test_page_names_each_figure() -> None:
    """Who makes a board of them finds all, and none that is not there."""
    page = (Path(__file__).parents[2] / "docs" / "connectors" / "http.md").read_text()
    table = page.partition("## Figures")[2]
    app = App("hooks")
    app.source(Memory(Topic()))
    app.rule(on("a"), name="one")(noop)
    async with app.open(MemoryLog()) as engine:
        status = next(one.status for one in engine.companions if isinstance(one, Feeder))
        status.lag, status.last_at_ns = 1, 1
        figures = set(re.findall(r"# TYPE (\w+) ", metrics_of("memory", engine).decode()))

    named = set(re.findall(r"`(headrace_\w+)`", table))
    tails = re.findall(r"`…(\w+)`", table)
    meant = {f"headrace_{kind}{tail}" for kind in ("rule", "source") for tail in tails}
    assert named <= figures <= named | meant
    assert [tail for tail in tails if not any(name.endswith(tail) for name in figures)] == []


async def noop() -> None:
    """Do nothing."""


async def test_figures_can_be_turned_off() -> None:
    """They are nobody's business at an address that everybody knows."""
    async with served(webhook(metrics=False)) as (_, client):
        assert (await client.get("/metrics")).status_code == 404


def test_figures_without_an_engine_say_so() -> None:
    """A scrape before the engine opens is no error."""
    assert b"headrace_up 0.0" in metrics_of("webhook", None)


def test_labels_are_bounded() -> None:
    """A server keeps a series for each: the largest have their own, and the rest is one."""
    values: dict[tuple[str, ...], float] = {(f"r{n}",): float(n) for n in range(LABELS_MAX + 500)}
    found = _bounded(values)

    assert len(found) == LABELS_MAX
    assert sum(found.values()) == sum(values.values())
    assert ("r1499",) in found
    assert (OTHERS,) in found


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ExtraMissing, match=r"headrace\[prometheus\]"):
        metrics_of("webhook", None)


async def test_missing_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    app = App("hooks")
    app.source(webhook())
    with pytest.raises(ExtraMissing, match=r"webhook, listen.*headrace\[http\]"):
        async with app.open(MemoryLog()):
            await anyio.sleep_forever()


def test_import_needs_no_extra() -> None:
    """An app that mounts it brings a server of its own."""
    code = (
        "import sys\n"
        "for name in ('uvicorn', 'h11', 'starlette', 'prometheus_client'): sys.modules[name]=None\n"
        "from headrace.connectors.http_in import Webhook\n"
        "Webhook({'/a': 'a'}, metrics=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr


def test_other_loops_are_told_what_to_do() -> None:
    """On trio a host's own server takes the requests."""
    app = App("hooks")
    app.source(webhook())

    async def main() -> None:
        async with app.open(MemoryLog()):
            await anyio.sleep_forever()

    with pytest.raises(ConnectorError, match="mount `asgi`"):
        anyio.run(main, backend="trio")
