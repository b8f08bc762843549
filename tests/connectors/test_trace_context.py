"""The context of a trace on its way through servers, and that nothing else comes with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from tests.connectors.asking import ask
from tests.connectors.kafka_mock import KafkaMock
from tests.connectors.mosquitto import Mosquitto
from tests.connectors.nats_server import NatsOnDisk, Wire
from tests.connectors.redis_server import RedisServer
from tests.connectors.test_http_out import serving, status
from tests.connectors.test_kafka import new_topic
from tests.connectors.traces import (
    CARRIED,
    PARENT,
    TRACE,
    Traces,
    above,
    carried,
    headers_of,
    id_of,
    linked_to,
    said,
)
from tests.engine.stand import of_kind

from headrace import App, Engine, Firing, MemoryLog, Retry, Run, on
from headrace.connectors.feeder import Feeder
from headrace.connectors.http_in import Webhook
from headrace.connectors.http_out import HttpSink
from headrace.connectors.jetstream import JetStream
from headrace.connectors.kafka import Kafka, KafkaSink
from headrace.connectors.memory import Memory, MemorySink, Message, Topic
from headrace.connectors.mqtt import Mqtt, MqttSink
from headrace.connectors.nats import Nats, NatsSink
from headrace.connectors.protocol import Sink, Source
from headrace.connectors.redis_stream import RedisStream, RedisStreamSink
from headrace.connectors.trace_context import outgoing, trace_headers
from headrace.engine.record import EventStored

SECRET = "s3cr3t-of-the-mill"
STRUCTURED = {"content-type": "application/cloudevents+json"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The libraries are made for asyncio."""
    return "asyncio"


@pytest.fixture
def traces() -> Traces:
    return Traces()


async def until(condition: Any, what: str) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.01)
    assert condition(), what


def is_connected(engine: Engine) -> bool:
    (feeder,) = engine.companions
    return isinstance(feeder, Feeder) and feeder.status.state == "connected"


def heard_by(app: App, subject: str) -> list[Any]:
    """Note the headers of the events of *subject*, which each begin a run."""
    heard = list[Any]()

    @app.rule(on(subject), name="hear")
    async def hear(run: Run, firing: Firing[Any]) -> None:
        heard.append(firing.events[-1].headers)

    return heard


# ---------------------------------------------------------------- HTTP


async def test_a_webhook_and_what_it_leads_to_are_one_trace(traces: Traces) -> None:
    """From the request that comes in to the one that goes out; secrets are in no span."""
    app, log = traces.app(), MemoryLog()
    hook = Webhook({"/orders": "orders.new"})
    app.source(hook)
    async with serving() as server:
        sink = HttpSink(f"{server.url}/parcels?token={SECRET}", headers={"authorization": SECRET})
        app.rule(on("orders.new"), name="deliver")(app.sink(sink).forward)
        async with app.open(log) as engine:
            await until(lambda: hook._door, "an open door")
            answer = await ask(
                hook,
                "/orders",
                b'{"secret": "s3cr3t-of-the-mill"}',
                {**CARRIED, "authorization": SECRET, "idempotency-key": "order-7"},
            )
            assert answer.status == 202
            await engine.drain()
        (parent,), (state,) = server.header("traceparent"), server.header("tracestate")

    assert traces.trace_ids() == {TRACE}
    assert traces.tree() == {
        "receive webhook": "?",
        "run deliver": "?",
        "attempt deliver": "run deliver",
        "run http": "attempt deliver",
        "attempt http": "run http",
        "send http": "attempt http",
    }
    receive, send = traces.one("receive webhook"), traces.one("send http")
    assert above(receive) == above(traces.one("run deliver")) == PARENT
    assert parent == headers_of(send)["traceparent"]
    assert state == "a=b"
    assert [receive.kind, send.kind] == [SpanKind.CONSUMER, SpanKind.CLIENT]
    assert said(receive) == {
        "headrace.source": "webhook",
        "messaging.batch.message_count": 1,
        "messaging.message.id": "order-7",
    }
    assert said(send).keys() == {"headrace.sink", "messaging.message.id"}
    (event,) = of_kind(log, EventStored)
    assert event.headers == CARRIED
    assert SECRET not in traces.text()


