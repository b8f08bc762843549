"""`Sse`: the events of a server that sends them over HTTP, as browsers take them (EventSource)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import anyio
from msgspec import Struct

from headrace.connectors.addresses import address, masked, without_echo
from headrace.connectors.backoff import Backoff
from headrace.connectors.checks import (
    check_flag,
    check_headers,
    check_number,
    check_subject,
    check_text,
    kind_and_line,
)
from headrace.connectors.event_stream import EventStream, ServerEvent, TooLong
from headrace.connectors.intake import Intake
from headrace.connectors.payloads import BadPayload, Payload, reader
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError, ExtraMissing
from headrace.connectors.tokens import token_of
from headrace.engine.emission import Emission

EVENT: Final = "{event}"
EVENT_BYTES_MAX: Final = 1024 * 1024
SILENCE_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 5.0
AGAIN_S_MAX: Final = 30.0
"""A server that wants to be asked again later than this is asked again then."""
POSITION_MAX: Final = 2**63 - 2
_AGAIN: Final = frozenset((408, 425, 429))


class _Refused(Exception):
    """What the server has answered is no stream of events."""


class Sse:
    """Takes the events of one address.

    At most once: what a server sends while nobody listens is gone, unless it keeps it and sends it
    again after a ``Last-Event-ID``, which goes with each connection.  The id of an event there is
    that of the event here, so one that comes again is stored once for as long as the log knows
    ids.  An id that is a whole number is the cursor in the log, too: then it is known after a
    restart, and the server goes on behind it.  With other ids a restart begins as a newcomer.
    """

    promise: Promise = "at most once"

    def __init__(
        self,
        url: str,
        *,
        subject: str = f"sse.{EVENT}",
        name: str = "sse",
        headers: Mapping[str, str] | None = None,
        payload: Payload = "json",
        ids: bool = True,
        silence_s: float = SILENCE_S,
        event_bytes_max: int = EVENT_BYTES_MAX,
    ) -> None:
        """Check the settings; nothing is connected yet.

        *subject*: ``{event}`` is the type of an event, ``message`` unless it says another.
        *ids*: whether its ids tell events apart, also after the server was restarted.
        *silence_s*: after so long without a byte the connection counts as lost; servers send
        comments to say that they live.

        Raises:
            ValueError, TypeError, ConnectorError: they cannot work.
        """
        self.name = name
        place = f"source {name!r}"
        parts = address(url, f"{place}, url", ("http", "https"))
        self._server = f"{parts.scheme}://{parts.hostname}" + (
            f":{parts.port}" if parts.port else ""
        )
        self._url = url
        self._subject = check_text(place, "subject", subject)
        check_subject(place, "subject", subject.replace(EVENT, "message"))
        self._headers = check_headers(place, {} if headers is None else headers)
        self._read = reader(payload, place)
        self._ids = check_flag(place, "ids", ids)
        self._silence_s = check_number(place, "silence_s", silence_s, 0.01, 86_400.0)
        self._event_bytes_max = check_number(
            place, "event_bytes_max", event_bytes_max, 1, 64 * 1024 * 1024
        )

    def __repr__(self) -> str:
        return f"Sse({self._server!r}, name={self.name!r})"

    async def run(self, intake: Intake) -> None:
        """Take events, from connection to connection, until cancelled.

        Raises:
            ConnectorError: at the first connection, what trying again cannot mend.
        """
        try:
            import httpx2
        except ModuleNotFoundError as error:
            raise ExtraMissing(f"source {self.name!r}", "http", error.name) from None
        backoff, link = Backoff(), _Link(self._cursor(intake))
        timeout = httpx2.Timeout(self._silence_s, connect=CONNECT_TIMEOUT_S)
        async with httpx2.AsyncClient(timeout=timeout) as client:
            while True:
                begun = anyio.current_time()
                try:
                    await self._connection(client, intake, link)
                    lost: str = "the server has ended the stream"
                except _Refused as error:
                    if not link.was_connected:
                        raise ConnectorError(f"source {self.name!r}: {error}") from None
                    lost = str(error)
                except (httpx2.TransportError, OSError, TooLong) as error:
                    lost = masked(without_echo(kind_and_line(error)))
                intake.lost(lost[:300])
                backoff.reset(held_s=anyio.current_time() - begun)
                await anyio.sleep(max(backoff.next_s(), min(link.retry_s, AGAIN_S_MAX)))

    def _cursor(self, intake: Intake) -> str:
        position = intake.cursor() if self._ids else None
        return "" if position is None else str(position)

    async def _connection(self, client: Any, intake: Intake, link: _Link) -> None:
        headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        headers += [(b"accept", b"text/event-stream"), (b"accept-encoding", b"identity")]
        if link.last_id:
            headers.append((b"last-event-id", link.last_id.encode()))
        async with client.stream("GET", self._url, headers=headers) as response:
            self._check(response)
            intake.connected(server=self._server, last_id=link.last_id)
            link.was_connected = True
            stream = EventStream(bytes_max=self._event_bytes_max, last_id=link.last_id)
            try:
                await self._events(response, stream, intake, link)
            finally:
                link.retry_s = link.retry_s if stream.retry_s is None else stream.retry_s

    async def _events(
        self, response: Any, stream: EventStream, intake: Intake, link: _Link
    ) -> None:
        import httpx2

        failure: TooLong | None = None
        try:
            # Not read on while it stores: so a slow engine slows the server.
            async for chunk in response.aiter_raw():
                try:
                    events = stream.feed(chunk)
                except TooLong as error:
                    # To its end: an iteration that is left is for the garbage collector.
                    failure = error
                    await response.aclose()
                    continue
                if events:
                    await intake.put([self._emission(intake, one) for one in events])
                link.last_id = stream.last_id
        except (httpx2.StreamError, httpx2.TransportError, anyio.ClosedResourceError):
            if failure is None:
                raise
        if failure is not None:
            raise failure

    def _check(self, response: Any) -> None:
        import httpx2

        status = response.status_code
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if status == 200 and kind == "text/event-stream":
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in {"", "identity"}:
                raise _Refused(
                    f"expected a stream from {self._server} that is not compressed, as it was "
                    f"asked for, found one in {encoding!r:.40}"
                )
            return
        found = f"expected 200 and text/event-stream from {self._server}, found {status}"
        found += f" and {kind!r:.80}" if status == 200 else ""
        if status < 500 and status not in _AGAIN:
            raise _Refused(f"{found}; is the address right, and are the headers?")
        raise httpx2.ReadError(found)

    def _emission(self, intake: Intake, event: ServerEvent) -> Emission:
        subject = self._subject.replace(EVENT, token_of(event.type))
        own = event.last_id if self._ids and event.has_id and event.last_id else None
        id, position = own, None if own is None else _position(own)
        raw = event.data.encode()
        try:
            return Emission(subject, self._read(raw), id=id, position=position)
        except BadPayload as error:
            return intake.refusal(raw, str(error), place=event.type, id=id, position=position)


def _position(id: str) -> int | None:
    """Return *id* as a number, if it is one that is written in no other way."""
    if not id.isascii() or not id.isdigit() or len(id) > 19:
        return None
    position = int(id)
    return position if position <= POSITION_MAX and str(position) == id else None


class _Link(Struct):
    """What goes from one connection to the next."""

    last_id: str
    retry_s: float = 0.0
    was_connected: bool = False
