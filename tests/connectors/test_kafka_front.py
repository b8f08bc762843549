"""Kafka behind what its mock lacks: users, TLS, and brokers that are killed and come back."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Producer
from tests.connectors import test_kafka
from tests.connectors.crashes import Crashes
from tests.connectors.kafka_front import KafkaFront
from tests.connectors.kafka_mock import KafkaMock
from tests.connectors.test_kafka import KafkaHarness, SinkOfKafka, new_topic
from tests.needs import program

from headrace import MemoryLog
from headrace.connectors import kafka_connection
from headrace.connectors.kafka import Kafka, KafkaMessage, KafkaSink
from headrace.connectors.protocol import ConnectorError, SinkUnavailable, Source
from headrace.testing.lives import Lives, until
from headrace.testing.sink_contract import SinkContract, SinkHarness
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = test_kafka.pytestmark
anyio_backend = test_kafka.anyio_backend
mock = test_kafka.mock
USERS = {"plant": "sesame"}
PAUSE_S = 0.004
"""Between two messages: of those that were sent singly the mock hands out four a request."""


class GoneHarness(KafkaHarness):
    """A broker that is killed and comes back with all that it had."""

    def __init__(self, mock: KafkaMock, topic: str, front: KafkaFront) -> None:
        super().__init__(mock, topic)
        self.front = front

    def source(self) -> Source:
        return Kafka(self.front.servers, [self.topic], group=f"g-{self.topic}", timeout_s=1.5,
                     batch_max=100)  # fmt: skip

    async def kill(self) -> None:
        self.front.kill()

    async def start(self) -> None:
        self.front.start()


class TestBrokerThatIsKilled(SourceContract):
    @pytest.fixture
    async def harness(self, mock: KafkaMock) -> AsyncGenerator[SourceHarness, None]:
        with KafkaFront(mock.servers) as front:
            yield GoneHarness(mock, await new_topic(mock), front)


class GoneSink(SinkOfKafka):
    def __init__(self, mock: KafkaMock, topic: str, front: KafkaFront) -> None:
        super().__init__(mock, topic)
        self.front = front

    def sink(self) -> KafkaSink:
        return KafkaSink(self.front.servers, self.topic, timeout_s=1.5)

    async def kill(self) -> None:
        self.front.kill()

    async def start(self) -> None:
        self.front.start()


class TestSinkOfABrokerThatIsKilled(SinkContract):
    @pytest.fixture
    async def harness(self, mock: KafkaMock) -> AsyncGenerator[SinkHarness, None]:
        with KafkaFront(mock.servers) as front:
            yield GoneSink(mock, await new_topic(mock), front)


# ---------------------------------------------------------------- kill -9


def publishing(mock: KafkaMock, topic: str) -> Callable[[int], None]:
    """Return what publishes the message of a number, and returns once the cluster has it."""
    producer = Producer({"bootstrap.servers": mock.servers, "acks": "all", "linger.ms": 0})

    def publish(number: int) -> None:
        failures: list[Any] = []
        producer.produce(
            topic, json.dumps({"number": number}).encode(), partition=number % 4,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )  # fmt: skip
        if producer.flush(10) or failures:
            raise ConnectionError(str(failures))
        time.sleep(PAUSE_S)

    return publish


@pytest.mark.parametrize("cycles", [2, pytest.param(20, marks=pytest.mark.soak)])
async def test_kills_under_load(mock: KafkaMock, tmp_path: Path, cycles: int) -> None:
    """Our process and the broker are killed in turn: each record is in the log once."""
    topic = await new_topic(mock)
    with KafkaFront(mock.servers) as front:
        crashes = Crashes(
            tmp_path,
            "from headrace.connectors.kafka import Kafka\n"
            f"source = Kafka({front.servers!r}, [{topic!r}], timeout_s=2)",
            publishing(mock, topic),
            (ConnectionError,),
        )
        await anyio.to_thread.run_sync(crashes.run, cycles, front.kill, front.start)
    assert len(crashes.acknowledged) > 100
    assert crashes.missing() == []
    assert crashes.twice() == []


# ---------------------------------------------------------------- users and TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            program("openssl", package="openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes",
            "-days", "2", "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


def tls(certificate: Path, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)
    return context


async def goes_through(front: KafkaFront, topic: str, **settings: Any) -> None:
    """Send a record by the sink, and take it by the source."""
    async with KafkaSink(front.servers, topic, timeout_s=3, **settings) as sink:
        await sink.send(KafkaMessage("a.b", {"number": 7}), key="k")
    lives = Lives(lambda: Kafka(front.servers, [topic], timeout_s=3, **settings), MemoryLog())
    async with lives.life() as life:
        await until(lambda: life.status.stored == 1, "the record", within_s=10)
    assert [event.data for event in lives.kept()] == [{"number": 7}]


async def failure(front: KafkaFront, **settings: Any) -> str:
    """Return the one line with which source and sink alike say that it cannot be."""
    source = Kafka(front.servers, ["t"], timeout_s=3, **settings)
    with pytest.raises(BaseExceptionGroup) as found, anyio.fail_after(10):
        async with Lives(lambda: source, MemoryLog()).life():
            await anyio.sleep_forever()
    (error,) = found.value.exceptions
    assert isinstance(error, ConnectorError)
    async with KafkaSink(front.servers, "t", timeout_s=3, **settings) as sink:
        with pytest.raises(SinkUnavailable) as caught:
            await sink.send(KafkaMessage("a.b"), key="k")
    said = str(error)
    assert said.removeprefix("Kafka 'kafka'") == str(caught.value).removeprefix("KafkaSink 'kafka'")
    assert "\n" not in said
    return said


async def lost(front: KafkaFront, **settings: Any) -> str:
    """Return what a source says that tries again."""
    source = Kafka(front.servers, ["t"], timeout_s=1, **settings)
    async with Lives(lambda: source, MemoryLog()).life() as life:
        await until(lambda: life.status.state == "lost", "it is said", within_s=10)
    return life.status.error


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_users_are_let_in_by_their_password(mock: KafkaMock, mechanism: str) -> None:
    """And others are told so in one line, which has no password in it."""
    settings: dict[str, Any] = {"security": "SASL_PLAINTEXT", "mechanism": mechanism}
    with KafkaFront(mock.servers, users=USERS) as front:
        topic = await new_topic(mock)
        await goes_through(front, topic, user="plant", password="sesame", **settings)
        for user, password in (("plant", "planted-secret"), ("nobody", "sesame")):
            said = await failure(front, user=user, password=password, **settings)
            assert "check user, password and mechanism" in said
            assert password not in said


async def test_mechanism_that_the_broker_does_not_know(mock: KafkaMock) -> None:
    """It is named."""
    with KafkaFront(mock.servers, users=USERS, mechanisms=("SCRAM-SHA-256",)) as front:
        said = await failure(front, security="SASL_PLAINTEXT", user="plant", password="sesame")
    assert "check user, password and mechanism" in said


async def test_user_for_a_broker_that_asks_for_none(mock: KafkaMock) -> None:
    """Nothing would be secret there: it is said, and not gone past."""
    with KafkaFront(mock.servers) as front:
        said = await failure(front, security="SASL_PLAINTEXT", user="plant", password="sesame")
    assert "found one that does not" in said
    assert "check security" in said


async def test_no_user_for_a_broker_that_asks_for_one(mock: KafkaMock) -> None:
    """It closes the connection without a word, so that may be a broker that ends: try again."""
    with KafkaFront(mock.servers, users=USERS) as front:
        said = await lost(front)
    assert "a broker that wants a login" in said
    assert "check the port, and security" in said


async def test_certificate_that_is_vouched_for(mock: KafkaMock, certificate: Path) -> None:
    """With a login inside; nobody else is spoken to."""
    ca: dict[str, Any] = {"ca_file": str(certificate)}
    with KafkaFront(mock.servers, tls=tls(certificate)) as front:
        await goes_through(front, await new_topic(mock), security="SSL", **ca)
        assert "check ca_file" in await failure(front, security="SSL")
        assert "check the port, and security" in await lost(front)
    with KafkaFront(mock.servers, tls=tls(certificate), users=USERS) as front:
        login = {"user": "plant", "password": "sesame", "mechanism": "SCRAM-SHA-512"}
        await goes_through(front, await new_topic(mock), security="SASL_SSL", **ca, **login)
    with KafkaFront(mock.servers) as plain:
        assert "check the port, and security" in await lost(plain, security="SSL", **ca)


async def test_certificate_of_ones_own(mock: KafkaMock, certificate: Path) -> None:
    """A broker that wants to know who is there is shown it."""
    settings: dict[str, Any] = {"security": "SSL", "ca_file": str(certificate)}
    with KafkaFront(mock.servers, tls=tls(certificate, asks=True)) as front:
        topic = await new_topic(mock)
        await goes_through(front, topic, cert_file=str(certificate), **settings)
        assert "check the port, and security" in await lost(front, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ca_file": "ca.pem"}, "ca_file: expected security SSL or SASL_SSL beside it"),
        ({"security": "SSL", "key_file": "k.pem"}, "expected a cert_file beside it"),
        ({"security": "SSL", "cert_file": 7}, "cert_file: expected a text, found 7"),
    ],
)
def test_settings_of_tls_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    """They are refused where they are written."""
    with pytest.raises((TypeError, ValueError), match=said):
        Kafka("localhost:9092", ["t"], **settings)


@pytest.mark.parametrize("setting", ["ca_file", "cert_file"])
async def test_files_that_hold_no_certificates(tmp_path: Path, setting: str) -> None:
    """The setting, the file and what is wrong with it."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path in (empty, tmp_path / "none.pem"):
        file: dict[str, Any] = {setting: str(path)}
        with pytest.raises(ConnectorError, match=rf"{setting}: expected .* at .*{path.name}"):
            async with KafkaSink("localhost:9092", "t", security="SSL", **file):
                pytest.fail("it is open")


