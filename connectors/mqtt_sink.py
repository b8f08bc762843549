"""`MqttSink`: publishes messages, each taken by the server before its step is done."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec import Struct

from headrace.connectors.backoff import Backoff
from headrace.connectors.checks import check_flag, check_maybe_text, check_number, check_one_of
from headrace.connectors.mqtt_events import ID_PROPERTY
from headrace.connectors.mqtt_link import FAILURE, Link, linked
from headrace.connectors.mqtt_server import QOS, LinkLost, MqttServer, client_id_of
from headrace.connectors.mqtt_topics import check_topic, subject_to_topic
from headrace.connectors.protocol import SinkRefused, SinkUnavailable
from headrace.connectors.trace_context import outgoing
from headrace.engine.diagnostics import logger

REFUSED: Final = frozenset({0x87, 0x90, 0x95, 0x99, 0x9A, 0x9B})
"""Reasons that would be the same the next time: not authorized, an invalid name and the like."""
FORMS: Final = ("json", "msgpack", "text")
PAYLOAD_BYTES_MAX: Final = 268_435_455 - 70_000
"""Of a packet with the longest topic (MQTT 5, 1.5.5)."""

PACKET_ROOM_BYTES: Final = 1024
"""What a packet may have beside its topic and its payload: its head, and the idempotency key."""


class MqttMessage(Struct, frozen=True):
    """What is published."""

    topic: str
    payload: Any = None
    """Bytes go as they are, ``None`` as none; all else as the sink's `payload` says: as JSON."""
    qos: int | None = None
    """0, 1 or 2; ``None``: the sink's."""
    retain: bool | None = None
    """Whether the server keeps it for subscribers to come; ``None``: as the sink has it."""


