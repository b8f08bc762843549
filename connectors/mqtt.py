"""`Mqtt` and `MqttSink`: events from the topics of an MQTT server, and messages to them.

MQTT 5 and 3.1.1.  See docs/connectors/mqtt.md.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

from headrace.connectors.backoff import Backoff
from headrace.connectors.checks import check_number, check_one_of
from headrace.connectors.intake import Intake
from headrace.connectors.mqtt_events import ID_PROPERTY, MqttReceived, Translator
from headrace.connectors.mqtt_inbox import Inbox, Retained, Wanted
from headrace.connectors.mqtt_link import Link, linked
from headrace.connectors.mqtt_server import QOS, LinkLost, LinkRefused, MqttServer, client_id_of
from headrace.connectors.mqtt_sink import MqttMessage, MqttSink
from headrace.connectors.mqtt_topics import (
    PREFIX,
    check_filter,
    check_topic,
    filter_matches,
    subject_to_topic,
    topic_to_subject,
)
from headrace.connectors.payloads import Payload
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError
from headrace.engine.resources import sole

__all__ = [
    "Mqtt",
    "MqttMessage",
    "MqttReceived",
    "MqttSink",
    "check_filter",
    "check_topic",
    "filter_matches",
    "subject_to_topic",
    "topic_to_subject",
]

IN_FLIGHT_MAX: Final = 1000
SESSION_EXPIRY_S: Final = 7 * 86_400
STOP_S: Final = 0.5
"""Seconds that a source which is cancelled waits for what is being stored, to acknowledge it."""


class Mqtt:
    """Messages of MQTT topics as events.

    QoS 1 and 2, with a session: at least once.  The server keeps what it has not heard of as
    stored, so nothing is lost by a crash of either; MQTT gives messages no identity, so those
    that were in flight then may be there twice, but for those of MQTT 5 that have the user
    property `id_property`.  QoS 2 has a number that lasts as long as this process: a lost
    connection alone makes no duplicates.  QoS 0, or no session: at most once.
    """

    messaging_system = "mqtt"

    def __init__(
        self,
        url: str,
        *,
        topics: str | Sequence[str],
        name: str = "mqtt",
        qos: int = 1,
        version: int = 5,
        prefix: str = PREFIX,
        payload: Payload = "json",
        envelope: bool = False,
        retained: Retained = "take",
        client_id: str | None = None,
        session_expiry_s: int = SESSION_EXPIRY_S,
        in_flight_max: int = IN_FLIGHT_MAX,
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
        """Take from *topics*, which are topic filters, of the server at *url*.

        Raises:
            ConnectorError, TypeError, ValueError: a setting is none; docs/connectors/mqtt.md
                says what each is for.
        """
        self.name = name
        place = f"mqtt source {name!r}"
        self.server = MqttServer(
            place, url, version=version, user=user, password=password, ca_file=ca_file,
            cert_file=cert_file, key_file=key_file, keepalive_s=keepalive_s,
            timeout_s=timeout_s, will=will,
        )  # fmt: skip
        filters = _filters(place, topics)
        self.wanted = Wanted(
            topics=filters,
            qos=check_one_of(place, "qos", qos, QOS),
            retained=check_one_of(place, "retained", retained, ("take", "skip")),
            client_id=client_id_of(place, client_id, f"headrace-{name}-{socket.gethostname()}"),
            session_expiry_s=check_number(
                place, "session_expiry_s", session_expiry_s, 0, 2**32 - 1
            ),
            in_flight_max=check_number(place, "in_flight_max", in_flight_max, 1, 65_535),
            translator=Translator(
                place, filters, prefix, payload, envelope=envelope, id_property=id_property
            ),
        )
        self.promise: Promise = "at least once" if qos and session_expiry_s else "at most once"

    def __repr__(self) -> str:
        """Name it, without its secrets."""
        return f"<Mqtt {self.name} {self.server.shown} {self.wanted.topics}>"

    async def run(self, intake: Intake) -> None:
        """Bring messages in until cancelled; see `Source`.

        What is being stored when it is cancelled is waited for, so that it is acknowledged and
        not there twice after the next start; not for longer than half a second.
        """
        inbox = Inbox(self.wanted, intake)
        scope, ended = anyio.CancelScope(shield=True), anyio.Event()

        async def work() -> None:
            try:
                with scope:
                    await self._stay_connected(inbox)
            finally:
                ended.set()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(work, name=f"headrace mqtt {self.name}")
                try:
                    await ended.wait()
                finally:
                    scope.deadline = anyio.current_time() + (STOP_S if inbox.stop() else 0)
        except BaseExceptionGroup as several:
            raise sole(several) from None

    async def _stay_connected(self, inbox: Inbox) -> None:
        backoff, wanted = Backoff(), self.wanted
        while not inbox.is_stopping:
            began_s = anyio.current_time()
            try:
                async with linked(
                    self.server,
                    inbox,
                    client_id=wanted.client_id,
                    session_expiry_s=wanted.session_expiry_s,
                    in_flight_max=wanted.in_flight_max,
                ) as link:
                    inbox.begin(link)
                    self._subscribe(link)
                    await inbox.work(link)
            except LinkLost as error:
                # At first that is how it is set up; later a server that starts may say anything.
                if isinstance(error, LinkRefused) and not inbox.intake.status.connections:
                    raise ConnectorError(str(error)) from None
                inbox.intake.lost(str(error))
                backoff.reset(held_s=anyio.current_time() - began_s)
                await backoff.wait()

    def _subscribe(self, link: Link) -> None:
        """Ask for all topics; `Inbox.subscribed` hears the answer."""
        topics, qos = self.wanted.topics, self.wanted.qos
        if self.server.version == 4:
            link.client.subscribe([(topic, qos) for topic in topics])
            return
        from paho.mqtt.subscribeoptions import SubscribeOptions

        # Those that the server has kept come with a new subscription, not at each connection.
        handling = (
            SubscribeOptions.RETAIN_DO_NOT_SEND
            if self.wanted.retained == "skip"
            else SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
        )
        options = SubscribeOptions(qos=qos, retainHandling=handling)
        link.client.subscribe([(topic, options) for topic in topics])


def _filters(place: str, topics: object) -> list[str]:
    found = [topics] if isinstance(topics, str) else topics
    if not isinstance(found, Sequence) or isinstance(found, bytes):
        raise TypeError(f"{place}, topics: expected topic filters, found {topics!r:.80}")
    if not found:
        raise ValueError(f"{place}, topics: expected at least one topic filter, found none")
    for topic in found:
        try:
            check_filter(topic)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{place}, topics: {error}") from None
    return list(found)
