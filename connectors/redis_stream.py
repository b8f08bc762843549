"""Redis streams: `RedisStream` brings in entries as one of a group, `RedisStreamSink` adds them.

How the source keeps each entry from being stored twice, also long after the ids of events are
forgotten: what the group hands out for the first time comes in the order of ids, so the log's
cursor says what is stored of it.  It is pending under a consumer's name of this log's own (its
log id is part of it), so what is pending there at a start, and is not behind the cursor, is
stored.  What comes out of order, since another consumer left it or the server has forgotten
what it had handed out, is moved to a second name, where only the id of the event counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
import msgspec
from msgspec import Struct

from headrace.connectors.checks import (
    check_flag,
    check_number,
    check_subject,
    check_text,
    label,
)
from headrace.connectors.intake import Intake
from headrace.connectors.payloads import BadPayload, Payload, read_text, reader
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError, SinkRefused, SinkUnavailable
from headrace.connectors.redis_connection import Connection, field_name, gone
from headrace.connectors.sessions import keep_up
from headrace.connectors.tokens import token_of
from headrace.connectors.trace_context import outgoing
from headrace.engine.emission import Emission
from headrace.engine.subject import check_emit

if TYPE_CHECKING:
    from redis.asyncio import Redis

KEY_FIELD: Final = "idempotency-key"
SEQUENCE_BITS: Final = 20
"""Of a position; the time above them is good until the year 2248."""
CLOSE_S: Final = 2.0
SENT_SCRIPT: Final = """
local known = redis.call('GET', KEYS[2])
if known then return known end
local id = redis.call('XADD', KEYS[1], unpack(ARGV, 2))
redis.call('SET', KEYS[2], id, 'EX', ARGV[1])
return id
"""
"""Adds an entry unless one was added under its key.  The key last: if adding fails it is free."""

Entry = tuple[bytes, dict[bytes, bytes]]


class RedisStream:
    """Brings in the entries of a stream, as one consumer of a group.

    Promise: exactly once.  An entry is acknowledged (XACK) behind the log; its id is the identity
    and the position of its event.  Entries that another consumer left pending for *claim_idle_s*
    are taken over; those are known by their ids alone, so they are in this log once as long as
    ids are remembered (``dedupe_window``).  Nothing is said of the logs of other consumers.
    """

    promise: Promise = "exactly once"
    messaging_system = "redis"

    def __init__(
        self,
        url: str,
        stream: str,
        *,
        name: str = "redis",
        group: str = "headrace",
        subject: str | None = None,
        payload: Payload = "json",
        data_field: str | None = "data",
        id_field: str | None = KEY_FIELD,
        start: str = "0",
        create: bool = True,
        batch_max: int = 1000,
        claim_idle_s: float = 300.0,
        user: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Name the server, the stream and the group; nothing is connected yet.

        *subject* is that of all events; without it each entry's field ``subject``, or else
        ``redis.<stream>``.  *data_field* holds the data, read as *payload*; ``None``: all fields
        as texts.  Entries with the same *id_field* are one event.  *start* is the id behind
        which a new group begins, ``"$"`` for what comes from now on.  *create* makes the stream
        if it is not there.  A server that is silent for *timeout_s* is gone.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work.
        """
        self.name = name
        self._place = f"RedisStream {name!r}"
        self._connection = Connection(
            url,
            self._place,
            user=user,
            password=password,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            timeout_s=timeout_s,
        )
        self._stream = self.messaging_destination = check_text(self._place, "stream", stream)
        self._group = check_text(self._place, "group", group)
        self._start = check_text(self._place, "start", start)
        self._create = check_flag(self._place, "create", create)
        self._batch_max = check_number(self._place, "batch_max", batch_max, 1, 100_000)
        self._claim_idle_s = check_number(self._place, "claim_idle_s", claim_idle_s, 0.001, 1e8)
        self._subject = None if subject is None else check_subject(self._place, "subject", subject)
        self._other_subject = f"redis.{token_of(stream)}"
        self._read = reader(payload, self._place)
        self._data_field = field_name(self._place, "data_field", data_field)
        self._id_field = field_name(self._place, "id_field", id_field)
        self._cursor_name = f"{name}:{label(f'{group}:{stream}')}"

    async def run(self, intake: Intake) -> None:
        """Bring entries in until cancelled.

        Raises:
            ConnectorError: at the first connection, what trying again cannot mend.
        """
        client = self._connection.client()
        try:
            await keep_up(intake, lambda: self._session(intake, client), gone())
        finally:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await client.aclose()

    # ------------------------------------------------------------ one connection

    async def _session(self, intake: Intake, client: Redis) -> None:
        taker = _Taker(self, intake, client)
        try:
            with self._connection.answers():
                await taker.take()
        except gone() as error:
            refusal = self._connection.refusal(error)
            if refusal is None:
                raise
            raise refusal from None
        finally:
            # A connection on which an answer may still be under way is of no use.
            with anyio.move_on_after(CLOSE_S, shield=True):
                await client.connection_pool.disconnect()

    # ------------------------------------------------------------ entries

    def event(self, entry: Entry, position: int | None, intake: Intake) -> Emission:
        """Return the event that *entry* is, or the one that keeps it if it is none."""
        entry_id, fields = entry
        event_id = entry_id.decode()
        try:
            if self._id_field in fields:
                event_id = label(read_text(fields[self._id_field])) or event_id
            return Emission(
                self._subject_of(fields),
                self._data_of(fields),
                id=event_id,
                source=self._cursor_name,
                position=position,
                headers=intake.trace_of(lambda header: fields.get(header.encode())),
            )
        except BadPayload as error:
            raw = fields.get(self._data_field or b"")
            return intake.refusal(
                raw if raw is not None else msgspec.json.encode(_as_texts(fields.items())),
                str(error),
                place=f"{self._stream} {entry_id.decode()}",
                id=event_id,
                position=position,
                source=self._cursor_name,
            )

    def _subject_of(self, fields: dict[bytes, bytes]) -> str:
        if self._subject is not None:
            return self._subject
        written = fields.get(b"subject")
        if written is None:
            return self._other_subject
        subject = read_text(written)
        try:
            check_emit(subject)
        except ValueError as error:
            raise BadPayload(f"field 'subject': {error}") from None
        return subject

    def _data_of(self, fields: dict[bytes, bytes]) -> Any:
        if self._data_field is None:
            return {read_text(name): read_text(value) for name, value in fields.items()}
        raw = fields.get(self._data_field)
        if raw is None:
            found = ", ".join(_as_texts(fields.items()))
            raise BadPayload(
                f"expected a field {self._data_field.decode()!r}, found {found[:200]}; "
                f"name another as data_field, or None for all of them"
            )
        return self._read(raw)


