"""What ``headrace doctor`` hears of servers that are really there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.connectors.kafka_mock import KafkaMock
from tests.connectors.mosquitto import Mosquitto
from tests.connectors.postgres_server import PostgresServer
from tests.connectors.redis_server import RedisServer

from headrace import App
from headrace.cli.doctor_links import links
from headrace.cli.findings import Finding
from headrace.connectors.kafka import Kafka, KafkaSink
from headrace.connectors.mqtt import Mqtt
from headrace.connectors.postgres import PostgresOutbox
from headrace.connectors.postgres_sink import PostgresSink
from headrace.connectors.protocol import Source
from headrace.connectors.redis_stream import RedisStream

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.kill()


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    server = PostgresServer()
    server.make()
    yield server.url
    server.remove()


def found(*sources: Source) -> list[Finding]:
    app = App("probed")
    for source in sources:
        app.source(source)
    return list(links(app))


def test_redis_says_what_it_is(redis_url: str, tmp_path: Path) -> None:
    """A password that is wrong is found before anything runs, and not shown."""
    well, locked = found(
        RedisStream(redis_url, "jobs", name="well"),
        RedisStream(redis_url.replace("sesame", "planted-secret"), "jobs", name="locked"),
    )
    assert (well.check, well.state) == ("source well", "ok")
    assert well.found.startswith("Redis ")
    assert "sesame" not in well.found
    assert (locked.state, locked.is_connection) == ("fail", True)
    assert "expected to be let in" in locked.found
    assert "planted-secret" not in locked.found


@pytest.mark.slow
def test_postgres_says_what_it_is(postgres_url: str, redis_url: str) -> None:
    """So does a sink; another server on the port is found as such."""
    app = App("probed")
    app.source(PostgresOutbox(postgres_url))
    app.sink(PostgresSink(postgres_url, "kept"))
    app.source(PostgresOutbox(redis_url.replace("redis:", "postgresql:"), name="other"))
    outbox, other, sink = links(app)
    assert (outbox.state, sink.state, other.state) == ("ok", "ok", "fail")
    assert outbox.found.startswith("PostgreSQL ")
    assert sink.found == outbox.found


def test_kafka_answers_or_is_gone(tmp_path: Path) -> None:
    """A sink says so as the source does; a file that is none is no server that is gone."""
    mock = KafkaMock()
    mock.start()
    app = App("probed")
    app.source(Kafka(mock.servers, ["t"]))
    app.sink(KafkaSink(mock.servers, "t"))
    app.sink(KafkaSink(mock.servers, "t", name="tls", security="SSL", ca_file="nowhere.pem"))
    try:
        source, sink, no_file = links(app)
    finally:
        mock.kill()
    gone, *_ = links(app)

    assert (source.state, source.found) == ("ok", f"a Kafka broker at {mock.servers}")
    assert (sink.state, sink.found) == (source.state, source.found)
    assert (no_file.state, no_file.mend) == ("fail", "correct its settings")
    assert (gone.state, gone.is_connection) == ("fail", True)
    assert f"{mock.servers}: " in gone.found


def test_mqtt_is_connected_to_and_a_missing_one_is_named(tmp_path: Path) -> None:
    """With TLS its certificate is looked at, too."""
    with Mosquitto(tmp_path) as server:
        url = server.url.replace("://", "://me:planted-secret@")
        (there,) = found(Mqtt(url, topics="a/#"))
        (no_tls,) = found(Mqtt(url.replace("mqtt:", "mqtts:"), topics="a/#"))
    (gone,) = found(Mqtt(url, topics="a/#"))
    port = server.port
    assert (there.state, there.found) == ("ok", f"mqtt://***@127.0.0.1:{port} can be connected to")
    assert (no_tls.state, f"127.0.0.1:{port}" in no_tls.found) == ("fail", True)
    assert (gone.state, f"127.0.0.1:{port}: cannot connect" in gone.found) == ("fail", True)
    assert "planted-secret" not in no_tls.found + gone.found
