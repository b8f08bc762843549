"""A server that is away for half a minute is found again within five seconds of its return."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from anyio import to_thread
from tests.conformance import test_write_your_own as example
from tests.connectors import (
    test_files,
    test_http_contract,
    test_jetstream,
    test_kafka,
    test_mqtt_contract,
    test_nats,
    test_notify,
    test_postgres,
    test_redis_stream,
    test_stream_contracts,
)
from tests.connectors.kafka_mock import KafkaMock
from tests.connectors.mosquitto import Mosquitto
from tests.connectors.nats_server import NatsOnDisk, Wire
from tests.connectors.postgres_server import PostgresServer
from tests.connectors.redis_server import RedisServer

from headrace.connectors.postgres import PostgresOutbox
from headrace.testing.sink_contract import SinkContract, SinkHarness
from headrace.testing.source_contract import SourceContract, SourceHarness

page = example.page
GONE_S = 30.0
Both = SourceHarness | SinkHarness
pytestmark = [pytest.mark.soak, *test_stream_contracts.pytestmark[1:], *test_kafka.pytestmark]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Some of the libraries are made for asyncio."""
    return "asyncio"


async def redis(folder: Path) -> AsyncGenerator[Both]:
    server = RedisServer(folder)
    try:
        server.start()
        yield test_redis_stream.RedisHarness(server)
        with server.client as client:
            client.delete("jobs")
        yield test_redis_stream.SinkOfRedis(server)
    finally:
        server.kill()


async def postgres(_: Path) -> AsyncGenerator[Both]:
    server = PostgresServer()
    try:
        await to_thread.run_sync(server.make)
        await to_thread.run_sync(server.sql, PostgresOutbox(server.url).schema())
        yield test_postgres.OutboxHarness(server)
        yield test_postgres.NotifyHarness(server)
        yield await to_thread.run_sync(test_postgres.SinkOfPostgres, server)
    finally:
        server.remove()


async def nats(folder: Path) -> AsyncGenerator[Both]:
    with NatsOnDisk(folder) as server:
        with Wire(server.port) as wire:
            wire.stream("JOBS", subjects=["jobs.>"])
        yield test_jetstream.JetStreamHarness(server)
        yield test_nats.CoreHarness(server)
        with Wire(server.port) as wire:
            wire.stream("JOBS", subjects=["jobs.>"])
        yield test_nats.StoredHarness(server)


async def mqtt(folder: Path) -> AsyncGenerator[Both]:
    with Mosquitto(folder) as server:
        yield test_mqtt_contract.Harness(server, 1, 5)
        sink = test_mqtt_contract.SinkToTopics(server)
        yield sink
        sink.listener.close()


async def kafka(_: Path) -> AsyncGenerator[Both]:
    mock = KafkaMock()
    try:
        mock.start()
        yield test_kafka.KafkaHarness(mock, await test_kafka.new_topic(mock))
        yield test_kafka.SinkOfKafka(mock, await test_kafka.new_topic(mock))
    finally:
        mock.kill()


async def sse(_: Path) -> AsyncGenerator[Both]:
    server = test_stream_contracts.EventServer()
    try:
        server.start()
        yield test_stream_contracts.SseHarness(server)
    finally:
        server.kill()


async def websocket(_: Path) -> AsyncGenerator[Both]:
    harness = test_stream_contracts.WebSocketHarness()
    try:
        await harness.start()
        yield harness
    finally:
        await harness.kill()


async def http(_: Path) -> AsyncGenerator[Both]:
    harness = test_http_contract.HttpHarness()
    try:
        yield harness
    finally:
        harness.end()


async def people(_: Path) -> AsyncGenerator[Both]:
    made = test_notify.People()
    try:
        made.begin()
        yield test_notify.TellsPeople(made)
    finally:
        made.end()


async def folder_of_files(folder: Path) -> AsyncGenerator[Both]:
    yield test_files.FolderHarness(folder)


async def lines(_: Path) -> AsyncGenerator[Both]:
    harness = sys.modules["test_lines"].LinesHarness()
    try:
        harness.queue.start()
        yield harness
    finally:
        harness.queue.kill()


@pytest.mark.parametrize(
    "make",
    [redis, postgres, nats, mqtt, kafka, sse, websocket, http, people, folder_of_files, lines],
    ids=lambda make: make.__name__,
)
async def test_server_that_is_gone_for_long(
    make: Callable[[Path], AsyncGenerator[Both]], tmp_path: Path, page: object
) -> None:
    """However long it was away, the waits between tries have not grown with it."""
    async with aclosing(make(tmp_path)) as harnesses:
        async for harness in harnesses:
            harness.gone_s = GONE_S
            if isinstance(harness, SourceHarness):
                await SourceContract().test_server_that_is_gone_and_comes_back(harness)
            else:
                await SinkContract().test_each_attempt_has_the_key_of_the_run(harness)
