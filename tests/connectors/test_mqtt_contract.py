"""What each source and each sink keeps, by `Mqtt`, `MqttSink` and a real mosquitto."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import pytest
from tests.connectors.mosquitto import Listener, Mosquitto, Publisher

from headrace.connectors.mqtt import Mqtt, MqttMessage, MqttSink
from headrace.connectors.protocol import Source
from headrace.testing.sink_contract import SinkContract, SinkHarness
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = pytest.mark.slow


class Harness(SourceHarness):
    """A mosquitto whose state is saved before it is killed."""

    in_flight_max = 20

    def __init__(self, server: Mosquitto, qos: int, version: int) -> None:
        self.server = server
        self.qos = qos
        self.version = version
        self.keeps = qos > 0

    def source(self) -> Source:
        return Mqtt(
            self.server.url,
            topics=["plant/#"],
            qos=self.qos,
            version=self.version,
            client_id="contract",
            in_flight_max=self.in_flight_max,
        )

    async def publish(self, numbers: Sequence[int]) -> None:
        await anyio.to_thread.run_sync(self._publish, numbers)

    def _publish(self, numbers: Sequence[int]) -> None:
        with Publisher(self.server) as publisher:
            for number in numbers:
                # What a server drops is not the point here: it has acknowledged all.
                publisher.publish("plant/t1", json.dumps({"number": number}), qos=self.qos or 1)
            publisher.settle()

    async def poison(self) -> bool:
        await anyio.to_thread.run_sync(self._poison)
        return True

    def _poison(self) -> None:
        with Publisher(self.server) as publisher:
            publisher.publish("plant/t1", '{"number": ')
            publisher.settle()

    async def kill(self) -> None:
        await anyio.to_thread.run_sync(self.server.save)
        self.server.kill()

    async def start(self) -> None:
        await anyio.to_thread.run_sync(self.server.start)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as server:
        yield server


class TestQos1(SourceContract):
    """MQTT 5, at least once."""

    @pytest.fixture
    def harness(self, server: Mosquitto) -> SourceHarness:
        return Harness(server, 1, 5)


class OnAsyncio:
    """Trio has shown with `TestQos1` what it does otherwise."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"


class TestQos2(OnAsyncio, SourceContract):
    """MQTT 5 with QoS 2: no duplicates but by our own crashes."""

    @pytest.fixture
    def harness(self, server: Mosquitto) -> SourceHarness:
        return Harness(server, 2, 5)


class TestQos1Of311(OnAsyncio, SourceContract):
    """MQTT 3.1.1, at least once."""

    @pytest.fixture
    def harness(self, server: Mosquitto) -> SourceHarness:
        return Harness(server, 1, 4)


class TestQos0(OnAsyncio, SourceContract):
    """At most once: what comes while nobody listens is lost."""

    @pytest.fixture
    def harness(self, server: Mosquitto) -> SourceHarness:
        return Harness(server, 0, 5)


class SinkToTopics(SinkHarness):
    """A listener with a session of its own has what the server took."""

    def __init__(self, server: Mosquitto) -> None:
        self.server = server
        self.listener = Listener(server, "out/#")

    def sink(self) -> MqttSink:
        return MqttSink(self.server.url, send_timeout_s=3)

    def message(self, number: int) -> MqttMessage:
        return MqttMessage("out/a", {"number": number})

    async def taken(self) -> list[int]:
        return [json.loads(payload)["number"] for _, payload, _ in await self._heard()]

    async def keys(self) -> list[str] | None:
        return [key for _, _, key in await self._heard()]

    async def _heard(self) -> list[tuple[str, bytes, str]]:
        return await anyio.to_thread.run_sync(self.listener.all)

    def refused(self) -> MqttMessage:
        return MqttMessage("a/+", 1)

    async def kill(self) -> None:
        await anyio.to_thread.run_sync(self.server.save)
        self.server.kill()

    async def start(self) -> None:
        await anyio.to_thread.run_sync(self.server.start)


class TestSink(SinkContract):
    """MQTT 5, QoS 1."""

    @pytest.fixture
    def harness(self, server: Mosquitto) -> Iterator[SinkHarness]:
        made = SinkToTopics(server)
        yield made
        made.listener.close()