async def test_an_attempt_to_send_that_fails_says_so(traces: Traces) -> None:
    """Each attempt is a span, with the error that it came to; the message is sent again below."""
    app = traces.app()
    async with serving() as server:
        server.answers = [status(500)]
        sink = HttpSink(server.url)
        app.rule(on("a"), name="go")(app.sink(sink, retry=Retry(wait_first=0.01)).forward)
        async with app.open(MemoryLog()) as engine:
            await engine.emit("a", 1)
            await engine.drain()

    first, second = traces.all("send http")
    assert first.status.status_code is StatusCode.ERROR
    assert said(first)["error.type"] == "SinkUnavailable"
    assert [event.name for event in first.events] == ["exception"]
    assert second.status.status_code is StatusCode.UNSET
    assert len(traces.trace_ids()) == 1
    assert [above(one) for one in traces.all("send http")] == [
        id_of(one) for one in traces.all("attempt http")
    ]


async def test_cloudevents_have_contexts_of_their_own(traces: Traces) -> None:
    """The attribute wins over the header of the request, and no other header comes with it."""
    app, log = traces.app(), MemoryLog()
    hook = Webhook({"/events": {"format": "cloudevents"}}, rate=None)
    app.source(hook)
    fields = {"specversion": "1.0", "source": "s", "type": "t", "data": 1}
    extra = [
        {**carried(7), "headraceheaders": '{"x": "y"}'},
        {},
        {"traceparent": "no"},
    ]
    async with app.open(log):
        await until(lambda: hook._door, "an open door")
        for number, more in enumerate(extra):
            body = json.dumps({**fields, **more, "id": str(number)}).encode()
            answer = await ask(hook, "/events", body, STRUCTURED | CARRIED)
            assert answer.status == 202, answer.body
        binary = {f"ce-{name}": "x" for name in ("id", "source", "type")}
        given = binary | {"ce-specversion": "1.0", "ce-traceparent": carried(8)["traceparent"]}
        assert (await ask(hook, "/events", b"4", given)).status == 202

    headers = [event.headers for event in of_kind(log, EventStored)]
    assert headers == [carried(7), CARRIED, CARRIED, carried(8)]


async def test_a_webhook_in_a_server_with_traces_is_below_its_span(traces: Traces) -> None:
    """The server has made a span of the request already, below that of who has sent it."""
    app, log, hook = traces.app(), MemoryLog(), Webhook({"/a": "a"})
    app.source(hook)
    async with app.open(log):
        await until(lambda: hook._door, "an open door")
        with traces.tracer.start_as_current_span("server"):
            await ask(hook, "/a", b"1", CARRIED)

    server = traces.one("server")
    assert [event.headers for event in of_kind(log, EventStored)] == [headers_of(server)]
    assert above(traces.one("receive webhook")) == id_of(server)


@pytest.mark.parametrize("given", [CARRIED, {}])
async def test_without_telemetry_no_context_is_stored_or_sent(given: dict[str, str]) -> None:
    """Headers of requests stay where they are, those of CloudEvents too."""
    app, log, hook = App("t"), MemoryLog(), Webhook({"/a": "a", "/ce": {"format": "cloudevents"}})
    app.source(hook)
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", **CARRIED}
    body = json.dumps(event).encode()
    async with serving() as server:
        app.rule(on("a"), name="go")(app.sink(HttpSink(server.url)).forward)
        async with app.open(log) as engine:
            await until(lambda: hook._door, "an open door")
            await ask(hook, "/a", b"1", given)
            await ask(hook, "/ce", body, STRUCTURED | given)
            await engine.drain()
        assert len(server.requests) == 1
        assert server.header("traceparent") == []

    assert [event.headers for event in of_kind(log, EventStored)] == [None, None]


# ---------------------------------------------------------------- what a source hands in


