"""JetStream: `JetStream` brings in what a stream of NATS keeps, each message once.

How each message comes to be in the log once, however long anybody was away: the place in the
stream is the position of the event, and the log's cursor says what is stored.  All up to the
cursor is stored, since messages are put in the order of the stream: the server numbers its
deliveries, and at a gap, or if one comes out of its order, its consumer is made anew behind the
cursor.  The consumer belongs to one log, so its acknowledgements only tell the server what it
need not keep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from headrace.connectors.checks import check_number, check_text, label, one_line
from headrace.connectors.intake import Intake
from headrace.connectors.jetstream_consumer import Consumer, Refused, StreamApi, StreamState
from headrace.connectors.nats import INBOX, Translator, checked_subjects, probed
from headrace.connectors.nats_link import GONE, Inbox, Link, linked
from headrace.connectors.nats_settings import NatsServer
from headrace.connectors.payloads import Payload
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError
from headrace.connectors.sessions import keep_up
from headrace.engine.emission import Emission

SETBACK: Final = "source.setback"
SYNC_NOTE: Final = (
    "nats-server by default syncs its files every 2 minutes: what it has acknowledged since may "
    "be lost with the power; `sync_interval: always` in its jetstream settings mends that"
)


class JetStream:
    """Brings in the messages of a stream, by a durable consumer of its own.

    Promise: exactly once.  A message is acknowledged behind the log.  Its place in the stream is
    the position of its event, so what is delivered again is not stored again, also after weeks;
    messages with the same ``Nats-Msg-Id`` are one event as long as ids are remembered.
    """

    promise: Promise = "exactly once"
    messaging_system = "nats"

    def __init__(
        self,
        url: str | Sequence[str],
        stream: str,
        *,
        name: str = "jetstream",
        subjects: str | Sequence[str] = (),
        create: Mapping[str, Any] | None = None,
        durable: str | None = None,
        start: str | int = "first",
        prefix: str = "",
        payload: Payload = "json",
        in_flight_max: int = 4000,
        ack_wait_s: float = 30.0,
        domain: str = "",
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        creds_file: str | None = None,
        nkey_file: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        tls_first: bool = False,
        inbox_prefix: str = INBOX,
        keepalive_s: float = 10.0,
        timeout_s: float = 5.0,
    ) -> None:
        """Name the server and the stream; nothing is connected yet.

        *subjects* are those of the stream that are taken; none: all.  *create* makes the stream
        if it is not there, with these settings of a stream, such as ``{"subjects": ["orders.>"]}``.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work; docs/connectors/nats.md
                says what each is for.
        """
        self.name = name
        place = self._place = f"JetStream {name!r}"
        self._server = NatsServer(
            url, place, user=user, password=password, token=token, creds_file=creds_file,
            nkey_file=nkey_file, ca_file=ca_file, cert_file=cert_file, key_file=key_file,
            tls_first=tls_first, inbox_prefix=inbox_prefix, keepalive_s=keepalive_s,
            timeout_s=timeout_s,
        )  # fmt: skip
        self._stream = self.messaging_destination = _plain(place, "stream", stream)
        self._durable = None if durable is None else _plain(place, "durable", durable)
        self._translator = Translator(place, prefix, payload)
        self._subjects = checked_subjects(place, subjects, self._translator)
        self._create = _create_of(place, create)
        self._start = _start_of(place, start)
        self._in_flight_max = check_number(place, "in_flight_max", in_flight_max, 1, 100_000)
        self._ack_wait_s = check_number(place, "ack_wait_s", ack_wait_s, 1.0, 86_400.0)
        self._domain = _plain(place, "domain", domain) if domain else ""
        self._seen = ""

    def __repr__(self) -> str:
        """Name it, without its secrets."""
        return f"<JetStream {self.name} {self._server.shown} {self._stream}>"

    async def probe(self) -> str:
        """Connect once and look for the stream; return what was found."""
        found = await probed(self._server)
        try:
            async with linked(self._server) as link:
                state = await self._found(StreamApi(link, self._domain, self._stream), create=False)
        except GONE as error:
            raise ConnectorError(f"{self._place}: {one_line(error)}") from None
        if state is None:
            return f"{found}; no stream {self._stream!r} yet, it will be made"
        return f"{found}; stream {self._stream!r} with {state.messages} messages"

    async def run(self, intake: Intake) -> None:
        """Bring messages in until cancelled.

        Raises:
            ConnectorError: at the first connection, what trying again cannot mend.
        """
        self._seen = ""
        await keep_up(intake, lambda: self._session(intake), GONE)

    # ------------------------------------------------------------ one connection

    async def _session(self, intake: Intake) -> None:
        async with linked(self._server) as link:
            api = StreamApi(link, self._domain, self._stream)
            state = await self._found(api, create=True)
            assert state is not None, "it was made"
            cursor_name = await self._cursor_name(intake, state)
            cursor = intake.cursor(cursor_name)
            self._tell_trimmed(intake, state, cursor)
            inbox = Inbox()
            link.when_lost(inbox.ring)
            consumer = Consumer(
                api, inbox, self._durable or _own_name(self.name, intake),
                place=self._place, subjects=self._subjects, in_flight_max=self._in_flight_max,
                ack_wait_s=self._ack_wait_s, heartbeat_s=self._server.keepalive_s / 2,
            )  # fmt: skip
            try:
                await consumer.open(state, cursor, self._start)
            except Refused as error:
                raise ConnectorError(
                    f"{self._place}: expected to get the consumer {consumer.name!r} of stream "
                    f"{self._stream!r}, found {error}"
                ) from None
            intake.connected(
                server=self._server.shown, stream=self._stream, consumer=consumer.name,
                behind=cursor, **({} if state.is_synced else {"durability": SYNC_NOTE}),
            )  # fmt: skip
            await self._take(link, intake, consumer, cursor_name)

    async def _take(self, link: Link, intake: Intake, consumer: Consumer, cursor_name: str) -> None:
        """Store what comes and then acknowledge it, until something fails."""
        event, status = self._translator.event, intake.status
        while True:
            await consumer.ask()
            batch = await consumer.batch()
            if not batch:
                link.check()
                continue
            cursor = intake.cursor(cursor_name)
            highest = -1 if cursor is None else cursor
            events: list[Emission] = []
            for sequence, message in batch:
                if sequence > highest:
                    highest = sequence
                    events.append(event(message, intake, cursor_name, sequence))
            if events:
                await intake.put(events)
            await consumer.acknowledge(batch)
            status.lag = consumer.pending + len(consumer.inbox.waiting)

    # ------------------------------------------------------------ the stream

    async def _found(self, api: StreamApi, *, create: bool) -> StreamState | None:
        """Return how the stream is, which is made if it is not there and *create*."""
        try:
            state = await api.stream()
            if state is None and self._create is not None:
                if not create:
                    return None
                await api.make(self._create)
                state = await api.stream()
        except Refused as error:
            raise ConnectorError(
                f"{self._place}: expected the stream {self._stream!r} at {self._server.shown}, "
                f"found {error}"
            ) from None
        if state is None:
            raise ConnectorError(
                f"{self._place}: expected a stream {self._stream!r} at {self._server.shown}, "
                f'found none; make it, or set create={{"subjects": [...]}}'
            )
        return state

    async def _cursor_name(self, intake: Intake, state: StreamState) -> str:
        """Return the name of the cursor of this very stream: one of its name may be another.

        A server that has lost what it had acknowledged gives the same places to other messages:
        from there on the positions are another cursor's.
        """
        base = f"{self.name}:{self._stream}@"
        made = label(f"{base}{state.created}")
        known = intake.engine.kernel.state.sources
        others = [one for one in known if one.startswith(base) and not one.startswith(made)]
        is_new = intake.cursor(made) is None and self._seen != made
        if is_new and (others or self._seen):
            intake.logger.warning(
                "stream_recreated", stream=self._stream, created=state.created,
                meaning="all of it is taken: it is another stream than before",
            )  # fmt: skip
        self._seen = made
        name, count = made, 0
        while intake.cursor(f"{made}+{count + 1}") is not None:
            count += 1
            name = f"{made}+{count}"
        cursor = intake.cursor(name)
        if cursor is None or state.last >= cursor:
            return name
        intake.logger.warning(
            "stream_set_back", stream=self._stream, last=state.last, stored=cursor,
            meaning="the server has lost what it had acknowledged; all of that is in the log",
        )  # fmt: skip
        name = f"{made}+{count + 1}"
        data = {"stream": self._stream, "last": state.last, "stored": cursor}
        # At once: whoever starts next must know, also if no message has come until then.
        await intake.put(
            [Emission(f"{SETBACK}.{self.name}", data, source=name, position=state.last)]
        )
        return name

    def _tell_trimmed(self, intake: Intake, state: StreamState, cursor: int | None) -> None:
        if cursor is not None and state.retention == "limits" and state.first > cursor + 1:
            intake.logger.warning(
                "stream_trimmed", stream=self._stream, first=state.first, stored=cursor,
                meaning="the stream's limits have removed messages before they were stored here",
            )  # fmt: skip


def _create_of(place: str, create: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    given: Any = create
    if given is not None and not (isinstance(given, Mapping) and given.get("subjects")):
        raise ValueError(
            f"{place}, create: expected settings of a stream with its subjects, such as "
            f'{{"subjects": ["orders.>"]}}, found {create!r:.80}'
        )
    return create


def _start_of(place: str, start: str | int) -> str | int:
    is_place = isinstance(start, int) and not isinstance(start, bool) and start >= 1
    if not is_place and start not in ("first", "new"):
        raise ValueError(
            f"{place}, start: expected 'first', 'new' or a sequence of the stream, "
            f"found {start!r:.80}"
        )
    return start


def _plain(place: str, name: str, value: object) -> str:
    """Return *value*, a name for the server: one token, without wildcards."""
    found = check_text(place, name, value, what="a name")
    if any(sign in ".*>/\\" or sign.isspace() for sign in found):
        raise ValueError(
            f"{place}, {name}: expected a name without dots, wildcards, slashes and spaces, "
            f"found {found!r:.80}"
        )
    return found


def _own_name(name: str, intake: Intake) -> str:
    """Return the consumer's name of this log: no other takes from it."""
    return f"headrace-{name}-{intake.engine.log.log_id.hex()[:16]}"
