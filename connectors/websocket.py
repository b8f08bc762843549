"""`WebSocket`: the messages of a WebSocket server, each an event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio

from headrace.connectors.addresses import address, masked, without_echo
from headrace.connectors.backoff import Backoff
from headrace.connectors.checks import (
    check_headers,
    check_number,
    check_subject,
    check_text,
    kind_and_line,
    needs_asyncio,
)
from headrace.connectors.intake import Intake
from headrace.connectors.payloads import BadPayload, Payload, reader
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError, ExtraMissing
from headrace.engine.backend import is_cancelled_here
from headrace.engine.emission import Emission
from headrace.engine.resources import sole

MESSAGE_BYTES_MAX: Final = 1024 * 1024
PING_S: Final = 20.0
CONNECT_TIMEOUT_S: Final = 5.0
IN_FLIGHT_MAX: Final = 1000
HELD_BYTES_MAX: Final = 16 * 1024 * 1024
"""How many bytes of messages wait to be stored before no more is read."""
CLOSE_S: Final = 1.0
_AGAIN: Final = frozenset((408, 425, 429))


class _Refused(Exception):
    """What answers at the address is no WebSocket server, or does not let us in."""


def _texts(place: str, given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{place}, subscribe: expected a text, or a list of texts")
    return [check_text(place, "subscribe", text) for text in texts]


class WebSocket:
    """Takes the messages of one address; *subscribe* is sent first with each connection.

    At most once: a message that comes while nobody listens is lost, since the protocol gives
    messages neither an identity nor an acknowledgement.

    A connection is asked for a sign of life each *ping_s* seconds, and counts as lost if there is
    none within the same time.
    """

    promise: Promise = "at most once"

    def __init__(
        self,
        url: str,
        *,
        subject: str = "websocket.message",
        name: str = "websocket",
        headers: Mapping[str, str] | None = None,
        subscribe: str | Sequence[str] = (),
        payload: Payload = "json",
        ping_s: float = PING_S,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        """Check the settings; nothing is connected yet.

        Raises:
            ValueError, TypeError, ConnectorError: they cannot work.
        """
        self.name = name
        place = f"source {name!r}"
        parts = address(url, f"{place}, url", ("ws", "wss"))
        self._server = f"{parts.scheme}://{parts.hostname}" + (
            f":{parts.port}" if parts.port else ""
        )
        self._url = url
        self._subject = check_subject(place, "subject", subject)
        self._headers = check_headers(place, {} if headers is None else headers)
        self._subscribe = _texts(place, subscribe)
        self._read = reader(payload, place)
        self._ping_s = check_number(place, "ping_s", ping_s, 0.01, 3600.0)
        self._message_bytes_max = check_number(
            place, "message_bytes_max", message_bytes_max, 1, 64 * 1024 * 1024
        )
        self._in_flight_max = check_number(place, "in_flight_max", in_flight_max, 1, 100_000)

    def __repr__(self) -> str:
        return f"WebSocket({self._server!r}, name={self.name!r})"

    async def run(self, intake: Intake) -> None:
        """Take messages, from connection to connection, until cancelled.

        Raises:
            ConnectorError: at the first connection, what trying again cannot mend.
        """
        try:
            from websockets.exceptions import WebSocketException
        except ModuleNotFoundError as error:
            raise ExtraMissing(f"source {self.name!r}", "websocket", error.name) from None
        needs_asyncio(f"source {self.name!r}", "websockets")
        backoff = Backoff()
        while True:
            begun = anyio.current_time()
            try:
                await self._connection(intake)
                lost = "the server has closed the connection"
            except _Refused as error:
                if not intake.status.connections:
                    raise ConnectorError(f"source {self.name!r}: {error}") from None
                lost = str(error)
            except asyncio.CancelledError:
                if is_cancelled_here():
                    raise
                lost = "the library awaited what it had cancelled itself"
            except (WebSocketException, OSError) as error:
                lost = masked(without_echo(kind_and_line(error)))
            intake.lost(lost[:300])
            backoff.reset(held_s=anyio.current_time() - begun)
            await backoff.wait()

    async def _connection(self, intake: Intake) -> None:
        from websockets.exceptions import ConnectionClosedOK

        connection = await self._opened()
        try:
            for text in self._subscribe:
                await connection.send(text)
            intake.connected(server=self._server)
            await self._messages(connection, intake)
        except ConnectionClosedOK:
            return
        finally:
            # Also if it is cancelled: otherwise its socket would stay open.
            with anyio.move_on_after(CLOSE_S, shield=True):
                await connection.close()
            connection.transport.abort()

    async def _messages(self, connection: Any, intake: Intake) -> None:
        from websockets.exceptions import WebSocketException

        held, failure = _Held(self._in_flight_max), None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._store, intake, held)
                try:
                    async for message in connection:
                        held.add(message)
                        # While it is full, the connection is not read, and the server waits.
                        await held.room()
                except (WebSocketException, OSError) as error:
                    failure = error  # once all that had come is stored
                finally:
                    held.end()
        except BaseExceptionGroup as several:
            raise sole(several) from None
        if failure is not None:
            raise failure

    async def _opened(self) -> Any:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus

        class StaysHere(connect):
            """Follows no redirect: another server would get the headers, which are secrets."""

            def process_redirect(self, exc: Exception) -> Exception | str:
                return exc

        found = f"expected a WebSocket server at {self._server}, found"
        try:
            return await StaysHere(
                self._url,
                additional_headers=self._headers,
                max_size=self._message_bytes_max,
                ping_interval=self._ping_s,
                ping_timeout=self._ping_s,
                open_timeout=CONNECT_TIMEOUT_S,
                close_timeout=CLOSE_S,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            if status >= 500 or status in _AGAIN:
                raise
            raise _Refused(
                f"{found} status {status}; is the address right, and are the headers?"
            ) from None
        except InvalidMessage as error:
            if isinstance(error.__cause__, EOFError):
                raise  # it was ended while it answered
            raise _Refused(f"{found} another protocol; is the port right?") from None
        except InvalidHandshake as error:
            raise _Refused(f"{found} {type(error).__name__}; is the address right?") from None

    async def _store(self, intake: Intake, held: _Held) -> None:
        """Store what came meanwhile as one group, until nothing more comes."""
        while messages := await held.take():
            await intake.put([self._emission(intake, one) for one in messages])
            held.done(messages)

    def _emission(self, intake: Intake, message: str | bytes) -> Emission:
        raw = message.encode("utf-8", "surrogatepass") if isinstance(message, str) else message
        try:
            return Emission(self._subject, self._read(raw))
        except BadPayload as error:
            return intake.refusal(raw, str(error), place=self._subject)


class _Held:
    """The messages that are taken and not stored: so many, and so many bytes of them."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._waiting: list[str | bytes] = []
        self._count = self._size = 0
        self._has_ended = False
        self._changed = anyio.Event()

    def add(self, message: str | bytes) -> None:
        """Hold one more."""
        self._waiting.append(message)
        self._count += 1
        self._size += len(message)
        self._tell()

    async def room(self) -> None:
        """Return once there is room for another one."""
        while self._count >= self._count_max or self._size >= HELD_BYTES_MAX:
            await self._changed.wait()

    async def take(self) -> list[str | bytes]:
        """Return all that wait to be stored, and wait for one; none: there will be no more."""
        while not self._waiting and not self._has_ended:
            await self._changed.wait()
        taken, self._waiting = self._waiting, []
        return taken

    def done(self, messages: list[str | bytes]) -> None:
        """Let go of what is stored."""
        self._count -= len(messages)
        self._size -= sum(map(len, messages))
        self._tell()

    def end(self) -> None:
        """Say that nothing more comes."""
        self._has_ended = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