async def test_a_batch_has_links_to_its_senders(traces: Traces) -> None:
    """Events without a context go on with that of the span; those that have one keep it."""
    app, log, topic = traces.app(), MemoryLog(), Topic()

    class Carrying(Memory):
        async def run(self, intake: Any) -> None:
            from headrace import Emission

            assert intake.trace_of({"authorization": SECRET}.get) is None
            await intake.put(
                [
                    Emission("a", 1, headers=carried(1)),
                    Emission("a", 2),
                    Emission("a", 3, headers=carried(3)),
                    Emission("a", 4, headers=carried(1)),
                ]
            )
            await anyio.sleep_forever()

    app.source(Carrying(topic))
    heard = heard_by(app, "a")
    async with app.open(log) as engine:
        await until(lambda: len(heard) == 4, "four events")
        await engine.drain()

    receive = traces.one("receive memory")
    assert receive.parent is None
    assert sorted(linked_to(receive)) == [f"{1:016x}", f"{3:016x}"]
    assert said(receive)["messaging.batch.message_count"] == 4
    assert heard == [carried(1), headers_of(receive), carried(3), carried(1)]


async def test_a_context_that_nobody_sees_is_not_stored() -> None:
    """What is not sampled costs no bytes of the log, and a host's span is not in it either."""
    traces = Traces(sampler=ALWAYS_OFF)
    app, log, topic = traces.app(), MemoryLog(), Topic()
    app.source(Memory(topic))
    heard = heard_by(app, "a")
    with traces.tracer.start_as_current_span("host"):
        async with app.open(log):
            topic.publish(Message("a", 1))
            await until(lambda: heard, "an event")

    assert heard == [None]


async def test_sinks_of_others_can_send_the_context_too(traces: Traces) -> None:
    """`outgoing` is what goes with a message while it is sent, and nothing afterwards."""
    app, sent = traces.app(), list[dict[str, str]]()

    class Carrying(MemorySink):
        async def send(self, message: Message, *, key: str) -> None:
            sent.append(outgoing())

    app.rule(on("a"), name="go")(app.sink(Carrying(Topic())).forward)
    async with app.open(MemoryLog()) as engine:
        await engine.emit("a", 1)
        await engine.drain()

    assert sent == [headers_of(traces.one("send memory"))]
    assert outgoing() == {}


@pytest.mark.parametrize(
    "parent",
    [
        "", "00-1", CARRIED["traceparent"].upper(), "ff" + CARRIED["traceparent"][2:],
        CARRIED["traceparent"] + "-x", "\ud800", f"00-{'0' * 32}-{PARENT}-0g",
    ],
)  # fmt: skip
def test_what_is_no_context_is_passed_over(parent: str) -> None:
    """A message is not refused because of a header that nobody has asked for."""
    assert trace_headers({"traceparent": parent, "tracestate": "a=b"}.get) is None


@pytest.mark.parametrize("state", ["", "x" * 513, "a\nb", "ü"])
def test_a_state_that_cannot_be_stored_is_left_out(state: str) -> None:
    """The context holds without it."""
    found = trace_headers({**CARRIED, "tracestate": state}.get)
    assert found == {"traceparent": CARRIED["traceparent"]}


# ---------------------------------------------------------------- through servers


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as server:
        yield server


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsOnDisk]:
    with NatsOnDisk(tmp_path_factory.mktemp("nats")) as server:
        with Wire(server.port) as wire:
            wire.stream("JOBS", subjects=["jobs.>"])
        yield server


async def there_and_back(
    traces: Traces, source: Source, sink: Sink[Any, Any], subject: str, back: str
) -> dict[str, Any]:
    """Forward an event by *sink*, bring it in by *source*; return what is said of the sending.

    And below ``receive`` what is said of that.  All that happens is one trace.
    """
    app = traces.app()
    app.source(source)
    heard = heard_by(app, back)
    app.rule(on(subject), name="forward")(app.sink(sink).forward)
    async with app.open(MemoryLog()) as engine:
        await until(lambda: is_connected(engine), "a connection")
        await engine.emit(subject, {"secret": SECRET}, headers=CARRIED)
        await until(lambda: heard, "the event, back")
        await engine.drain()
    assert traces.trace_ids() == {TRACE}
    tree = traces.tree()
    send = f"send {sink.name}"
    assert tree[f"receive {source.name}"] == tree["run hear"] == send
    assert heard == [headers_of(traces.one(send)) | {"tracestate": "a=b"}]
    assert SECRET not in traces.text()
    kinds = [traces.one(name).kind for name in (send, f"receive {source.name}")]
    assert kinds == [SpanKind.PRODUCER, SpanKind.CONSUMER]
    return said(traces.one(send)) | {"receive": said(traces.one(f"receive {source.name}"))}