class MqttSink:
    """Publishes to an MQTT server.

    With QoS 1 and 2 a message counts as sent once the server has acknowledged it; one that was
    cut off is sent again, so it may be there twice, with the same `id_property` (MQTT 5).  With
    QoS 0 it counts once it was handed to the network.
    """

    message_type: Any = MqttMessage
    messaging_system = "mqtt"
    result_type: Any = None

    def __init__(
        self,
        url: str,
        *,
        name: str = "mqtt",
        qos: int = 1,
        retain: bool = False,
        version: int = 5,
        prefix: str = "",
        payload: Literal["json", "msgpack", "text"] = "json",
        client_id: str | None = None,
        in_flight_max: int = 100,
        send_timeout_s: float = 30.0,
        id_property: str | None = ID_PROPERTY,
        user: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        keepalive_s: float = 15.0,
        timeout_s: float = 5.0,
        will: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish to the server at *url*; *name* is that of the task that sends.

        Raises:
            ConnectorError, TypeError, ValueError: a setting is none; docs/connectors/mqtt.md
                says what each is for.
        """
        self.name = name
        place = f"mqtt sink {name!r}"
        self.server = MqttServer(
            place, url, version=version, user=user, password=password, ca_file=ca_file,
            cert_file=cert_file, key_file=key_file, keepalive_s=keepalive_s,
            timeout_s=timeout_s, will=will,
        )  # fmt: skip
        self.qos: int = check_one_of(place, "qos", qos, QOS)
        self.retain = check_flag(place, "retain", retain)
        self.prefix = check_maybe_text(place, "prefix", prefix) or ""
        self.payload: str = check_one_of(place, "payload", payload, FORMS)
        self.client_id = client_id_of(place, client_id, "")
        self.in_flight_max = check_number(place, "in_flight_max", in_flight_max, 1, 65_535)
        self.send_timeout_s = check_number(place, "send_timeout_s", send_timeout_s, 0.1, 3600.0)
        self.id_property = check_maybe_text(place, "id_property", id_property)
        self._outbox: _Outbox | None = None

    def __repr__(self) -> str:
        """Name it, without its secrets."""
        return f"<MqttSink {self.name} {self.server.shown}>"

    async def __aenter__(self) -> Self:
        """Begin to connect, and to try that again while the server is gone."""
        self._outbox = _Outbox(self)
        await self._outbox.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Say farewell to the server."""
        outbox, self._outbox = self._outbox, None
        assert outbox is not None, "it was entered"
        return await outbox.__aexit__(exc_type, exc, traceback)

    def message_of(self, subject: str, data: Any) -> MqttMessage:
        """Return the message of an event: its subject, but for `prefix`, is the topic."""
        return MqttMessage(subject_to_topic(subject, self.prefix), data)

    def destination_of(self, message: MqttMessage) -> str:
        """Return the topic that *message* is published to."""
        return message.topic

    async def send(self, message: MqttMessage, *, key: str) -> None:
        """Publish *message*; return once the server has it.

        Raises:
            SinkRefused: its topic is none, or the server does not allow it.
            SinkUnavailable: the server is gone, or does not take it now.
        """
        assert self._outbox is not None, "it was entered"
        qos = self.qos if message.qos is None else message.qos
        retain = self.retain if message.retain is None else message.retain
        place = self.server.place
        try:
            check_topic(message.topic)
            check_one_of(place, "qos", qos, QOS)
            check_flag(place, "retain", retain)
            payload = self._bytes_of(message.payload)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise SinkRefused(f"{place}: {error}") from None
        try:
            with anyio.fail_after(self.send_timeout_s):
                await self._outbox.publish(message.topic, payload, qos, retain=retain, key=key)
        except LinkLost as error:
            raise SinkUnavailable(str(error)) from None
        except TimeoutError:
            last = self._outbox.error
            found = "none" if last is None else str(last)
            raise SinkUnavailable(
                f"{self.server.at()}: expected an answer within {self.send_timeout_s:g} s, "
                f"found {found}"
            ) from None

    def _bytes_of(self, payload: Any) -> bytes:
        if payload is None:
            found = b""
        elif isinstance(payload, bytes | bytearray | memoryview):
            found = bytes(payload)
        elif self.payload == "msgpack":
            found = msgspec.msgpack.encode(payload)
        elif self.payload == "text":
            found = (payload if isinstance(payload, str) else str(payload)).encode()
        else:
            found = msgspec.json.encode(payload)
        if len(found) > PAYLOAD_BYTES_MAX:
            raise ValueError(
                f"payload: expected at most {PAYLOAD_BYTES_MAX} bytes, found {len(found)}"
            )
        return found


class _Answer:
    """What the server says of a message."""

    def __init__(self) -> None:
        self.came = anyio.Event()
        self.code = 0
        self.reason = ""
        self.error: LinkLost | None = None


class _Outbox:
    """The `Owner` of the connections of a sink, and what waits for answers."""

    def __init__(self, sink: MqttSink) -> None:
        self.error: LinkLost | None = None
        """Why there was no connection the last time."""
        self._sink = sink
        self._link: Link | None = None
        self._linked = anyio.Event()
        self._answers: dict[int, _Answer] = {}
        self._room = anyio.Semaphore(sink.in_flight_max)
        """How many more may be on their way."""
        self._group: TaskGroup

    async def __aenter__(self) -> None:
        self._group = await anyio.create_task_group().__aenter__()
        self._group.start_soon(self._stay_connected, name=f"headrace mqtt sink {self._sink.name}")

    async def __aexit__(self, *error: Any) -> bool | None:
        self._group.cancel_scope.cancel()
        return await self._group.__aexit__(*error)

    async def _stay_connected(self) -> None:
        backoff, sink, log = Backoff(), self._sink, logger().bind(sink=self._sink.name)
        while True:
            began_s = anyio.current_time()
            try:
                async with linked(
                    sink.server, self, client_id=sink.client_id, in_flight_max=65_535
                ) as link:
                    allowed = int(link.limits.get("ReceiveMaximum", 65_535))
                    self._room = anyio.Semaphore(min(sink.in_flight_max, allowed))
                    self._link, self.error = link, None
                    self._linked.set()
                    log.info("sink_connected", server=sink.server.shown)
                    await link.over.wait()
                    if link.error is not None:
                        raise link.error
            except LinkLost as error:
                if self.error is None:
                    log.warning("sink_lost", error=str(error))
                self.error = error
            backoff.reset(held_s=anyio.current_time() - began_s)
            await backoff.wait()

    async def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        *,
        retain: bool,
        key: str,
    ) -> None:
        """Publish a message; return once the server has it."""
        while self._link is None:
            await self._linked.wait()
        async with self._room:
            await self._publish(topic, payload, qos, retain=retain, key=key)

    async def _publish(
        self, topic: str, payload: bytes, qos: int, *, retain: bool, key: str
    ) -> None:
        link = self._link
        if link is None:
            raise self.error or LinkLost(f"{self._sink.server.at()}: the connection was lost")
        self._check(link, len(topic.encode()) + len(payload), qos, retain=retain)
        info = link.client.publish(topic, payload, qos, retain, properties=self._properties(key))
        if link.error is not None:
            raise link.error
        if qos == 0:
            await link.flushed()
            return
        answer = self._answers[info.mid] = _Answer()
        try:
            await answer.came.wait()
        finally:
            if self._answers.get(info.mid) is answer:
                del self._answers[info.mid]
        if answer.error is not None:
            raise answer.error
        if answer.code >= FAILURE:
            kind = SinkRefused if answer.code in REFUSED else SinkUnavailable
            raise kind(
                f"{link.server.at()}: the server does not take a message to {topic!r}: "
                f"{answer.reason}"
            )

    def _check(self, link: Link, size: int, qos: int, *, retain: bool) -> None:
        """Refuse what the server would answer with the end of the connection."""
        limits, at = link.limits, link.server.at()
        if qos > limits.get("MaximumQoS", 2):
            raise SinkRefused(f"{at}: found a message of QoS {qos}; the server does not take it")
        if retain and not limits.get("RetainAvailable", 1):
            raise SinkRefused(f"{at}: found a message to retain; the server does not do that")
        most = limits.get("MaximumPacketSize")
        if most is not None and size + PACKET_ROOM_BYTES > most:
            raise SinkRefused(
                f"{at}: expected a message of at most {most - PACKET_ROOM_BYTES} bytes with its "
                f"topic, found {size}; the server takes no larger ones"
            )

    def _properties(self, key: str) -> Any:
        if self._sink.server.version == 4:
            return None
        pairs = list(outgoing().items())
        if self._sink.id_property:
            pairs.append((self._sink.id_property, key))
        if not pairs:
            return None
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        for pair in pairs:
            properties.UserProperty = pair  # each is added to those before
        return properties

    # ------------------------------------------------------------ see `Owner`

    def is_full(self) -> bool:
        """Answers are few."""
        return False

    def received(self, message: Any) -> None:
        """A sink has subscribed to nothing."""

    def released(self, mid: int) -> None:
        """A sink has received nothing."""

    def subscribed(self, codes: list[int]) -> None:
        """A sink has subscribed to nothing."""

    def published(self, mid: int, code: int, reason: str) -> None:
        """See `Owner`."""
        answer = self._answers.get(mid)
        if answer is not None:
            answer.code, answer.reason = code, reason
            answer.came.set()

    def ended(self, error: LinkLost) -> None:
        """See `Owner`."""
        if self._link is not None:
            self._link, self._linked = None, anyio.Event()
        for answer in self._answers.values():
            answer.error = error
            answer.came.set()
