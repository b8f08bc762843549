"""`Mqtt` and `MqttSink` against a real mosquitto: what the contract of all sources does not ask."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from tests.connectors.mosquitto import Listener, Mosquitto, Publisher, free_port
from tests.needs import program

from headrace import App, Engine, Firing, MemoryLog, on
from headrace.cli.apps import load
from headrace.connectors.feeder import Feeder
from headrace.connectors.intake import SourceStatus
from headrace.connectors.mqtt import Mqtt, MqttMessage, MqttSink
from headrace.connectors.protocol import ConnectorError, SinkRefused, SinkUnavailable
from headrace.testing.lives import Kept, Life, Lives, until

pytestmark = pytest.mark.slow

PASSWORD = "s3cr3t-pa55"
ACL = "user ann\ntopic readwrite plant/#\ntopic readwrite last/#\n"
CONNACK = b"\x20\x03\x00\x00\x00"
SUBACK = b"\x90\x04\x00\x01\x00\x01"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The contract runs on trio as well."""
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A server that knows `ann` alone, and lets her see the plant alone."""
    folder = tmp_path_factory.mktemp("guarded")
    passwords, acl = folder / "passwords", folder / "acl"
    tool = program("mosquitto_passwd", package="mosquitto", need="mosquitto")
    subprocess.run([tool, "-c", "-b", passwords, "ann", PASSWORD], check=True, capture_output=True)
    acl.write_text(ACL)
    settings = ["allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}"]
    with Mosquitto(folder, settings=settings) as server:
        yield server


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """One that no other test uses."""
    return re.sub(r"\W", "-", request.node.name)


def source(server: Mosquitto, topic: str, **options: Any) -> Mqtt:
    given: dict[str, Any] = {"topics": [f"{topic}/#"], "client_id": topic} | options
    return Mqtt(server.url, **given)


async def connected(life: Life) -> None:
    await until(lambda: life.status.state == "connected", "a connection", within_s=10)


async def publish(server: Mosquitto, *messages: tuple[str, Any], **options: Any) -> None:
    def work() -> None:
        with Publisher(server) as publisher:
            for topic, payload in messages:
                publisher.publish(topic, payload, **options)
            publisher.settle()

    await anyio.to_thread.run_sync(work)


@asynccontextmanager
async def at_work(made: Callable[[], Mqtt]) -> AsyncGenerator[tuple[Life, Lives], None]:
    lives = Lives(made, MemoryLog())
    async with lives.life() as life:
        await connected(life)
        yield life, lives


async def stored(lives: Lives, count: int) -> list[Kept]:
    await until(lambda: len(lives.kept()) >= count, f"{count} events", within_s=10)
    return lives.kept()


def app_status(engine: Engine) -> SourceStatus:
    (companion,) = engine.companions
    assert isinstance(companion, Feeder)
    return companion.status


async def failure_of(made: Mqtt) -> str:
    with anyio.fail_after(10), pytest.raises(ConnectorError) as caught:
        app = App("plant")
        app.source(made)
        async with app.open(MemoryLog()):
            await anyio.sleep_forever()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------ messages as events


async def test_topics_become_subjects_and_payloads_data(server: Mosquitto, topic: str) -> None:
    """Also those with dots and empty levels; an empty payload is no data."""
    async with at_work(lambda: source(server, topic, prefix="p")) as (_, lives):
        await publish(server, (f"{topic}/v1.2//x y", '{"c": 93}'), (f"{topic}/e", b""))
        one, two = await stored(lives, 2)
    assert (one.subject, one.data) == (f"p.{topic}.v1%2E2.%.x%20y", {"c": 93})
    assert (two.subject, two.data) == (f"p.{topic}.e", None)


async def test_envelope_has_all_that_mqtt_says(server: Mosquitto, topic: str) -> None:
    """For rules that need more than the payload."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.UserProperty = [("unit", "C"), ("unit", "K")]
    properties.ContentType = "application/json"
    properties.ResponseTopic = "answers"
    properties.CorrelationData = b"\x07"
    async with at_work(lambda: source(server, topic, envelope=True)) as (_, lives):
        await publish(server, (f"{topic}/a", "1"), properties=properties)
        (event,) = await stored(lives, 1)
    assert event.data == {
        "topic": f"{topic}/a", "payload": 1, "qos": 1, "retained": False, "duplicate": False,
        "properties": {"unit": ["C", "K"]}, "content_type": "application/json",
        "response_topic": "answers", "correlation": b"\x07",
    }  # fmt: skip


