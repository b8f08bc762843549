"""Kafka, with the cluster that librdkafka mocks."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from tests.connectors.kafka_mock import KafkaMock

from headrace import MemoryLog
from headrace.connectors.kafka import Kafka, KafkaMessage, KafkaSink
from headrace.connectors.protocol import ConnectorError, SinkUnavailable, Source
from headrace.testing.lives import Lives, until
from headrace.testing.sink_contract import SinkContract, SinkHarness
from headrace.testing.source_contract import SourceContract, SourceHarness

PAGE = Path(__file__).parents[2] / "docs" / "connectors" / "kafka.md"
numbers_of_topics = count()


# A connection that the library is about to make when it is told to stop is left to the garbage
# collector, which closes it and says so.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The library is made for asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def mock() -> Iterator[KafkaMock]:
    made = KafkaMock()
    made.start()
    yield made
    made.kill()


async def new_topic(mock: KafkaMock, name: str = "") -> str:
    """Make a topic: the mock does when it is asked for one, with four partitions."""
    topic = name or f"topic.{next(numbers_of_topics)}"
    async with AIOKafkaProducer(bootstrap_servers=mock.servers) as producer:
        assert await producer.partitions_for(topic) == {0, 1, 2, 3}
    return topic


async def send(mock: KafkaMock, topic: str, *values: bytes, **options: Any) -> None:
    async with AIOKafkaProducer(bootstrap_servers=mock.servers, acks="all") as producer:
        for value in values:
            await producer.send_and_wait(topic, value, **options)


async def records(mock: KafkaMock, topic: str) -> list[Any]:
    """Return what is in a topic, one partition after the other."""
    found: dict[int, list[Any]] = {}
    consumer = AIOKafkaConsumer(bootstrap_servers=mock.servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(4)]
        consumer.assign(partitions)
        count = sum((await consumer.end_offsets(partitions)).values())
        with anyio.fail_after(10):
            while sum(map(len, found.values())) < count:
                for partition, more in (await consumer.getmany(timeout_ms=500)).items():
                    found.setdefault(partition.partition, []).extend(more)
    finally:
        await consumer.stop()
    return [record for number in sorted(found) for record in found[number]]


class KafkaHarness(SourceHarness):
    in_flight_max = 100

    def __init__(self, mock: KafkaMock, topic: str) -> None:
        self.mock = mock
        self.topic = topic

    def source(self) -> Source:
        return Kafka(
            self.mock.servers,
            [self.topic],
            group=f"g-{self.topic}",
            batch_max=100,
            timeout_s=1.5,
        )

    async def publish(self, numbers: Sequence[int]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.mock.servers, acks="all") as producer:
            sent = [
                await producer.send(
                    self.topic,
                    b'{"number": %d}' % number,
                    partition=2,
                    headers=[("idempotency-key", b"k%d" % number)],
                )
                for number in numbers
            ]
            await asyncio.gather(*sent)

    async def republish(self, number: int) -> bool:
        await self.publish([number])
        return True

    async def disorder(self, numbers: Sequence[int]) -> bool:
        # Each partition has an order of its own.
        for partition, number in zip((3, 0, 1), reversed(numbers), strict=True):
            await send(self.mock, self.topic, b'{"number": %d}' % number, partition=partition)
        return True

    async def poison(self) -> bool:
        await send(self.mock, self.topic, b'{"number": \xff', partition=2)
        return True

    async def kill(self) -> None:
        self.mock.pause()

    async def start(self) -> None:
        self.mock.resume()

    def unusable(self) -> list[Source]:
        return [Kafka(self.mock.servers, ["nowhere"])]


class TestKafka(SourceContract):
    @pytest.fixture
    async def harness(self, mock: KafkaMock) -> Any:
        yield KafkaHarness(mock, await new_topic(mock))
        mock.resume()


class SinkOfKafka(SinkHarness):
    def __init__(self, mock: KafkaMock, topic: str) -> None:
        self.mock = mock
        self.topic = topic

    def sink(self) -> KafkaSink:
        return KafkaSink(self.mock.servers, self.topic, timeout_s=1.5)

    def message(self, number: int) -> KafkaMessage:
        return KafkaMessage("a.b", {"number": number}, key="m1")

    async def taken(self) -> list[int]:
        return [json.loads(record.value)["number"] for record in await self._records()]

    async def keys(self) -> list[str] | None:
        return [
            dict(record.headers)["idempotency-key"].decode() for record in await self._records()
        ]

    async def _records(self) -> list[Any]:
        return await records(self.mock, self.topic)

    def refused(self) -> Any:
        return KafkaMessage("a.b", {"number": 0, "more": "x" * 2_000_000})

    async def kill(self) -> None:
        self.mock.pause()

    async def start(self) -> None:
        self.mock.resume()


class TestKafkaSink(SinkContract):
    @pytest.fixture
    async def harness(self, mock: KafkaMock) -> Any:
        yield SinkOfKafka(mock, await new_topic(mock))
        mock.resume()


async def test_cursor_of_the_log_wins_over_what_was_committed(mock: KafkaMock) -> None:
    """Behind it after a copy of the log was put back, ahead of it after a crash."""
    topic = await new_topic(mock)
    harness = KafkaHarness(mock, topic)
    await harness.publish(range(3))
    whole = Lives(harness.source, MemoryLog())
    async with whole.life("behind it") as life:
        await life.intake.stopped.wait()
    assert await committed(mock, topic) is None
    async with whole.life() as life:
        await harness.publish([3])
        await until(lambda: life.status.stored == 1, "the new one", within_s=5)
        assert life.status.duplicates == 0, "read again, and not from the cursor"
        await until(lambda: life.status.lag == 0, "no lag", within_s=5)
    assert await committed(mock, topic) == 4
    assert [event.position for event in whole.kept()] == [1, 2, 3, 4]
    # A log that knows nothing of the topic begins where the group was.
    other = Lives(harness.source, MemoryLog())
    async with other.life() as life:
        await until(lambda: life.status.state == "connected", "a connection", within_s=5)
        await harness.publish([4])
        await until(lambda: life.status.stored == 1, "the next", within_s=5)
    # The first one has not seen it, although it is committed by now.
    async with whole.life() as life:
        await until(lambda: life.status.stored == 1, "the next", within_s=5)
    assert [harness.number(event) for event in whole.kept()] == [0, 1, 2, 3, 4]


async def committed(mock: KafkaMock, topic: str) -> int | None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=mock.servers, group_id=f"g-{topic}", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 2)])
        found: int | None = await consumer.committed(TopicPartition(topic, 2))
        return found
    finally:
        await consumer.stop()


@pytest.mark.slow
async def test_engines_that_share_a_group(mock: KafkaMock) -> None:
    """Each record goes to one of them, also when one leaves."""
    topic = await new_topic(mock)

    def source() -> Source:
        return Kafka(mock.servers, [topic], group=f"g-{topic}", shared=True, session_s=6)

    one, two = Lives(source, MemoryLog()), Lives(source, MemoryLog())
    async with one.life() as first:
        await until(lambda: first.status.state == "connected", "a connection", within_s=5)
        for number in range(8):
            await send(mock, topic, b'{"number": %d}' % number, partition=number % 4)
        await until(lambda: first.status.stored == 8, "all", within_s=15)
    async with two.life() as second:
        await until(lambda: second.status.state == "connected", "a connection", within_s=5)
        await send(mock, topic, b'{"number": 8}', partition=0)
        await until(lambda: second.status.stored == 1, "the next", within_s=20)
    assert [event.data["number"] for event in two.kept()] == [8]


async def test_subjects_and_records_without_data(mock: KafkaMock) -> None:
    """A header says the subject; a record without a value is an event without data."""
    topic = await new_topic(mock)
    async with AIOKafkaProducer(bootstrap_servers=mock.servers) as producer:
        await producer.send_and_wait(topic, b"1", partition=0, headers=[("subject", b"a.b")])
        await producer.send_and_wait(topic, b"2", partition=0, headers=[("subject", b"a.*")])
        await producer.send_and_wait(topic, None, key=b"k", partition=0)
    lives = Lives(lambda: Kafka(mock.servers, [topic]), MemoryLog())
    async with lives.life() as life:
        await until(lambda: life.status.stored == 3, "all", within_s=5)
    one, two, three = lives.kept()
    assert (one.subject, one.data) == ("a.b", 1)
    assert "wildcard" in two.data["reason"]
    assert two.data["place"] == f"{topic} 0:1"
    assert (three.subject, three.data) == (f"kafka.{topic.replace('.', '%2E')}", None)


async def test_server_of_another_protocol() -> None:
    """It is said that it is another."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(BaseExceptionGroup) as found, anyio.fail_after(5):
            async with Lives(lambda: Kafka(f"127.0.0.1:{port}", ["t"]), MemoryLog()).life():
                await anyio.sleep_forever()
    (error,) = found.value.exceptions
    assert isinstance(error, ConnectorError)
    assert "check the port" in str(error)


