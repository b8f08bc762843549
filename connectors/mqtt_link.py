"""One connection to an MQTT server: paho's client reads and writes packets, anyio moves the bytes.

paho is given a `Wire` for its socket, so it needs neither a thread nor a loop of its own, and a
cancellation ends a connection at any await, on asyncio as on trio.  What paho acknowledges by
itself is held back until its owner says that the message is stored (`Link.acknowledge`): QoS 2
too, of which paho says PUBREC as soon as a message has come, and the server forgets it then.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from headrace.connectors.mqtt_server import LinkLost, LinkRefused, MqttServer
from headrace.connectors.payloads import shown
from headrace.connectors.protocol import ExtraMissing

if TYPE_CHECKING:
    from paho.mqtt.client import Client

CHUNK_BYTES: Final = 32 * 1024
PACKETS_AT_ONCE: Final = 64
"""How many packets are read before others get their turn."""
FAREWELL_S: Final = 1.0
"""Seconds for what is still to be sent when a connection is closed."""
CONNECT: Final = 0x10
CONNACK: Final = 0x20
PINGREQ: Final = b"\xc0\x00"
WRONG_VERSION: Final = b"\x01"
MALFORMED: Final = (struct.error, IndexError, KeyError, UnicodeDecodeError)
"""What paho raises for packets that it cannot take apart."""
FAILURE: Final = 0x80
TAKEN_OVER: Final = 0x8E
MAYBE_LATER: Final = frozenset({0x80, 0x83, 0x88, 0x89, 0x97, 0x9C, 0x9D, 0x9F})
"""Reasons that a connection is refused for which may be over the next time: busy and the like."""


class Owner(Protocol):
    """Who is told what comes.  All is called in the loop, and may not call the client back."""

    def is_full(self) -> bool:
        """Say whether to read no further for now; `Link.go_on` ends that."""
        ...

    def received(self, message: Any) -> None:
        """Take a message."""
        ...

    def released(self, mid: int) -> None:
        """Hear that the server forgets a message of QoS 2: its number can be that of another."""
        ...

    def subscribed(self, codes: list[int]) -> None:
        """Hear what the server says of each filter."""
        ...

    def published(self, mid: int, code: int, reason: str) -> None:
        """Hear what the server says of a message."""
        ...

    def ended(self, error: LinkLost) -> None:
        """Hear that nothing more comes."""
        ...


class Wire:
    """What paho takes for its socket: bytes that have come, and bytes that are to go."""

    def __init__(self) -> None:
        self.is_closed = False
        self.going = bytearray()
        self.wanted = anyio.Event()
        """Set once there is something to send."""
        self._came = b""
        self._at = 0

    @property
    def pending(self) -> bool:
        """Whether something has come that was not read."""
        return self._at < len(self._came)

    def feed(self, data: bytes) -> None:
        """Add what has come."""
        self._came = self._came[self._at :] + data
        self._at = 0

    def recv(self, size: int) -> bytes:
        """Read, as from a socket that does not block."""
        data = self._came[self._at : self._at + size]
        if not data:
            raise BlockingIOError
        self._at += len(data)
        return data

    def send(self, data: bytes | bytearray) -> int:
        """Write, all of it."""
        self.going += data
        self.wanted.set()
        return len(data)

    def take(self) -> bytes:
        """Return what is to go."""
        data = bytes(self.going)
        self.going.clear()
        self.wanted = anyio.Event()
        return data

    def close(self) -> None:
        """Paho is done with it, be it by an error or by a packet of the server."""
        self.is_closed = True

    def fileno(self) -> int:
        """There is none."""
        return -1

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 (as a socket has it)
        """It never blocks."""


class Link:
    """A connection, from its greeting to its end.  Made by `linked`."""

    def __init__(self, server: MqttServer, owner: Owner, stream: ByteStream, client: Any) -> None:
        self.server = server
        self.client: Client = client
        self.session_present = False
        """Whether the server remembers this client."""
        self.limits: dict[str, Any] = {}
        """What the server said that it allows (MQTT 5, 3.2.2.3)."""
        self.error: LinkLost | None = None
        """Why there is no connection any more."""
        self.over = anyio.Event()
        """Set once there is `error`."""
        self._owner = owner
        self._stream = stream
        self._wire: Wire = client.wire
        self._greeted = anyio.Event()
        self._keepalive_s = float(server.keepalive_s)
        self._heard_at = anyio.current_time()
        self._room: anyio.Event | None = None
        """While nothing is read: set by `go_on`."""
        self._sent = anyio.Event()
        """Set, and made anew, whenever something was sent."""
        self._is_sending = False

    # ------------------------------------------------------------ for the owner

    def acknowledge(self, mid: int, qos: int) -> None:
        """Tell the server that a message is stored, if it is still there to be told."""
        if self.error is None and qos:
            self.client.ack(mid, qos)

    def go_on(self) -> None:
        """Read on, if that was stopped because the owner had no room."""
        if self._room is not None and not self._owner.is_full():
            room, self._room = self._room, None
            self._heard_at = anyio.current_time()
            room.set()

    async def flushed(self) -> None:
        """Return once all that was to be sent was handed to the network.

        Raises:
            LinkLost: it was not.
        """
        while self._wire.going or self._is_sending:
            if self.error is not None:
                raise self.error
            await self._sent.wait()

    def fail(self, error: LinkLost) -> None:
        """End it; the first reason is what counts."""
        if self.error is None:
            self.error = error
            self._greeted.set()
            self._sent.set()
            self.over.set()
            self._owner.ended(error)

    # ------------------------------------------------------------ what moves the bytes

    async def greeted(self) -> None:
        """Return once the server has accepted the connection.

        Raises:
            LinkLost, LinkRefused: it has not.
        """
        with anyio.move_on_after(self.server.timeout_s):
            await self._greeted.wait()
        if self.error is not None:
            raise self.error
        if not self._greeted.is_set():
            raise LinkLost(
                f"{self.server.at()}: expected an answer within {self.server.timeout_s:g} s, "
                f"found none"
            )

    async def guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work*; what ends it ends the connection."""
        try:
            await work()
        except LinkLost as error:
            self.fail(error)
        except anyio.EndOfStream:
            hint = (
                "without a reason; it stops, or another client has the same client_id"
                if self._greeted.is_set()
                else "before it answered; does it speak MQTT?"
            )
            self.fail(LinkLost(f"{self.server.at()}: the server closed the connection {hint}"))
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            why = str(error.__cause__ or error) or type(error).__name__
            self.fail(LinkLost(f"{self.server.at()}: the connection broke: {why}"))

    async def read(self) -> None:
        """Let paho read what comes, while there is room for it."""
        wire, owner = self._wire, self._owner
        while True:
            if owner.is_full():
                self._room = anyio.Event()
                await self._room.wait()
            if not wire.pending:
                data = await self._stream.receive(CHUNK_BYTES)
                self._heard_at = anyio.current_time()
                if not self._greeted.is_set():
                    self._check_first(data)
                wire.feed(data)
            for _ in range(PACKETS_AT_ONCE):
                self._read_packet()
                if not wire.pending or owner.is_full():
                    break
            else:
                await checkpoint()
            if self.client.want_write():
                self.client.loop_write()

    def _check_first(self, data: bytes) -> None:
        """Look at the first bytes before paho does: it waits for the rest of whatever it is."""
        if data[0] == CONNECT:  # not shown: it may hold our password
            raise LinkRefused(
                f"{self.server.at()}: expected an MQTT server, found one that sends a greeting back"
            )
        if data[0] != CONNACK:
            raise LinkRefused(
                f"{self.server.at()}: expected an MQTT server, found one that says {shown(data)}"
            )
        if self.server.version == 4 and data[3:4] == WRONG_VERSION:
            raise LinkRefused(
                f"{self.server.at()}: expected a server of MQTT 3.1.1, found one that refuses it"
            )

    def _read_packet(self) -> None:
        try:
            code = self.client.loop_read()
        except MALFORMED as error:
            kind = LinkLost if self._greeted.is_set() else LinkRefused
            raise kind(
                f"{self.server.at()}: expected a packet of MQTT, found another ({error!r})"
            ) from None
        if self._wire.is_closed:
            raise LinkLost(f"{self.server.at()}: the connection ended ({code!s})")

    async def write(self) -> None:
        """Send what paho has written, all that there is at once."""
        wire = self._wire
        while True:
            await wire.wanted.wait()
            self._is_sending = True
            await self._stream.send(wire.take())
            self._is_sending = False
            sent, self._sent = self._sent, anyio.Event()
            sent.set()

    async def keep(self) -> None:
        """Ask the server now and then whether it is still there."""
        while True:
            await anyio.sleep(self._keepalive_s / 2)
            self._wire.send(PINGREQ)
            silent_s = anyio.current_time() - self._heard_at
            if silent_s > 1.5 * self._keepalive_s and self._room is None:
                raise LinkLost(f"{self.server.at()}: no answer for {silent_s:.0f} s")

    async def farewell(self) -> None:
        """Send what is to be sent, say that this is the end, and close."""
        with anyio.move_on_after(FAREWELL_S, shield=True):
            try:
                # What was cut off in the midst of a packet would be taken for its rest.
                if self.error is None and not self._is_sending:
                    self.client.disconnect()
                    await self._stream.send(self._wire.take())
                    # A socket that is closed with something unread makes the server forget what
                    # it has not read: these last acknowledgements.
                    while True:
                        await self._stream.receive(CHUNK_BYTES)
            except (
                OSError,
                anyio.EndOfStream,
                anyio.BrokenResourceError,
                anyio.ClosedResourceError,
            ):
                pass  # it is gone already
        await close(self._stream)

    # ------------------------------------------------------------ what paho calls

    def on_connect(self, _: Any, __: Any, flags: Any, reason: Any, properties: Any) -> None:
        """Hear whether the server accepts the connection."""
        if reason.value >= FAILURE:
            kind = LinkLost if reason.value in MAYBE_LATER else LinkRefused
            self.fail(kind(f"{self.server.at()}: the server refused the connection: {reason}"))
            return
        self.session_present = flags.session_present
        self.limits = dict(vars(properties))
        self._keepalive_s = float(self.limits.get("ServerKeepAlive") or self._keepalive_s)
        self._greeted.set()

    def on_disconnect(self, _: Any, __: Any, flags: Any, reason: Any, ___: Any) -> None:
        """Hear why the server, or paho itself, has ended the connection."""
        why = str(reason)
        if reason.value == TAKEN_OVER:
            why += "; another client has the same client_id, give one of them another"
        by = "the server" if flags.is_disconnect_packet_from_server else "the connection"
        self.fail(LinkLost(f"{self.server.at()}: {by} ended: {why}"))