async def test_what_is_no_event_is_refused_and_the_next_goes_on(
    server: Mosquitto, topic: str
) -> None:
    """Malformed, too large, on a topic that is too long: kept with a reason, not sent again."""
    async with at_work(lambda: source(server, topic)) as (life, lives):
        await publish(
            server,
            (f"{topic}/a", "{"),
            (f"{topic}/" + "x" * 600, "1"),
            (f"{topic}/b", json.dumps("y" * 1_100_000)),
            (f"{topic}/c", "3"),
        )
        events = await stored(lives, 4)
        assert life.status.refused == 3
    assert [event.data["place"][: len(topic) + 2] for event in events[:3]] == [
        f"{topic}/a", f"{topic}/x", f"mqtt.{topic}/b"[: len(topic) + 2],
    ]  # fmt: skip
    assert "expected JSON" in events[0].data["reason"]
    assert "500 characters" in events[1].data["reason"]
    assert events[3].data == 3


async def test_retained_messages_are_marked_and_come_once(server: Mosquitto, topic: str) -> None:
    """By the name of their source; a second connection of the session does not bring them anew."""
    await publish(server, (f"{topic}/a", "1"), retain=True)
    seen: list[str] = []
    app = App("plant")
    app.source(source(server, topic))

    @app.rule(on(f"mqtt.{topic}.*"))
    async def look(firing: Firing[Any]) -> None:
        seen.append(firing.events[-1].source)

    log = MemoryLog()
    for wanted in (2, 3):
        async with app.open(log) as engine:
            status = app_status(engine)
            await until(lambda: status.state == "connected", "a connection", within_s=10)  # noqa: B023
            await publish(server, (f"{topic}/b", "2"))
            await until(lambda: len(seen) >= wanted, "events", within_s=10)  # noqa: B023
            await engine.drain()
    assert sorted(seen) == ["mqtt", "mqtt", "mqtt.retained"]


@pytest.mark.parametrize("version", [4, 5])
async def test_retained_messages_can_be_left_out(
    server: Mosquitto, topic: str, version: int
) -> None:
    """They are of the past; those of now come."""
    await publish(server, (f"{topic}/a", "1"), retain=True)
    made = lambda: source(server, topic, retained="skip", version=version)  # noqa: E731
    async with at_work(made) as (_, lives):
        await publish(server, (f"{topic}/b", "2"))
        (event,) = await stored(lives, 1)
    assert event.data == 2


async def test_shared_subscription_gives_each_message_to_one(server: Mosquitto, topic: str) -> None:
    """Two sources of a group share the work."""
    made = [
        Mqtt(server.url, topics=f"$share/g/{topic}/#", client_id=f"{topic}{n}") for n in range(2)
    ]
    async with at_work(lambda: made[0]) as (_, one), at_work(lambda: made[1]) as (_, two):
        await publish(server, *((f"{topic}/a", str(n)) for n in range(20)))
        await until(lambda: len(one.kept()) + len(two.kept()) >= 20, "all", within_s=10)
        both = [[event.data for event in lives.kept()] for lives in (one, two)]
    assert sorted(both[0] + both[1]) == list(range(20))
    assert all(both)


async def test_will_is_published_when_the_connection_breaks(server: Mosquitto, topic: str) -> None:
    """By the server, since nobody said farewell."""
    will = {"topic": f"{topic}/gone", "payload": {"who": "a"}, "qos": 1}
    async with at_work(lambda: source(server, topic)) as (_, lives):
        dying = MqttSink(server.url, will=will)
        async with dying:
            await dying.send(MqttMessage(f"{topic}/here", 1), key="k1")
            assert dying._outbox is not None
            assert dying._outbox._link is not None
            await anyio.aclose_forcefully(dying._outbox._link._stream)
            here, gone = await stored(lives, 2)
    assert (here.data, gone.data) == (1, {"who": "a"})


async def test_message_of_a_sink_is_stored_once_however_often_it_comes(
    server: Mosquitto, topic: str
) -> None:
    """MQTT 5: the idempotency key is the identity of the event."""
    async with at_work(lambda: source(server, topic)) as (life, lives):
        async with MqttSink(server.url) as sink:
            for key in ("k1", "k1", "k2"):
                await sink.send(MqttMessage(f"{topic}/a", 1), key=key)
        await until(lambda: life.status.duplicates == 1, "a duplicate", within_s=10)
        assert [event.id for event in await stored(lives, 2)] == ["k1", "k2"]