class _Taker:
    """One connection of a source, from its first command to its last."""

    def __init__(self, source: RedisStream, intake: Intake, client: Redis) -> None:
        self._source = source
        self._intake = intake
        self._client = client
        self._stream, self._group = source._stream, source._group
        # Nobody else has these names: what is pending under them was handed to this log.
        self._consumer = f"{source.name}-{intake.engine.log.log_id.hex()}"
        self._aside = f"{self._consumer}-aside"
        self._claim_every_s = min(max(source._claim_idle_s / 4, 0.05), 30.0)
        self._block_ms = round(min(source._connection.timeout_s / 2, self._claim_every_s) * 1000)

    async def take(self) -> None:
        """Bring in what is pending, then what is new, until something fails."""
        await self._join()
        self._intake.connected(
            server=self._source._connection.shown, stream=self._stream, group=self._group
        )
        await self._pending(self._consumer, self._unless_stored)
        await self._pending(self._aside, lambda entries: [(entry, None) for entry in entries])
        claim_at_s = anyio.current_time()
        while True:
            if anyio.current_time() >= claim_at_s:
                await self._claim()
                claim_at_s = anyio.current_time() + self._claim_every_s
            entries = await self._read(self._consumer, ">", block_ms=self._block_ms)
            if entries:
                await self._put(await self._in_order(entries), entries)

    async def _join(self) -> None:
        """Be sure that there is a group."""
        from redis.exceptions import ResponseError

        source, cursor = self._source, self._intake.cursor(self._source._cursor_name)
        # A group that is gone is made anew behind what is stored, not from its beginning.
        start = source._start if cursor is None else _id_of(cursor)
        try:
            await self._client.xgroup_create(
                self._stream, self._group, start, mkstream=source._create
            )
        except ResponseError as error:
            said = str(error)
            if "BUSYGROUP" in said:
                return
            if "requires the key to exist" in said:
                raise ConnectorError(
                    f"{source._place}: expected a stream {self._stream!r} at "
                    f"{source._connection.shown}, found none; add to it first, or set create=True"
                ) from None
            if said.startswith("WRONGTYPE"):
                raise ConnectorError(
                    f"{source._place}: expected {self._stream!r} at {source._connection.shown} "
                    f"to be a stream, found another kind of key; check the name"
                ) from None
            raise

    async def _read(self, consumer: str, after: str, *, block_ms: int | None = None) -> list[Entry]:
        found: Any = await self._client.xreadgroup(
            self._group,
            consumer,
            {self._stream: after},
            count=self._source._batch_max,
            block=block_ms,
        )
        return found[0][1] if found else []

    async def _pending(
        self, consumer: str, of: Callable[[list[Entry]], list[tuple[Entry, int | None]]]
    ) -> None:
        """Bring in what was handed out to *consumer* and not acknowledged."""
        after = "0"
        while entries := await self._read(consumer, after):
            after = entries[-1][0].decode()
            await self._put(of(entries), entries)

    def _unless_stored(self, entries: list[Entry]) -> list[tuple[Entry, int | None]]:
        cursor = self._intake.cursor(self._source._cursor_name)
        placed = [(entry, _position(entry[0])) for entry in entries]
        return [
            (entry, position)
            for entry, position in placed
            if position is None or cursor is None or position > cursor
        ]

    async def _in_order(self, entries: list[Entry]) -> list[tuple[Entry, int | None]]:
        """Return new entries with their positions; move aside those that are not behind the cursor.

        The server may have forgotten what it had handed out to whom.
        """
        placed = self._unless_stored(entries)
        if len(placed) == len(entries):
            return placed
        known = {entry[0] for entry, _ in placed}
        stragglers = [entry for entry in entries if entry[0] not in known]
        await self._client.xclaim(
            self._stream,
            self._group,
            self._aside,
            min_idle_time=0,
            message_ids=[entry[0] for entry in stragglers],
            justid=True,
        )
        return [*((entry, None) for entry in stragglers), *placed]

    async def _claim(self) -> None:
        """Take over what others have left, and see how much waits."""
        after: Any = "0-0"
        while True:
            after, entries, *_ = await self._client.xautoclaim(
                self._stream,
                self._group,
                self._aside,
                min_idle_time=round(self._source._claim_idle_s * 1000),
                start_id=after,
                count=min(self._source._batch_max, 1000),
            )
            if entries:
                await self._put([(entry, None) for entry in entries], entries)
            if after == b"0-0":
                break
        for group in await self._client.xinfo_groups(self._stream):
            if group["name"] == self._group.encode():
                self._intake.status.lag = group.get("lag")

    async def _put(self, placed: Iterable[tuple[Entry, int | None]], entries: list[Entry]) -> None:
        """Store the first and then acknowledge the second, which may be more."""
        events = [
            self._source.event(entry, position, self._intake)
            # One without fields was deleted while it was pending: there is nothing to store.
            for entry, position in placed
            if entry[1]
        ]
        if events:
            await self._intake.put(events)
        if gone_count := sum(not fields for _, fields in entries):
            self._intake.logger.warning("entries_deleted", stream=self._stream, count=gone_count)
        await self._client.xack(self._stream, self._group, *(entry[0] for entry in entries))