async def test_through_mqtt(traces: Traces, mosquitto: Mosquitto) -> None:
    """As user properties of MQTT 5, beside the idempotency key."""
    source = Mqtt(mosquitto.url, topics="mill/#", name="in", prefix="back")
    sink = MqttSink(mosquitto.url, name="out")

    found = await there_and_back(traces, source, sink, "mill.fan", "back.mill.fan")

    assert found["messaging.system"] == "mqtt"
    assert found["messaging.destination.name"] == "mill/fan"
    assert found["messaging.operation.name"] == found["messaging.operation.type"] == "send"
    assert found["receive"]["messaging.operation.type"] == "receive"


async def test_mqtt_3_carries_none(traces: Traces, mosquitto: Mosquitto) -> None:
    """It has no place for it; the message is sent all the same."""
    app = traces.app()
    app.source(Mqtt(mosquitto.url, topics="old/#", version=4))
    heard = heard_by(app, "mqtt.old.fan")
    sink = app.sink(MqttSink(mosquitto.url, version=4, name="out"))
    app.rule(on("old.fan"), name="go")(sink.forward)
    async with app.open(MemoryLog()) as engine:
        await until(lambda: is_connected(engine), "a connection")
        await engine.emit("old.fan", 1, headers=CARRIED)
        await until(lambda: heard, "the event, back")

    assert heard == [headers_of(traces.one("receive mqtt"))]


async def test_through_jetstream(traces: Traces, nats: NatsOnDisk) -> None:
    """As headers of the message, which the stream keeps."""
    source = JetStream(nats.url, "JOBS", name="in", prefix="back")
    sink = NatsSink(nats.url, name="out")

    found = await there_and_back(traces, source, sink, "jobs.a", "back.jobs.a")

    assert found["messaging.system"] == "nats"
    assert found["messaging.destination.name"] == "jobs.a"
    assert found["receive"]["messaging.destination.name"] == "JOBS"


async def test_through_core_nats(traces: Traces, nats: NatsOnDisk) -> None:
    """As headers of the message."""
    source = Nats(nats.url, "plain.>", name="in", prefix="back")
    sink = NatsSink(nats.url, name="out", jetstream=False)

    await there_and_back(traces, source, sink, "plain.a", "back.plain.a")


async def test_through_redis(traces: Traces, tmp_path: Path) -> None:
    """As fields of the entry."""
    server = RedisServer(tmp_path)
    server.start()
    try:
        source = RedisStream(server.url, "jobs", name="in", subject="back.jobs")
        sink = RedisStreamSink(server.url, "jobs", name="out")
        found = await there_and_back(traces, source, sink, "jobs.a", "back.jobs")
    finally:
        server.kill()

    assert found["messaging.system"] == "redis"
    assert found["messaging.destination.name"] == "jobs"
    assert found["receive"]["messaging.destination.name"] == "jobs"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_through_kafka(traces: Traces) -> None:
    """As headers of the record."""
    mock = KafkaMock()
    mock.start()
    try:
        topic = await new_topic(mock)
        source = Kafka(mock.servers, [topic], name="in", subject="back")
        sink = KafkaSink(mock.servers, topic, name="out")
        found = await there_and_back(traces, source, sink, "jobs.a", "back")
    finally:
        mock.kill()

    assert found["messaging.system"] == "kafka"
    assert found["messaging.destination.name"] == topic
    assert found["receive"]["messaging.destination.name"] == topic