# ------------------------------------------------------------------ when things go wrong


@pytest.mark.parametrize("version", [4, 5])
async def test_wrong_credentials_end_it(guarded: Mosquitto, version: int) -> None:
    """In one line, without the password."""
    said = await failure_of(source(guarded, "plant", version=version, user="ann", password="s3xx"))
    assert "refused the connection" in said
    assert "s3xx" not in said


@pytest.mark.parametrize("version", [4, 5])
async def test_subscription_that_is_refused_ends_it(
    server: Mosquitto, guarded: Mosquitto, version: int
) -> None:
    """And the filter is named.  (mosquitto has no such rule: a server that says so stands in.)"""
    answers = {4: (b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x80"),
               5: (CONNACK, b"\x90\x04\x00\x01\x00\x87")}[version]  # fmt: skip
    async with standing_in(answers) as port:
        made = Mqtt(f"mqtt://127.0.0.1:{port}", topics=["secret/#"], version=version)
        said = await failure_of(made)
    assert "'secret/#'" in said


async def test_password_may_stand_in_the_address_and_is_never_shown(guarded: Mosquitto) -> None:
    """Neither by the source nor by an error."""
    url = guarded.url.replace("//", f"//ann:{PASSWORD}@")
    made = Mqtt(url, topics=["plant/#"], client_id="masked")
    async with at_work(lambda: made):
        pass
    sink = MqttSink(url)
    for shown in (repr(made), repr(sink), repr(made.server)):
        assert PASSWORD not in shown
        assert "***" in shown


@asynccontextmanager
async def standing_in(answers: tuple[bytes, ...]) -> AsyncGenerator[int, None]:
    """A server that says one thing to each packet that comes, and then nothing more."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            try:
                for answer in answers:
                    await stream.receive()
                    await stream.send(answer)
                while True:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown\r\n", b"\x15\x03\x01\x00\x02"]
)
async def test_server_of_another_protocol_ends_it(answer: bytes) -> None:
    """And what it says is shown."""
    async with standing_in((answer,)) as port:
        said = await failure_of(Mqtt(f"mqtt://127.0.0.1:{port}", topics=["a"]))
    assert "expected an MQTT server, found one that says" in said


async def test_half_open_connection_is_noticed() -> None:
    """A server that says nothing for twice `keepalive_s` counts as gone."""
    async with standing_in((CONNACK, SUBACK)) as port:
        made = Mqtt(f"mqtt://127.0.0.1:{port}", topics=["a"], keepalive_s=1)
        lives = Lives(lambda: made, MemoryLog())
        async with lives.life() as life:
            await connected(life)
            await until(lambda: life.status.state == "lost", "a loss", within_s=3)
            assert "no answer for" in life.status.error


async def test_two_clients_of_one_name_are_told(server: Mosquitto, topic: str) -> None:
    """They would take the session from each other for ever."""
    one, two = (at_work(lambda: source(server, topic)) for _ in range(2))
    async with one as (life, _), two:
        await until(lambda: "same client_id" in life.status.error, "a reason", within_s=10)


async def test_clean_stop_under_load_makes_no_duplicates(server: Mosquitto, topic: str) -> None:
    """What is being stored when it is stopped is acknowledged before it ends."""
    lives = Lives(lambda: source(server, topic, in_flight_max=10), MemoryLog())
    async with lives.life() as life:
        await connected(life)
    count, stopped_early = 1000, 0
    await publish(server, *((f"{topic}/a", str(n)) for n in range(count)))
    for turn in range(8):
        async with lives.life() as life:
            await until(
                lambda: life.status.stored > turn or len(lives.kept()) >= count,  # noqa: B023
                "events",
                within_s=10,
            )
        stopped_early += len(lives.kept()) < count
    assert stopped_early > 0
    async with lives.life():
        await until(lambda: len(lives.kept()) >= count, "all", within_s=10)
        assert sorted(event.data for event in lives.kept()) == list(range(count))


# ------------------------------------------------------------------ TLS


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority, and a certificate for 127.0.0.1 that it has signed."""
    openssl = str(program("openssl", package="openssl"))
    ca, key, cert = folder / "ca.pem", folder / "key.pem", folder / "cert.pem"
    ca_key, request, names = folder / "ca.key", folder / "request.pem", folder / "names"
    names.write_text("subjectAltName=IP:127.0.0.1\n")
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *new, "-keyout", ca_key, "-out", ca, "-subj", "/CN=ours", "-days", "2",
         "-addext", "keyUsage=critical,keyCertSign"],
        ["req", *new, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out",
         cert, "-days", "2", "-extfile", names],
    ):  # fmt: skip
        subprocess.run([openssl, *map(str, command)], check=True, capture_output=True)
    return ca, cert, key


