"""Kafka: `Kafka` brings in the records of topics; `connectors/kafka_sink.py` sends them.

The log has a cursor for each partition, named after cluster, topic and partition: the offset
behind the last record that is stored.  Reading goes on
there, whatever was committed; the offsets that are committed behind the log are for those who
look at lag, and for an engine whose log knows nothing of the partition.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import anyio

from headrace.connectors.checks import (
    check_flag,
    check_maybe_text,
    check_number,
    check_subject,
    check_text,
    label,
    one_line,
)
from headrace.connectors.intake import Intake
from headrace.connectors.kafka_connection import (
    CLOSE_S,
    KEY_HEADER,
    SUBJECT_HEADER,
    Brokers,
    gone,
    inner,
)
from headrace.connectors.kafka_sink import KafkaMessage, KafkaSink
from headrace.connectors.payloads import BadPayload, Payload, read_text, reader
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError
from headrace.connectors.sessions import keep_up
from headrace.connectors.tokens import token_of
from headrace.engine.emission import Emission
from headrace.engine.subject import check_emit

__all__ = ["Kafka", "KafkaMessage", "KafkaSink"]

STARTS: Final = ("earliest", "latest")
POLL_MS: Final = 500
LOOK_S: Final = 2.0
"""How often an idle source asks whether there is a broker."""


class Kafka:
    """Brings in the records of topics.

    Promise: exactly once.  The offset is the position of its event in a cursor for each
    partition, which is where reading goes on; it is committed behind the log.
    """

    promise: Promise = "exactly once"
    messaging_system = "kafka"

    def __init__(
        self,
        servers: str,
        topics: list[str],
        *,
        name: str = "kafka",
        group: str = "headrace",
        subject: str | None = None,
        payload: Payload = "json",
        id_header: str | None = KEY_HEADER,
        start: str = "earliest",
        shared: bool = False,
        batch_max: int = 1000,
        security: str = "PLAINTEXT",
        mechanism: str = "PLAIN",
        user: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        session_s: float = 10.0,
        timeout_s: float = 10.0,
    ) -> None:
        """Name brokers, topics and group; nothing is connected yet.

        *subject* is that of all events; without it each record's header ``subject``, or else
        ``kafka.<topic>``.  Records with the same header *id_header* are one event.  *start* is
        for partitions of which neither log nor group knows: ``earliest`` or ``latest``.  The
        source takes all partitions, unless it is to be one *shared* member of the group: then
        what others have committed is not read again.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work.
        """
        self.name = name
        place = f"Kafka {name!r}"
        self._place = place
        self._brokers = Brokers(
            servers,
            place,
            security=security,
            mechanism=mechanism,
            user=user,
            password=password,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            timeout_s=timeout_s,
        )
        self._topics = _listed(place, topics)
        self._group = check_text(place, "group", group)
        self._subject = None if subject is None else check_subject(place, "subject", subject)
        self._read = reader(payload, place)
        self._id_header = check_maybe_text(place, "id_header", id_header)
        if start not in STARTS:
            raise ValueError(f"{place}, start: expected {' or '.join(STARTS)}, found {start!r:.80}")
        self._start = start
        self._shared = check_flag(place, "shared", shared)
        self._batch_max = check_number(place, "batch_max", batch_max, 1, 100_000)
        self._session_s = check_number(place, "session_s", session_s, 1.0, 3600.0)

    @property
    def messaging_destination(self) -> str | None:
        """Where all that it brings in comes from; ``None``: from several topics."""
        return self._topics[0] if len(self._topics) == 1 else None

    async def run(self, intake: Intake) -> None:
        """Bring records in until cancelled.

        Raises:
            ConnectorError: at the first connection, what trying again cannot mend.
        """
        self._brokers.settings()
        await keep_up(intake, lambda: self._session(intake), gone())

    async def _session(self, intake: Intake) -> None:
        await self._brokers.ask()
        from aiokafka import AIOKafkaConsumer

        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=self._brokers.servers,
            group_id=self._group,
            # Who comes back under it takes its partitions over at once.
            group_instance_id=(
                f"{self.name}-{intake.engine.log.log_id.hex()}" if self._shared else None
            ),
            client_id=f"headrace-{self.name}",
            enable_auto_commit=False,
            auto_offset_reset=self._start,
            session_timeout_ms=round(self._session_s * 1000),
            heartbeat_interval_ms=round(self._session_s * 1000 / 4),
            max_poll_records=self._batch_max,
            **self._brokers.settings(),
        )
        try:
            inner(self._place, consumer, "_client")
            # Cancelled in the middle, the library would lose the connection that it makes.
            with anyio.fail_after(self._brokers.timeout_s, shield=True):
                await consumer.start()
            with anyio.fail_after(2 * self._brokers.timeout_s):
                taker = _Taker(self, intake, consumer)
                await taker.look()
            if self._shared:
                consumer.subscribe(self._topics, listener=_listener(taker))
            intake.connected(servers=self._brokers.shown, topics=self._topics, group=self._group)
            await taker.take()
        finally:
            with anyio.move_on_after(CLOSE_S, shield=True):
                # As a task: it raises the cancellation of tasks of its own, which is not ours.
                stopping = asyncio.ensure_future(consumer.stop())
                await asyncio.wait([stopping])
                if not stopping.cancelled() and (error := stopping.exception()) is not None:
                    intake.logger.info("consumer_not_stopped", error=one_line(error))

    def event(self, record: Any, source: str, intake: Intake) -> Emission:
        """Return the event that *record* is, or the one that keeps it if it is none."""
        raw: bytes = record.value or b""
        event_id = f"{record.partition}-{record.offset}-{record.timestamp}"
        headers = dict(record.headers)
        try:
            if self._id_header in headers:
                event_id = label(read_text(headers[self._id_header])) or event_id
            return Emission(
                self._subject_of(record.topic, headers),
                None if record.value is None else self._read(raw),
                id=event_id,
                source=source,
                position=record.offset + 1,
                time_ns=record.timestamp * 1_000_000 if record.timestamp > 0 else None,
                headers=intake.trace_of(headers.get),
            )
        except BadPayload as error:
            return intake.refusal(
                raw,
                str(error),
                place=f"{record.topic} {record.partition}:{record.offset}",
                id=event_id,
                position=record.offset + 1,
                source=source,
            )

    def _subject_of(self, topic: str, headers: dict[str, bytes]) -> str:
        if self._subject is not None:
            return self._subject
        written = headers.get(SUBJECT_HEADER)
        if written is None:
            return f"kafka.{token_of(topic)}"
        subject = read_text(written)
        try:
            check_emit(subject)
        except ValueError as error:
            raise BadPayload(f"header {SUBJECT_HEADER!r}: {error}") from None
        return subject


def _listed(place: str, topics: Any) -> list[str]:
    if not isinstance(topics, list) or not topics:
        raise TypeError(f"{place}, topics: expected a list of topics, found {topics!r:.80}")
    return [check_text(place, "topics", topic) for topic in topics]


class _Taker:
    """One consumer, from its first partition to its end."""

    def __init__(self, source: Kafka, intake: Intake, consumer: Any) -> None:
        self._source = source
        self._intake = intake
        self._consumer = consumer
        self._cluster = ""
        self._next: dict[Any, int] = {}
        """The first offset of each partition that is not stored."""

    def _cursor_name(self, partition: Any) -> str:
        place = label(f"{self._cluster}:{partition.topic}")
        return f"{self._source.name}:{place}:{partition.partition}"

    async def assigned(self, partitions: Any) -> None:
        """Go on in each of *partitions* where the log ends."""
        consumer = self._consumer
        for partition in partitions:
            cursor = self._intake.cursor(self._cursor_name(partition))
            if cursor is None:
                self._next[partition] = 0
                continue
            if self._source._shared:
                cursor = max(cursor, await consumer.committed(partition) or 0)
            last = (await consumer.end_offsets([partition]))[partition]
            if cursor > last:
                # Made anew, or cut: what it holds may be what is not stored.
                self._intake.logger.warning(
                    "partition_begins_again", topic=partition.topic, cursor=cursor, end=last
                )
                cursor = 0
            first = (await consumer.beginning_offsets([partition]))[partition]
            if cursor < first:
                self._intake.logger.warning(
                    "records_expired", topic=partition.topic, cursor=cursor, first=first
                )
            self._next[partition] = max(cursor, first)
            consumer.seek(partition, self._next[partition])

    async def take(self) -> None:
        """Bring in what comes, until something fails."""
        look_at_s = anyio.current_time() + LOOK_S
        while True:
            found = await self._consumer.getmany(
                timeout_ms=POLL_MS, max_records=self._source._batch_max
            )
            if found:
                await self._put(found)
            if anyio.current_time() >= look_at_s:
                with anyio.fail_after(self._source._brokers.timeout_s):
                    await self.look()
                look_at_s = anyio.current_time() + LOOK_S

    async def look(self) -> None:
        """Find out whether a broker answers, and which partitions there are.

        The library would try again for ever, and say nothing.

        Raises:
            ConnectorError: a topic is not there.
        """
        from aiokafka import TopicPartition
        from aiokafka.protocol.metadata import MetadataRequest

        source, place = self._source, self._source._place
        client = inner(place, self._consumer, "_client")
        send, node = inner(place, client, "send"), inner(place, client, "get_random_node")
        # Of all topics: to ask for one may make it.
        answer = await send(node(), MetadataRequest(None))
        self._cluster = getattr(answer, "cluster_id", None) or ""
        there = {topic[1]: topic[-1] for topic in answer.topics}
        for topic in source._topics:
            if topic not in there:
                raise ConnectorError(
                    f"{source._place}: expected a topic {topic!r} at {source._brokers.shown}, "
                    f"found none; make it, or check the name"
                )
        if not source._shared:
            mine = {
                TopicPartition(topic, partition[1])
                for topic in source._topics
                for partition in there[topic]
            }
            if new := mine - self._next.keys():
                self._consumer.assign(mine | self._next.keys())
                await self.assigned(sorted(new))

    async def _put(self, found: dict[Any, list[Any]]) -> None:
        """Store what is not stored yet, then commit."""
        events, ends = list[Emission](), dict[Any, int]()
        for partition, records in found.items():
            name, first = self._cursor_name(partition), self._next.get(partition, 0)
            # After a partition was taken away and given back some may come again.
            new = [record for record in records if record.offset >= first]
            events += [self._source.event(record, name, self._intake) for record in new]
            ends[partition] = records[-1].offset + 1
        if events:
            await self._intake.put(events)
        for partition, end in ends.items():
            self._next[partition] = max(end, self._next.get(partition, 0))
        await self._commit(ends)
        self._intake.status.lag = sum(
            max(0, (self._consumer.highwater(partition) or 0) - self._next[partition])
            for partition in self._consumer.assignment()
            if partition in self._next
        )

    async def _commit(self, ends: dict[Any, int]) -> None:
        from aiokafka.errors import CommitFailedError, IllegalStateError

        mine = {p: end for p, end in ends.items() if p in self._consumer.assignment()}
        try:
            if mine:
                # The library would try for ever; and it leaves a request behind that is cancelled,
                # whose failure nobody hears of then but the event loop.
                with anyio.fail_after(self._source._brokers.timeout_s, shield=True):
                    await self._consumer.commit(mine)
        except (CommitFailedError, IllegalStateError) as error:
            # The partition is somebody else's by now; the log knows what is stored.
            self._intake.logger.info("offsets_not_committed", error=one_line(error))


def _listener(taker: _Taker) -> Any:
    from aiokafka import ConsumerRebalanceListener as Base

    class Listener(Base):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            """What is under way is stored all the same."""

        async def on_partitions_assigned(self, assigned: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Go on where the log ends."""
            await taker.assigned(assigned)

    return Listener()
