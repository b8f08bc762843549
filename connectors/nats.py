"""NATS: `Nats` brings in messages as they come, `NatsSink` publishes, to JetStream too.

What a stream of JetStream keeps comes in by `headrace.connectors.jetstream`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import anyio
import msgspec
from msgspec import Struct

from headrace.connectors.checks import check_flag, check_number, check_text, label, one_line
from headrace.connectors.intake import Intake
from headrace.connectors.nats_link import (
    GONE,
    Inbox,
    Link,
    close,
    connect,
    linked,
)
from headrace.connectors.nats_settings import NatsServer
from headrace.connectors.payloads import BadPayload, Payload, reader, shown
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError, SinkRefused, SinkUnavailable
from headrace.connectors.sessions import keep_up
from headrace.connectors.trace_context import outgoing
from headrace.engine.diagnostics import logger
from headrace.engine.emission import Emission
from headrace.engine.subject import RESERVED_PREFIXES, check_pattern, check_subject

ID_HEADER: Final = "Nats-Msg-Id"
INBOX: Final = "_INBOX"


class Translator:
    """From messages to events: subject, data and identity."""

    def __init__(self, place: str, prefix: str, payload: Payload) -> None:
        """Take the settings; *place* is how errors call the user."""
        if prefix:
            check_text(place, "prefix", prefix)
            _checked(place, "prefix", lambda: check_subject(prefix))
            if f"{prefix}.".startswith(RESERVED_PREFIXES):
                raise ValueError(
                    f"{place}, prefix: expected a subject that is not the engine's, "
                    f"found {prefix!r}; choose another first token"
                )
        self.prefix = f"{prefix}." if prefix else ""
        self.read = reader(payload, place)

    def check(self, place: str, subject: str) -> str:
        """Return *subject*, a pattern of what is taken."""
        check_text(place, "subjects", subject)
        _checked(place, "subjects", lambda: check_pattern(subject))
        if not self.prefix and f"{subject}.".startswith(RESERVED_PREFIXES):
            raise ValueError(
                f"{place}, subjects: expected none of the engine's own, found {subject!r}; "
                f'set prefix, such as prefix="nats"'
            )
        return subject

    def event(
        self, message: Any, intake: Intake, source: str = "", position: int | None = None
    ) -> Emission:
        """Return the event that *message* is, or the one that keeps it if it is none."""
        headers, subject = message.headers, message.subject
        event_id = label(headers.get(ID_HEADER) or "") or None if headers else None
        try:
            if not subject.isascii():
                _check_utf8(subject)
            data = self.read(message.data)
        except BadPayload as error:
            return intake.refusal(
                message.data,
                str(error),
                place=subject.encode(errors="surrogateescape").decode(errors="replace")[:200],
                id=event_id,
                position=position,
                source=source,
            )
        trace = intake.trace_of(headers.get) if headers else None
        return Emission(self.prefix + subject, data, event_id, source, position, headers=trace)


def _check_utf8(subject: str) -> None:
    try:
        subject.encode()
    except UnicodeEncodeError:
        raw = subject.encode(errors="surrogateescape")
        raise BadPayload(f"expected a subject in UTF-8, found {shown(raw)}") from None


def _checked(place: str, name: str, check: Any) -> None:
    try:
        check()
    except ValueError as error:
        raise ValueError(f"{place}, {name}: {error}") from None


class Nats:
    """Brings in what is published to *subjects* while it is there.

    Promise: at most once.  The server keeps nothing: what is published while there is no
    connection, or faster than it can be stored, is lost.  What is lost on this side is counted
    and said.  With a *queue* each message goes to one of those who have named the same.
    """

    promise: Promise = "at most once"
    messaging_system = "nats"

    def __init__(
        self,
        url: str | Sequence[str],
        subjects: str | Sequence[str],
        *,
        name: str = "nats",
        queue: str = "",
        prefix: str = "",
        payload: Payload = "json",
        in_flight_max: int = 10_000,
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
        """Name the server and the subjects, which may have wildcards; nothing is connected yet.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work; docs/connectors/nats.md
                says what each is for.
        """
        self.name = name
        self._place = f"Nats {name!r}"
        self._server = NatsServer(
            url, self._place, user=user, password=password, token=token, creds_file=creds_file,
            nkey_file=nkey_file, ca_file=ca_file, cert_file=cert_file, key_file=key_file,
            tls_first=tls_first, inbox_prefix=inbox_prefix, keepalive_s=keepalive_s,
            timeout_s=timeout_s,
        )  # fmt: skip
        self._translator = Translator(self._place, prefix, payload)
        self._subjects = checked_subjects(self._place, subjects, self._translator)
        if not self._subjects:
            raise ValueError(f"{self._place}, subjects: expected at least one, found none")
        if queue and any(sign.isspace() for sign in check_text(self._place, "queue", queue)):
            raise ValueError(
                f"{self._place}, queue: expected a name without spaces, found {queue!r:.80}"
            )
        self._queue = queue
        self._in_flight_max = check_number(
            self._place, "in_flight_max", in_flight_max, 1, 1_000_000
        )
        self._dropped = 0

    def __repr__(self) -> str:
        """Name it, without its secrets."""
        return f"<Nats {self.name} {self._server.shown}>"

    async def probe(self) -> str:
        """Connect once; return what was found."""
        return await probed(self._server)

    async def run(self, intake: Intake) -> None:
        """Bring messages in until cancelled.

        Raises:
            ConnectorError: at the first connection, what trying again cannot mend.
        """
        await keep_up(intake, lambda: self._session(intake), GONE)

    async def _session(self, intake: Intake) -> None:
        inbox = Inbox()
        in_put = 0

        def take(message: Any) -> None:
            if len(inbox.waiting) + in_put >= self._in_flight_max:
                self._drop(intake)
                return
            inbox.waiting.append(message)
            inbox.ring()

        async with linked(self._server) as link:
            link.when_lost(inbox.ring)
            for subject in self._subjects:
                await link.subscribe(subject, take, self._queue)
            await link.round_trip()
            if link.complaints:
                raise ConnectorError(
                    f"{self._place}: expected to be allowed to subscribe, "
                    f"found {link.complaints[0]!r}; check the permissions"
                )
            intake.connected(server=self._server.shown, subjects=self._subjects)
            while True:
                await inbox.rings(self._server.keepalive_s)
                if taken := inbox.take():
                    in_put = len(taken)
                    await intake.put([self._translator.event(one, intake) for one in taken])
                    in_put = 0
                link.check()

    def _drop(self, intake: Intake) -> None:
        self._dropped += 1
        intake.status.dropped = self._dropped
        # Not a line for each: 1, 2, 4, 8 …
        if self._dropped.bit_count() == 1:
            intake.logger.warning(
                "messages_dropped", so_far=self._dropped, in_flight_max=self._in_flight_max
            )


def checked_subjects(
    place: str, subjects: str | Sequence[str], translator: Translator
) -> list[str]:
    """Return the patterns that are taken."""
    found = [subjects] if isinstance(subjects, str) else subjects
    if not isinstance(found, Sequence):
        raise TypeError(f"{place}, subjects: expected texts, found {found!r:.80}")
    return [translator.check(place, subject) for subject in found]


async def probed(server: NatsServer) -> str:
    """Connect once; return what was found.

    Raises:
        ConnectorError: there is no server, or it does not let us in.
    """
    try:
        async with linked(server) as link:
            await link.round_trip()
            return f"nats-server {link.client.connected_server_version!r}".replace(
                "<nats server v", ""
            ).rstrip(">")
    except GONE as error:
        raise ConnectorError(
            f"{server.place}: expected a server at {server.shown}, found {one_line(error)}"
        ) from None


# -------------------------------------------------------------------- out


class NatsMessage(Struct, frozen=True):
    """What `NatsSink` publishes."""

    subject: str
    payload: Any = None
    """Bytes go as they are, ``None`` as none; all else as JSON."""
    headers: dict[str, str] = {}


class NatsStored(Struct, frozen=True):
    """Where a message is: what the server has answered."""

    stream: str = ""
    """Empty for core NATS, which keeps nothing."""
    sequence: int = 0
    duplicate: bool = False
    """The stream had it already, under the same key."""


REFUSED_CODES: Final = frozenset({10054, 10052, 10051, 10129, 10189})
"""Of the server, for what would be the same the next time: a message too large and the like."""


class NatsSink:
    """Publishes messages, each under ``Nats-Msg-Id``.

    With *jetstream* a message counts as sent once a stream has stored it; one that is sent again
    within the stream's duplicate window (2 minutes by default) is stored once.  Without it counts
    once the server has read it, whoever listens.
    """

    message_type: Any = NatsMessage
    result_type: Any = NatsStored
    messaging_system = "nats"

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        name: str = "nats",
        jetstream: bool = True,
        subject: str | None = None,
        prefix: str = "",
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
        """Name the server; nothing is connected before something is sent.

        *subject* is that of forwarded events; without it their own, behind *prefix*.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work; docs/connectors/nats.md
                says what each is for.
        """
        self.name = name
        self._place = f"NatsSink {name!r}"
        self._server = NatsServer(
            url, self._place, user=user, password=password, token=token, creds_file=creds_file,
            nkey_file=nkey_file, ca_file=ca_file, cert_file=cert_file, key_file=key_file,
            tls_first=tls_first, inbox_prefix=inbox_prefix, keepalive_s=keepalive_s,
            timeout_s=timeout_s,
        )  # fmt: skip
        self._jetstream = check_flag(self._place, "jetstream", jetstream)
        for setting, value in (("subject", subject), ("prefix", prefix)):
            if value:
                text = check_text(self._place, setting, value)
                _checked(self._place, setting, partial(check_subject, text))
        self._subject = subject
        self._prefix = f"{prefix}." if prefix else ""
        self._link: Link | None = None
        self._connecting = anyio.Lock()

    def __repr__(self) -> str:
        """Name it, without its secrets."""
        return f"<NatsSink {self.name} {self._server.shown}>"

    async def probe(self) -> str:
        """Connect once; return what was found."""
        return await probed(self._server)

    async def __aenter__(self) -> Self:
        """Do nothing yet: the connection is made when something is sent."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        link, self._link = self._link, None
        if link is not None:
            await close(link)

    def message_of(self, subject: str, data: Any) -> NatsMessage:
        """Return the message that forwards an event."""
        return NatsMessage(self._subject or self._prefix + subject, data)

    def destination_of(self, message: NatsMessage) -> str:
        """Return the subject that *message* is published to."""
        return message.subject

    async def send(self, message: NatsMessage, *, key: str) -> NatsStored:
        """Publish *message* under *key*; see `Sink`."""
        payload = message.payload
        raw = (
            b"" if payload is None
            else payload if isinstance(payload, bytes)
            else msgspec.json.encode(payload)
        )  # fmt: skip
        headers = {**outgoing(), **message.headers, ID_HEADER: key}
        try:
            check_subject(message.subject)
            _check_headers(headers)
        except ValueError as error:
            raise SinkRefused(f"{self._place}: {error}") from None
        try:
            link = await self._linked()
            size = len(raw) + sum(len(n) + len(v.encode()) + 4 for n, v in headers.items()) + 12
            if size > link.client.max_payload:
                raise SinkRefused(
                    f"{self._place}, subject {message.subject!r}: expected at most "
                    f"{link.client.max_payload} bytes, found {size}; raise the server's max_payload"
                )
            if self._jetstream:
                return await self._store(link, message.subject, raw, headers)
            before = len(link.complaints)
            await link.publish(message.subject, raw, headers=headers)
            await link.round_trip()
        except ConnectorError as error:
            # A password that is wrong today may be right in ten minutes.
            raise SinkUnavailable(str(error)) from None
        except GONE as error:
            raise SinkUnavailable(
                f"{self._place}: {self._server.shown}: {one_line(error)}"
            ) from error
        if link.complaints[before:]:
            raise SinkUnavailable(f"{self._place}: {link.complaints[-1]}")
        return NatsStored()

    async def _store(
        self, link: Link, subject: str, raw: bytes, headers: dict[str, str]
    ) -> NatsStored:
        answer = await link.request(subject, raw, headers)
        try:
            said = msgspec.json.decode(answer.data)
            error = said.get("error")
            if error is None:
                return NatsStored(said["stream"], said["seq"], said.get("duplicate", False))
        except (msgspec.DecodeError, AttributeError, KeyError):
            raise SinkUnavailable(
                f"{self._place}, subject {subject!r}: expected the answer of a stream, found "
                f"{answer.data[:60]!r}; is jetstream=False meant?"
            ) from None
        text = f"{self._place}, subject {subject!r}: {error.get('description', error)}"
        if error.get("err_code") in REFUSED_CODES:
            raise SinkRefused(text)
        raise SinkUnavailable(text)

    async def _linked(self) -> Link:
        async with self._connecting:
            link = self._link
            if link is not None and link.lost is None:
                return link
            if link is not None:
                self._link = None
                await close(link)
            self._link = link = await connect(self._server)
            logger().info("sink_connected", sink=self.name, server=self._server.shown)
            return link


def _check_headers(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        if not name or not name.isascii() or any(sign in name for sign in ": \t\r\n"):
            raise ValueError(f"header {name!r}: expected a name without spaces and colons")
        if "\r" in value or "\n" in value:
            raise ValueError(f"header {name!r}: expected a value on one line, found {value!r:.80}")