async def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    """The server is known by an authority of one's own, and knows us by it; others are refused."""
    ca, cert, key = map(str, certificates(tmp_path))
    tls = f"cafile {ca}\ncertfile {cert}\nkeyfile {key}\nrequire_certificate true"
    with Mosquitto(tmp_path, tls=tls) as server:
        made = Mqtt(
            server.url, topics=["a"], client_id="tls", ca_file=ca, cert_file=cert, key_file=key
        )
        async with at_work(lambda: made) as (_, lives):
            async with MqttSink(server.url, ca_file=ca, cert_file=cert, key_file=key) as sink:
                await sink.send(MqttMessage("a", 1), key="k")
            assert (await stored(lives, 1))[0].data == 1
        said = await failure_of(Mqtt(server.url, topics=["a"]))
        assert "expected a certificate" in said
    with pytest.raises(ConnectorError, match=r"ca_file: expected a PEM file"):
        Mqtt("mqtts://localhost", topics=["a"], ca_file=str(tmp_path / "nowhere.pem"))


async def test_tls_spoken_to_a_server_without(server: Mosquitto) -> None:
    """It hangs up without a word, so that is what is said; the source goes on trying."""
    made = Mqtt(server.url.replace("mqtt:", "mqtts:"), topics=["a"])
    async with Lives(lambda: made, MemoryLog()).life() as life:
        await until(lambda: life.status.state == "lost", "a loss", within_s=10)
        assert "cannot connect" in life.status.error


# ------------------------------------------------------------------ the sink


async def test_sink_sends_by_its_settings_or_those_of_the_message(
    server: Mosquitto, topic: str
) -> None:
    """QoS, retain, and the form of what is no bytes."""
    listener = Listener(server, f"{topic}/#")
    try:
        for qos in (0, 1, 2):
            async with MqttSink(server.url, qos=qos, payload="text") as sink:
                await sink.send(MqttMessage(f"{topic}/{qos}", "ON"), key="k")
                await sink.send(MqttMessage(f"{topic}/{qos}", b"\x00"), key="k")
                await sink.send(sink.message_of(f"{topic}.f", None), key="k")
        heard = await anyio.to_thread.run_sync(listener.all)
    finally:
        listener.close()
    assert [(t.rpartition("/")[2], p) for t, p, _ in heard] == [
        (name, payload) for q in "012" for name, payload in ((q, b"ON"), (q, b"\0"), ("f", b""))
    ]


@pytest.mark.parametrize("qos", [1, 2])
async def test_message_that_the_server_does_not_allow_is_refused(
    guarded: Mosquitto, qos: int
) -> None:
    """With its reason, also for QoS 2, where paho goes on as if nothing was said."""
    async with MqttSink(guarded.url, user="ann", password=PASSWORD, qos=qos) as sink:
        with pytest.raises(SinkRefused, match="Not authorized"):
            await sink.send(MqttMessage("secret/a", 1), key="k")
        with anyio.fail_after(10):
            while True:
                try:
                    await sink.send(MqttMessage("plant/a", 1), key="k")
                    break
                except SinkUnavailable:
                    pass  # mosquitto 2.0 closes the connection behind its answer


async def test_sink_without_a_server_says_what_it_found() -> None:
    """For the retry policy: the next attempt may find one."""
    async with MqttSink(f"mqtt://127.0.0.1:{free_port()}", send_timeout_s=0.3) as sink:
        with pytest.raises(SinkUnavailable, match=r"within 0.3 s, found .*cannot connect"):
            await sink.send(MqttMessage("a", 1), key="k")


