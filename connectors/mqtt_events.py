"""`Translator`: what a message of MQTT is as an event."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

from headrace.connectors.checks import check_flag, check_maybe_text
from headrace.connectors.intake import Intake
from headrace.connectors.mqtt_topics import check_topic, filter_matches, topic_to_subject
from headrace.connectors.payloads import BadPayload, Payload, reader
from headrace.engine.emission import Emission
from headrace.engine.subject import check_emit

ID_PROPERTY: Final = "idempotency-key"
ID_CHARS_MAX: Final = 80
"""Longer ones are no identity: an event has little room for it."""
PLACE_CHARS_MAX: Final = 200
TOPICS_REMEMBERED: Final = 16_384


class MqttReceived(Struct, frozen=True):
    """The data of an event, with ``envelope=True``: the message with all that MQTT says of it."""

    topic: str
    payload: Any
    qos: int
    retained: bool
    """Whether the server had kept it, and sent it because of the subscription."""
    duplicate: bool
    """Whether the server has sent it before; that does not prove that it was stored."""
    properties: dict[str, list[str]]
    """MQTT 5: user properties, each with its values."""
    content_type: str = ""
    response_topic: str = ""
    correlation: bytes = b""


class Translator:
    """Makes events of messages."""

    def __init__(
        self,
        place: str,
        topics: Sequence[str],
        prefix: str,
        payload: Payload,
        *,
        envelope: bool,
        id_property: str | None,
    ) -> None:
        """Take the settings of a source.

        Raises:
            TypeError, ValueError: one is none; *place* says whose it is.
        """
        self._prefix = check_maybe_text(place, "prefix", prefix) or ""
        if self._prefix:
            try:
                check_emit(self._prefix + ".x")
            except ValueError as error:
                raise ValueError(f"{place}, prefix: {error}") from None
        self._topics = list(topics)
        self._read = reader(payload, place)
        self._is_empty_none = payload in ("json", "msgpack")
        self._envelope = check_flag(place, "envelope", envelope)
        self._id_property = check_maybe_text(place, "id_property", id_property)
        self._subject = lru_cache(TOPICS_REMEMBERED)(self._subject_of)
        self._strangers = 0

    def event_of(self, message: Any, intake: Intake) -> Emission:
        """Return the event of a *message* of paho's; of one that is none, its refusal.

        What the server had kept is marked by the name of its source: ``mqtt.retained``.
        """
        raw = bytes(message.payload)
        source = f"{intake.name}.retained" if message.retain else ""
        try:
            topic: str = message.topic
        except UnicodeDecodeError as error:
            return intake.refusal(raw, f"expected a topic in UTF-8, found {error}", place="topic")
        subject, fault, is_asked_for = self._subject(topic)
        if not is_asked_for:
            self._tell_of_stranger(topic, intake)
        properties = _user_properties(message)
        id_ = self._id_of(properties)
        if fault:
            return intake.refusal(raw, fault, place=topic[:PLACE_CHARS_MAX], id=id_, source=source)
        try:
            data = None if not raw and self._is_empty_none else self._read(raw)
        except BadPayload as error:
            return intake.refusal(
                raw, str(error), place=topic[:PLACE_CHARS_MAX], id=id_, source=source
            )
        if self._envelope:
            data = _received(message, topic, data, properties)
        trace = intake.trace_of(lambda header: next(iter(properties.get(header, ())), None))
        return Emission(subject, data, id_, source, headers=trace)

    def _subject_of(self, topic: str) -> tuple[str, str, bool]:
        """Return the subject of *topic*, or why it has none; and whether it was asked for."""
        is_asked_for = any(filter_matches(wanted, topic) for wanted in self._topics)
        try:
            check_topic(topic)
            subject = topic_to_subject(topic, self._prefix)
            check_emit(subject)
        except ValueError as error:
            return "", str(error), is_asked_for
        return subject, "", is_asked_for

    def _tell_of_stranger(self, topic: str, intake: Intake) -> None:
        # As with refusals: not a line for each.
        self._strangers += 1
        if self._strangers.bit_count() == 1:
            intake.logger.warning(
                "topic_not_asked_for",
                topic=topic[:PLACE_CHARS_MAX],
                so_far=self._strangers,
                hint="the session has an old subscription; with another client_id it has none",
            )

    def _id_of(self, properties: dict[str, list[str]]) -> str | None:
        for value in properties.get(self._id_property or "", ()):
            if 0 < len(value) <= ID_CHARS_MAX:
                return value
        return None


def _user_properties(message: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in getattr(message.properties, "UserProperty", ()):
        found.setdefault(name, []).append(value)
    return found


def _received(
    message: Any, topic: str, data: Any, properties: dict[str, list[str]]
) -> MqttReceived:
    of = message.properties
    return MqttReceived(
        topic,
        data,
        message.qos,
        message.retain,
        message.dup,
        properties,
        getattr(of, "ContentType", ""),
        getattr(of, "ResponseTopic", ""),
        getattr(of, "CorrelationData", b""),
    )
