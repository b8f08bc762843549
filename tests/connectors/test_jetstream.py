"""JetStream, with a real server that is killed and comes back."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from tests.connectors.crashes import Crashes
from tests.connectors.nats_server import NatsOnDisk, Wire
from tests.connectors.tcp_proxy import TcpProxy

from headrace import MemoryLog
from headrace.connectors.jetstream import JetStream
from headrace.connectors.protocol import Source
from headrace.testing.lives import Lives, until
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "connectors" / "nats.md"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The library is made for asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsOnDisk]:
    with NatsOnDisk(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def server(running: NatsOnDisk) -> NatsOnDisk:
    """A server that is up and has an empty stream."""
    running.kill()
    running.start()
    with Wire(running.port) as wire:
        wire.stream("JOBS", subjects=["jobs.>"])
    return running


class JetStreamHarness(SourceHarness):
    in_flight_max = 100

    def __init__(self, server: NatsOnDisk, port: int | None = None) -> None:
        self.server = server
        self.port = port or server.port

    def source(self) -> Source:
        return JetStream(
            f"nats://127.0.0.1:{self.port}", "JOBS", in_flight_max=100, keepalive_s=1,
            timeout_s=2, ack_wait_s=2,
        )  # fmt: skip

    async def publish(self, numbers: Sequence[int]) -> None:
        def publish() -> None:
            with Wire(self.server.port) as wire:
                for number in numbers:
                    wire.publish("jobs.a", json.dumps({"number": number}).encode(), f"k{number}")

        await to_thread.run_sync(publish)

    async def republish(self, number: int) -> bool:
        # The server forgets ids after two minutes: as if it had.
        with Wire(self.server.port) as wire:
            wire.ask(
                "$JS.API.STREAM.UPDATE.JOBS",
                {"name": "JOBS", "subjects": ["jobs.>"], "duplicate_window": 100_000_000},
            )
        await anyio.sleep(0.3)
        await self.publish([number])
        return True

    async def poison(self) -> bool:
        with Wire(self.server.port) as wire:
            wire.publish("jobs.a", b'{"number": \xff')
        return True

    async def kill(self) -> None:
        self.server.kill()

    async def start(self) -> None:
        await to_thread.run_sync(self.server.start)

    def unusable(self) -> list[Source]:
        return [
            JetStream(self.server.url, "NONE"),
            JetStream(self.server.url, "BAD", create={"subjects": ["jobs.x"]}),
            JetStream(self.server.url, "JOBS", domain="elsewhere"),
        ]


class TestJetStream(SourceContract):
    @pytest.fixture
    def harness(self, server: NatsOnDisk) -> SourceHarness:
        return JetStreamHarness(server)


def publishing(server: NatsOnDisk) -> Any:
    """What publishes a message for a number; errors say that nobody was told of it."""
    wires: list[Wire] = []

    def publish(number: int) -> None:
        if not wires:
            wires.append(Wire(server.port))
        try:
            wires[0].publish("jobs.a", json.dumps({"number": number}).encode())
        except (OSError, ValueError):
            wires.pop().close()
            raise

    return publish, wires


@pytest.mark.parametrize(
    "cycles", [pytest.param(2, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.soak)]
)
async def test_kills_under_load(server: NatsOnDisk, tmp_path: Path, cycles: int) -> None:
    """Our process and the server are killed in turn: what the server acknowledged is there once."""
    publish, wires = publishing(server)
    crashes = Crashes(
        tmp_path,
        f"from headrace.connectors.jetstream import JetStream as S; "
        f"source = S({server.url!r}, 'JOBS')",
        publish,
        (OSError, ValueError),
    )
    await to_thread.run_sync(lambda: crashes.run(cycles, server.kill, server.start))
    while wires:
        wires.pop().close()
    assert len(crashes.acknowledged) > 100 * cycles
    assert crashes.missing() == []
    assert crashes.twice() == []


@pytest.mark.slow
async def test_network_that_is_slow_breaks_and_falls_silent(server: NatsOnDisk) -> None:
    """Each message is in the log once, whatever happens on the way; silence is noticed."""
    async with TcpProxy(server.port) as proxy:
        harness = JetStreamHarness(server, proxy.port)
        lives = Lives(harness.source, MemoryLog())
        async with lives.life() as life:
            await until(lambda: life.status.state == "connected", "a connection", within_s=5)
            proxy.delay_s = 0.02
            for turn in range(4):
                await harness.publish(range(turn * 50, turn * 50 + 50))
                await anyio.sleep(0.01 * turn)
                proxy.reset_all()
            await until(lambda: life.status.stored == 200, "all", within_s=10)
            proxy.freeze()
            await until(lambda: life.status.state == "lost", "half-open noticed", within_s=5)
            proxy.thaw()
            await harness.publish([200])
            await until(lambda: life.status.stored == 201, "the one behind it", within_s=8)
    assert [harness.number(event) for event in lives.kept()] == list(range(201))


async def test_example_of_the_page(server: NatsOnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page shows works as it stands."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.setenv("NATS_URL", server.url)
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile(program, str(PAGE), "exec"), page)
    async with page["app"].open(MemoryLog()):
        with Wire(server.port) as wire:
            await until(
                lambda: "error" not in wire.ask("$JS.API.STREAM.INFO.ORDERS"), "it", within_s=5
            )
            wire.publish("shop.order.a", b'{"article": "bolt", "count": 2000}')
            await until(
                lambda: wire.ask("$JS.API.STREAM.INFO.ORDERS")["state"]["messages"] == 2,
                "the one that was forwarded",
                within_s=5,
            )
            found = wire.ask("$JS.API.STREAM.MSG.GET.ORDERS", {"seq": 2})["message"]
    assert found["subject"] == "shop.big"
    assert json.loads(base64.b64decode(found["data"])) == {"article": "bolt", "count": 2000}
