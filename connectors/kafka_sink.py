"""`KafkaSink` sends records: data as JSON, with the headers ``subject`` and ``idempotency-key``."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import anyio
import msgspec
from msgspec import Struct

from headrace.connectors.checks import check_text, kind_and_line, one_line
from headrace.connectors.kafka_connection import (
    CLOSE_S,
    KEY_HEADER,
    SUBJECT_HEADER,
    Brokers,
    gone,
    inner,
)
from headrace.connectors.protocol import ConnectorError, SinkRefused, SinkUnavailable
from headrace.connectors.trace_context import outgoing


class KafkaMessage(Struct, frozen=True):
    """What `KafkaSink` sends: a record with a subject and data."""

    subject: str = ""
    data: Any = None
    key: str | None = None
    """Records with the same key go to the same partition."""
    topic: str = ""
    """Another topic than that of the sink."""


class KafkaSink:
    """Sends records: data as JSON, with the headers ``subject`` and ``idempotency-key``.

    A record is sent once all replicas have it (``acks=all``), and what the library sends again
    is taken once.  A run that sends again after a crash sends another record, with the same
    ``idempotency-key``: `Kafka` takes it once.
    """

    message_type: Any = KafkaMessage
    messaging_system = "kafka"
    result_type: Any = list[int]

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        name: str = "kafka",
        security: str = "PLAINTEXT",
        mechanism: str = "PLAIN",
        user: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Name brokers and topic; nothing is connected yet.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work.
        """
        self.name = name
        self._place = f"KafkaSink {name!r}"
        self._brokers = Brokers(
            servers,
            self._place,
            security=security,
            mechanism=mechanism,
            user=user,
            password=password,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            timeout_s=timeout_s,
        )
        self._topic = check_text(self._place, "topic", topic)
        self._producer: Any = None
        self._starting = anyio.Lock()

    async def __aenter__(self) -> Self:
        """Get ready; the connection is made when something is sent."""
        self._brokers.settings()
        self._starting = anyio.Lock()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections at once."""
        await self._drop()

    def message_of(self, subject: str, data: Any) -> KafkaMessage:
        """Return the message that forwards an event."""
        return KafkaMessage(subject, data)

    def destination_of(self, message: KafkaMessage) -> str:
        """Return the topic that *message* is sent to."""
        return message.topic or self._topic

    async def send(self, message: KafkaMessage, *, key: str) -> list[int]:
        """Send a record; return its partition and offset."""
        from aiokafka import errors

        failures: tuple[type[Exception], ...] = (*gone(), ConnectorError)
        headers = [(KEY_HEADER, key.encode())]
        headers += [(name, value.encode()) for name, value in outgoing().items()]
        if message.subject:
            headers.append((SUBJECT_HEADER, message.subject.encode()))
        try:
            with anyio.fail_after(2 * self._brokers.timeout_s):
                producer = await self._started()
                record = await producer.send_and_wait(
                    message.topic or self._topic,
                    msgspec.json.encode(message.data),
                    key=None if message.key is None else message.key.encode(),
                    headers=headers,
                )
        except (
            errors.MessageSizeTooLargeError,
            errors.InvalidTopicError,
            ValueError,
        ) as error:
            raise SinkRefused(f"{self._place}: {one_line(error)}") from error
        except failures as error:
            await self._drop()
            raise SinkUnavailable(self._said(error)) from error
        return [record.partition, record.offset]

    def _said(self, error: Exception) -> str:
        if isinstance(error, ConnectorError):
            return str(error)
        where = f"{self._brokers.shown}: "
        if str(error).startswith(where):  # brokers were asked, and that says which
            return f"{self._place}: {error}"
        return f"{self._place}: {where}{kind_and_line(error)}"

    async def _started(self) -> Any:
        async with self._starting:
            if self._producer is None:
                await self._brokers.ask()
                from aiokafka import AIOKafkaProducer

                producer = AIOKafkaProducer(
                    bootstrap_servers=self._brokers.servers,
                    client_id=f"headrace-{self.name}",
                    acks="all",
                    enable_idempotence=True,
                    **self._brokers.settings(),
                )
                for owner, name in _used(producer, self._place):
                    inner(self._place, owner, name)
                try:
                    # Cancelled in the middle, the library would lose the connection that it makes.
                    with anyio.fail_after(self._brokers.timeout_s, shield=True):
                        await producer.start()
                except BaseException:
                    await _stopped(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stopped(producer)


def _used(producer: Any, place: str) -> list[tuple[Any, str]]:
    """Return what `_stopped` takes of a producer, and the library does not promise to keep."""
    sender = inner(place, producer, "_sender")
    client = inner(place, producer, "client")
    return [
        (producer, "_closed"),
        (sender, "sender_task"),
        (sender, "close"),
        (client, "_get_conn_lock"),
        (client, "close"),
    ]


async def _stopped(producer: Any) -> None:
    """Stop a producer without waiting for what it could not send, as its own `stop` would."""
    producer._closed = True
    with anyio.move_on_after(CLOSE_S, shield=True):
        if producer._sender is not None and producer._sender.sender_task is not None:
            # Not while it makes a connection, which the library would lose then.
            async with producer.client._get_conn_lock:
                await producer._sender.close()
        await producer.client.close()