@asynccontextmanager
async def linked(
    server: MqttServer,
    owner: Owner,
    *,
    client_id: str,
    session_expiry_s: int = 0,
    in_flight_max: int,
) -> AsyncGenerator[Link, None]:
    """Be connected while the block lasts, or until the connection is lost: the owner hears of that.

    Raises:
        LinkLost, LinkRefused: the server is not there, or does not accept the connection.
        ExtraMissing: paho is not installed.
    """
    client = _client(server, owner, client_id, clean=session_expiry_s == 0)
    stream = await server.dial()
    link = Link(server, owner, stream, client)
    client.on_connect, client.on_disconnect = link.on_connect, link.on_disconnect
    failure: LinkLost | None = None
    try:
        _greet(client, server, session_expiry_s, in_flight_max)
        async with anyio.create_task_group() as group:
            for work in (link.read, link.write, link.keep):
                group.start_soon(link.guarded, work, name=f"headrace mqtt {work.__name__}")
            try:
                await link.greeted()
                yield link
                with anyio.move_on_after(FAREWELL_S):
                    await link.flushed()
            except LinkLost as error:
                failure = error
            finally:
                group.cancel_scope.cancel()
    finally:
        await link.farewell()
    if failure is not None:
        raise failure


def _client(server: MqttServer, owner: Owner, client_id: str, *, clean: bool) -> Any:
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    client: Any = _class()(
        CallbackAPIVersion.VERSION2,
        client_id,
        clean if server.version == 4 else None,
        protocol=MQTTProtocolVersion(server.version),
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.max_inflight_messages_set(0)  # how many is up to the owner
    client.owner = owner
    client.wire = Wire()
    client.on_message = lambda _, __, message: owner.received(message)
    client.on_subscribe = lambda _, __, ___, codes, ____: owner.subscribed([c.value for c in codes])
    client.on_publish = lambda _, __, mid, reason, ___: owner.published(
        mid, reason.value, str(reason)
    )
    if server.user is not None or server.password is not None:
        client.username_pw_set(server.user or "", server.password)
    if server.will is not None:
        will = server.will
        client.will_set(will.topic, will.payload, will.qos, will.retain)
    return client


def _greet(client: Any, server: MqttServer, session_expiry_s: int, in_flight_max: int) -> None:
    if server.version == 4:
        client.connect(server.host, server.port, server.keepalive_s)
        return
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    new_properties: Any = Properties  # it has no types
    properties = new_properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = session_expiry_s
    properties.ReceiveMaximum = in_flight_max
    client.connect(
        server.host,
        server.port,
        server.keepalive_s,
        clean_start=session_expiry_s == 0,
        properties=properties,
    )


async def close(stream: ByteStream) -> None:
    """Close *stream* whatever happens meanwhile, without waiting for the other end."""
    with anyio.CancelScope(shield=True):
        await anyio.aclose_forcefully(stream)


@cache
def _class() -> type[Client]:
    """Return paho's client with a `Wire`, and with acknowledgements that wait for the log.

    Raises:
        ExtraMissing: paho is not installed.
    """
    try:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import MQTTErrorCode
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.reasoncodes import ReasonCode
    except ModuleNotFoundError as error:
        raise ExtraMissing("MQTT", "mqtt", error.name) from None

    class CarefulClient(Client):
        """Paho's client; `tests/connectors/test_mqtt_contract.py` fails for QoS 2 without."""

        owner: Owner
        wire: Wire

        def _create_socket(self) -> Any:
            return self.wire

        # A message of QoS 2 is handed on when it comes, not when the server releases it, and
        # PUBREC is said by `ack`: with it the server forgets the message (MQTT 5, 4.3.3).

        def _send_pubrec(self, mid: int) -> MQTTErrorCode:
            return MQTTErrorCode.MQTT_ERR_SUCCESS

        def _handle_publish(self) -> MQTTErrorCode:
            code = super()._handle_publish()
            while self._in_messages:
                _, message = self._in_messages.popitem()
                self.owner.received(message)
            return code

        def ack(self, mid: int, qos: int) -> MQTTErrorCode:
            if qos == 2:
                return super()._send_pubrec(mid)
            return super().ack(mid, qos)

        def _handle_pubrel(self) -> MQTTErrorCode:
            mid = int.from_bytes(self._in_packet["packet"][:2])
            code = super()._handle_pubrel()
            self.owner.released(mid)
            # Also for one that is unknown here: it is from an earlier life, in which it was stored.
            return code or self._send_pubcomp(mid)

        def _handle_pubrec(self) -> MQTTErrorCode:
            packet = self._in_packet["packet"]
            mid = int.from_bytes(packet[:2])
            # paho goes on as if the server had taken it.
            if len(packet) > 2 and packet[2] >= FAILURE and mid in self._out_messages:
                reason = ReasonCode(PacketTypes.PUBREC, identifier=packet[2])
                return self._do_on_publish(mid, reason, None)  # type: ignore[arg-type]
            return super()._handle_pubrec()

    return CarefulClient