@pytest.mark.parametrize(
    "message", [MqttMessage("a/+"), MqttMessage(""), MqttMessage("a", qos=3), MqttMessage("a", 1j)]
)
async def test_message_that_is_none_is_refused(server: Mosquitto, message: MqttMessage) -> None:
    """At once, whether or not there is a server."""
    async with MqttSink(server.url) as sink:
        with pytest.raises(SinkRefused):
            await sink.send(message, key="k")


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"topics": []}, "topics: expected at least one"),
        ({"topics": ["a/#/b"]}, "topics: topic filter 'a/#/b', character 3"),
        ({"topics": 5}, "topics: expected topic filters, found 5"),
        ({"qos": 3}, "qos: expected 0 or 1 or 2, found 3"),
        ({"qos": True}, "qos: expected 0 or 1 or 2, found True"),
        ({"version": 3}, "version: expected 4 or 5 (3.1.1 is 4), found 3"),
        ({"prefix": "a..b"}, "prefix: subject"),
        ({"payload": "xml"}, "payload: expected json"),
        ({"retained": "maybe"}, "retained: expected 'take' or 'skip'"),
        ({"client_id": ""}, "client_id: expected 1 to"),
        ({"in_flight_max": 0}, "in_flight_max: expected a whole number from 1 to 65 535, found 0"),
        (
            {"in_flight_max": 1.5},
            "in_flight_max: expected a whole number from 1 to 65 535, found 1.5",
        ),
        ({"session_expiry_s": -1}, "session_expiry_s: expected a whole number from 0 to"),
        ({"keepalive_s": "15"}, "keepalive_s: expected a number from 1 to 65 535, found '15'"),
        ({"envelope": 1}, "envelope: expected true or false, found 1"),
        ({"password": 5}, "password: expected a text, found int"),
        ({"ca_file": "x"}, "ca_file: expected an address mqtts://"),
        ({"will": {"payload": "x"}}, "will: expected topic, payload, qos, retain; found no topic"),
        ({"will": {"topic": "a", "x": 1}}, "found 'x'"),
        ({"url": "http://h"}, "expected an address such as mqtt://localhost"),
    ],
)
def test_settings_that_cannot_work_are_found_at_once(options: dict[str, Any], said: str) -> None:
    """With the place, what was expected and what was found."""
    given: dict[str, Any] = {"url": "mqtt://localhost", "topics": ["a"], "name": "line"} | options
    with pytest.raises((ValueError, TypeError, ConnectorError)) as caught:
        Mqtt(given.pop("url"), **given)
    assert said in str(caught.value)
    assert str(caught.value).startswith("mqtt source 'line'")


@pytest.mark.parametrize(
    ("options", "promise"),
    [({}, "at least once"), ({"qos": 2}, "at least once"), ({"qos": 0}, "at most once"),
     ({"session_expiry_s": 0}, "at most once")],
)  # fmt: skip
def test_promise_goes_by_the_settings(options: dict[str, Any], promise: str) -> None:
    """Without a session the server keeps nothing for a source that is away."""
    assert Mqtt("mqtt://localhost", topics=["a"], **options).promise == promise


# ------------------------------------------------------------------ the page


async def test_example_of_the_page_works(tmp_path: Path) -> None:
    """As it stands, but for the port of the server."""
    page = Path(__file__).parents[2] / "docs" / "connectors" / "mqtt.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    with Mosquitto(tmp_path) as server:
        listener = Listener(server, "plant/+/fan")
        (tmp_path / "page.py").write_text(code.replace("mqtt://localhost:1883", server.url))
        app = load(str(tmp_path / "page.py:app"))
        try:
            async with app.open(MemoryLog()) as engine:
                status = app_status(engine)
                await until(lambda: status.state == "connected", "a connection", within_s=10)
                await publish(server, ("plant/t1/temperature", '{"celsius": 93}'))
                await until(lambda: status.stored == 1, "an event", within_s=10)
                await engine.drain()
            heard = await anyio.to_thread.run_sync(listener.all)
        finally:
            listener.close()
    assert [(topic, payload) for topic, payload, _ in heard] == [("plant/t1/fan", b'{"on":true}')]


def test_page_names_all_settings() -> None:
    """Of the source and of the sink, with the defaults that they have."""
    page = (Path(__file__).parents[2] / "docs" / "connectors" / "mqtt.md").read_text()
    for made in (Mqtt, MqttSink):
        for name in list(inspect.signature(made).parameters):
            assert f"`{name}`" in page, name