def test_settings_are_checked_at_once() -> None:
    """With the place, what was expected and what was found, and without the password."""
    with pytest.raises(ConnectorError, match=r"Kafka 'kafka', servers: expected addresses"):
        Kafka("localhost", ["t"])
    for servers in (
        "kafka://u:planted@h:9092",
        "u:planted@h:9092",
        "a:1,u:planted@h",
        "//h:9092",
        "a b:9092",
        "h\n:9092",
        "h:٣",
    ):
        with pytest.raises(ConnectorError, match=r"servers: expected addresses") as refused:
            Kafka(servers, ["t"])
        assert "planted" not in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(TypeError, match="topics: expected a list"):
        Kafka("localhost:9092", "t")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start: expected earliest or latest"):
        Kafka("localhost:9092", ["t"], start="first")
    with pytest.raises(ValueError, match="security: expected one of PLAINTEXT"):
        Kafka("localhost:9092", ["t"], security="TLS")
    with pytest.raises(TypeError, match="expected a user and a password"):
        Kafka("localhost:9092", ["t"], security="SASL_SSL", password="planted")
    with pytest.raises(ValueError, match="batch_max"):
        Kafka("localhost:9092", ["t"], batch_max=0)


async def test_nobody_there_is_said_once() -> None:
    """By the sink and where, with what the system says, and without a hint at the wrong port."""
    async with KafkaSink("127.0.0.1:1", "t", name="k") as sink:
        with pytest.raises(SinkUnavailable) as refused:
            await sink.send(KafkaMessage("a", 1), key="k")

    assert str(refused.value) == "KafkaSink 'k': 127.0.0.1:1: Connection refused"


async def test_example_of_the_page(mock: KafkaMock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page shows works as it stands."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.setenv("KAFKA_SERVERS", mock.servers)
    for topic in ("orders", "big-orders"):
        await new_topic(mock, topic)
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile(program, str(PAGE), "exec"), page)
    async with page["app"].open(MemoryLog()) as engine:
        await send(mock, "orders", b'{"article": "bolt", "count": 2000}')
        await until(lambda: engine.kernel.sequence > 1, "the order", within_s=5)
        with anyio.fail_after(10):
            while not (found := await records(mock, "big-orders")):
                await anyio.sleep(0.05)
    assert json.loads(found[0].value) == {"article": "bolt", "count": 2000}