def _position(entry_id: bytes) -> int | None:
    """Return the position of an entry; ``None``: it does not fit into one."""
    time_ms, _, sequence = entry_id.partition(b"-")
    if int(sequence) >> SEQUENCE_BITS or int(time_ms) >> (63 - SEQUENCE_BITS):
        return None
    return (int(time_ms) << SEQUENCE_BITS) | int(sequence)


def _id_of(position: int) -> str:
    return f"{position >> SEQUENCE_BITS}-{position & ((1 << SEQUENCE_BITS) - 1)}"


def _as_texts(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {n.decode(errors="replace"): v.decode(errors="replace") for n, v in fields}


# -------------------------------------------------------------------- out


class StreamMessage(Struct, frozen=True):
    """What `RedisStreamSink` adds: an entry with a subject and data."""

    subject: str = ""
    data: Any = None
    fields: dict[str, str] = {}
    """Further fields of the entry."""
    stream: str = ""
    """Another stream than that of the sink."""


class RedisStreamSink:
    """Adds entries to a stream: fields ``subject``, ``data`` (JSON) and ``idempotency-key``.

    A message that is sent again within *dedupe_s* is added once: the key is kept beside the
    stream, as ``headrace:sent:{stream}:<key>``, by the same script that adds.
    """

    message_type: Any = StreamMessage
    result_type: Any = str
    messaging_system = "redis"

    def __init__(
        self,
        url: str,
        stream: str,
        *,
        name: str = "redis",
        maxlen: int | None = None,
        dedupe_s: int = 86_400,
        user: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Name the server and the stream; nothing is connected yet.

        *maxlen* is about how many entries the stream keeps.  *dedupe_s* 0 keeps no keys.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work.
        """
        self.name = name
        self._place = f"RedisStreamSink {name!r}"
        self._connection = Connection(
            url,
            self._place,
            user=user,
            password=password,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            timeout_s=timeout_s,
        )
        self._stream = check_text(self._place, "stream", stream)
        if maxlen is not None:
            check_number(self._place, "maxlen", maxlen, 1, 2**63 - 1)
        self._trim = [] if maxlen is None else ["MAXLEN", "~", str(maxlen)]
        self._dedupe_s = check_number(self._place, "dedupe_s", dedupe_s, 0, 10 * 365 * 86_400)
        self._client: Redis | None = None

    async def __aenter__(self) -> Self:
        """Get ready; the connection is made when something is sent."""
        self._client = self._connection.client()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await client.aclose()

    def message_of(self, subject: str, data: Any) -> StreamMessage:
        """Return the message that forwards an event."""
        return StreamMessage(subject, data)

    def destination_of(self, message: StreamMessage) -> str:
        """Return the stream that *message* is added to."""
        return message.stream or self._stream

    async def send(self, message: StreamMessage, *, key: str) -> str:
        """Add an entry; return its id."""
        client = self._client
        assert client is not None, "it is opened by the engine"
        stream = message.stream or self._stream
        entry: list[str | bytes] = [*self._trim, "*", KEY_FIELD, key]
        if message.subject:
            entry += ["subject", message.subject]
        entry += ["data", msgspec.json.encode(message.data)]
        for name, value in {**outgoing(), **message.fields}.items():
            entry += [name, value]
        command: list[str | bytes]
        if self._dedupe_s:
            kept = f"headrace:sent:{{{stream}}}:{key}"
            command = ["EVAL", SENT_SCRIPT, "2", stream, kept, str(self._dedupe_s), *entry]
        else:
            command = ["XADD", stream, *entry]
        try:
            # Not typed by the library.
            execute: Callable[..., Awaitable[Any]] = client.execute_command
            with self._connection.answers():
                added: Any = await execute(*command)
        except gone() as error:
            raise self._failure(error, stream) from error
        entry_id: str = added.decode()
        return entry_id

    def _failure(self, error: Exception, stream: str) -> SinkUnavailable | SinkRefused:
        refusal = self._connection.refusal(error)
        if refusal is not None and "WRONGTYPE" in str(refusal):
            return SinkRefused(f"{refusal} (stream {stream!r}); check the name")
        # A password that is wrong today may be right in ten minutes: the message is kept so long.
        return SinkUnavailable(
            str(refusal)
            if refusal is not None
            else f"{self._place}: {self._connection.shown}: {type(error).__name__}: {error}"
        )