# ---------------------------------------------------------------- the library


@pytest.mark.parametrize("used", [[AIOKafkaConsumer, "_client"], [AIOKafkaProducer, "_sender"]])
async def test_library_that_has_become_another_one(
    mock: KafkaMock, monkeypatch: pytest.MonkeyPatch, used: Sequence[Any]
) -> None:
    """What is used of it beyond its promises is looked for, and said with what to install."""
    owner, name = used
    before = owner.__init__

    def without(self: Any, *arguments: Any, **options: Any) -> None:
        before(self, *arguments, **options)
        self.__dict__["renamed"] = self.__dict__.pop(name)

    topic = await new_topic(mock)
    lives = Lives(lambda: Kafka(mock.servers, [topic], timeout_s=2), MemoryLog())
    monkeypatch.setattr(owner, "__init__", without)
    found = rf"expected an aiokafka whose {owner.__name__} has '{name}'.*pip install"
    if owner is AIOKafkaProducer:
        async with KafkaSink(mock.servers, topic, timeout_s=2) as sink:
            with pytest.raises(SinkUnavailable, match=found):
                await sink.send(KafkaMessage("a.b"), key="k")
    else:
        with pytest.raises(BaseExceptionGroup) as several, anyio.fail_after(10):
            async with lives.life():
                await anyio.sleep_forever()
        assert several.group_contains(ConnectorError, match=found)


def test_what_the_library_has_is_taken_as_it_is() -> None:
    """A name that is there is its value, whatever that is."""
    assert kafka_connection.inner("here", AIOKafkaProducer, "_closed") is None
