"""Every connector that is shipped passes the suite of its kind; one that comes has to as well."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from headrace.testing.sink_contract import SinkContract
from headrace.testing.source_contract import SourceContract

ENTRIES = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
    "entry-points"
]["headrace.connectors"]
WHERE = {
    "csv-file": "connectors.test_files:TestCsvFile",
    "directory": "connectors.test_files:TestDirectory",
    "http-sink": "connectors.test_http_contract:TestHttpSink",
    "jetstream": "connectors.test_jetstream:TestJetStream",
    "json-lines-file": "connectors.test_files:TestJsonLinesFile",
    "kafka": "connectors.test_kafka:TestKafka",
    "kafka-sink": "connectors.test_kafka:TestKafkaSink",
    "memory": "conformance.test_sources:TestMemory",
    "memory-sink": "conformance.test_sinks:TestMemorySink",
    "mqtt": "connectors.test_mqtt_contract:TestQos1",
    "mqtt-sink": "connectors.test_mqtt_contract:TestSink",
    "nats": "connectors.test_nats:TestNats",
    "nats-sink": "connectors.test_nats:TestNatsSink",
    "notify-sink": "connectors.test_notify:TestNotifySink",
    "postgres-notify": "connectors.test_postgres:TestPostgresNotify",
    "postgres-outbox": "connectors.test_postgres:TestPostgresOutbox",
    "postgres-sink": "connectors.test_postgres:TestPostgresSink",
    "redis-stream": "connectors.test_redis_stream:TestRedisStream",
    "redis-stream-sink": "connectors.test_redis_stream:TestRedisStreamSink",
    "sse": "connectors.test_stream_contracts:TestSse",
    "stdin": "connectors.test_stdio:TestStdin",
    "stdout-sink": "connectors.test_stdio:TestStdoutSink",
    "webhook": "conformance.test_webhook:TestWebhook",
    "websocket": "connectors.test_stream_contracts:TestWebSocket",
}


def test_each_has_its_place() -> None:
    """A line for each that a program or a file can name."""
    assert WHERE.keys() == ENTRIES.keys()


@pytest.mark.parametrize("entry", sorted(WHERE))
def test_it_is_the_suite_of_its_kind_that_runs_there(entry: str) -> None:
    """By tests that none of them leaves out: a suite is inherited, and not taken apart."""
    module, _, name = WHERE[entry].partition(":")
    contract = SinkContract if entry.endswith("-sink") else SourceContract
    suite = getattr(import_module(f"tests.{module}"), name)

    assert issubclass(suite, contract)
    assert not [test for test in vars(suite) if test in vars(contract) and test.startswith("test_")]
