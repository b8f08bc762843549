"""How the connectors of NATS connect, and what its errors mean.

One connection lasts until it breaks, and then another is made: the library's own reconnecting is
off, since it gives up, sends what was given up, and forgets what was asked for.  Nothing of it
prints: what it has to say is an error of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint

from headrace.connectors.addresses import masked
from headrace.connectors.checks import needs_asyncio, one_line
from headrace.connectors.nats_settings import NatsServer
from headrace.connectors.payloads import shown
from headrace.connectors.protocol import ConnectorError, ExtraMissing

CLOSE_S: Final = 2.0
REFUSALS: Final = ("authorization violation", "authentication", "authorization", "nkey", "jwt")
"""What is in the answers of a server that does not let somebody in."""
NO_RESPONDERS: Final = "503"


class LinkLost(Exception):
    """There is no connection any more, or it does not do what it should."""


class NotAnswered(LinkLost):
    """Nobody has answered a request in time."""


class NoResponders(LinkLost):
    """Nobody is there to answer a request."""


class Inbox:
    """Messages that have come and are not taken yet, and somebody who waits for them."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self._rung = anyio.Event()

    def ring(self) -> None:
        """Wake who waits."""
        self._rung.set()

    async def rings(self, within_s: float) -> bool:
        """Wait until somebody rings; say whether somebody has."""
        with anyio.move_on_after(within_s):
            await self._rung.wait()
        was = self._rung.is_set()
        if was:
            self._rung = anyio.Event()
        return was

    def take(self) -> list[Any]:
        """Return what has come until now."""
        taken, self.waiting = self.waiting, []
        return taken


class Link:
    """A connection, from its greeting to its end.  Made by `linked`."""

    def __init__(self, client: Any, server: NatsServer) -> None:
        self.client = client
        self.server = server
        self.lost: LinkLost | None = None
        """Why there is no connection any more."""
        self.complaints: list[str] = []
        """What the server has said that it does not let us do."""
        self._watchers: list[Callable[[], None]] = []
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._inbox = ""
        self._count = 0

    def when_lost(self, watcher: Callable[[], None]) -> None:
        """Call *watcher* once the connection is lost."""
        self._watchers.append(watcher)

    def lose(self, reason: str) -> None:
        """Take the connection for lost."""
        if self.lost is not None:
            return
        self.lost = LinkLost(reason)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(LinkLost(reason))
        for watcher in self._watchers:
            watcher()

    def check(self) -> None:
        """Raise `LinkLost` if it is."""
        if self.lost is not None:
            raise self.lost

    async def subscribe(self, subject: str, take: Callable[[Any], None], queue: str = "") -> None:
        """Call *take*, which must not wait, with each message of *subject*."""

        async def called(message: Any) -> None:
            take(message)

        made = await self.client.subscribe(
            subject, queue=queue, cb=called, pending_msgs_limit=0, pending_bytes_limit=0
        )
        self.client.takers[getattr(made, "_id", 0)] = take

    async def publish(
        self,
        subject: str,
        payload: bytes,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Hand a message to the network."""
        from nats.errors import ConnectionClosedError, ConnectionDrainingError

        self.check()
        try:
            await self.client.publish(subject, payload, reply=reply, headers=headers or None)
        except (ConnectionClosedError, ConnectionDrainingError) as error:
            raise self.lost or LinkLost(one_line(error)) from None

    async def round_trip(self) -> None:
        """Return once the server has read all that was published."""
        from nats.errors import Error

        self.check()
        try:
            await self.client.rtt(self.server.timeout_s)
        except (Error, OSError) as error:
            self.check()
            raise NotAnswered(
                f"no answer within {self.server.timeout_s:g} s ({one_line(error)})"
            ) from None

    async def request(
        self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Any:
        """Publish a message and return what is answered.

        Raises:
            NoResponders, NotAnswered, LinkLost: nothing is.
        """
        if not self._inbox:
            self._inbox = self.client.new_inbox()
            await self.subscribe(f"{self._inbox}.*", self._answered)
        self._count += 1
        reply = f"{self._inbox}.{self._count}"
        asked: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[reply] = asked
        complaints = len(self.complaints)
        try:
            await self.publish(subject, payload, reply, headers)
            with anyio.fail_after(self.server.timeout_s):
                answer = await asked
        except TimeoutError:
            why = "; ".join(self.complaints[complaints:]) or "none came"
            raise NotAnswered(
                f"expected an answer to {subject} within {self.server.timeout_s:g} s, found {why}"
            ) from None
        finally:
            del self._asked[reply]
            # What was raised while nobody waited is nobody's business.
            if asked.done() and not asked.cancelled():
                asked.exception()
        if answer.headers and answer.headers.get("Status") == NO_RESPONDERS:
            raise NoResponders(f"expected an answer to {subject}, found nobody who gives one")
        return answer

    def _answered(self, message: Any) -> None:
        asked = self._asked.get(message.subject)
        if asked is not None and not asked.done():
            asked.set_result(message)


@asynccontextmanager
async def linked(server: NatsServer) -> AsyncGenerator[Link]:
    """Connect for as long as the block lasts.

    Raises:
        ConnectorError: what trying again cannot mend.
        LinkLost, OSError: there is no connection.
    """
    link = await connect(server)
    try:
        yield link
    finally:
        await close(link)


async def connect(server: NatsServer) -> Link:
    """Return a connection, which is to be given to `close`; raises as `linked`."""
    client = _client(server)
    from nats.errors import Error

    link = Link(client, server)
    options, url = server.options(), server.one()
    is_connected = False

    async def failed(error: Exception) -> None:
        said = _said(error)
        if "permissions violation" in said.lower():
            link.complaints.append(said)
        if not is_connected:
            # Otherwise it would try for ever, and say nothing.
            raise error

    async def closed() -> None:
        if is_connected:
            link.lose(_said(client.last_error) if client.last_error else "the server has gone")

    try:
        await client.connect(url, error_cb=failed, closed_cb=closed, **options)
        is_connected = True
    except (OSError, ValueError, EOFError, Error) as error:
        raise await _meaning(error, server, url) from None
    finally:
        if not is_connected:
            await close(link)
    return link


async def close(link: Link) -> None:
    """Let go of the connection, also if nobody listens."""
    client = link.client
    transport = getattr(client, "_transport", None)
    if not client.is_connected and not client.is_closed:
        # Of a greeting that failed the library would wait for an end that does not come.
        client._transport = None
    with anyio.CancelScope(shield=True):
        with anyio.move_on_after(CLOSE_S), suppress(OSError):
            await client.close()
        link.lose("closed")
        # And it leaves a socket open whose other side reads nothing.
        writer = getattr(transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
            for _ in range(3):  # turns of the loop, until it has let go
                await checkpoint()


def _client(server: NatsServer) -> Any:
    needs_asyncio(server.place, "nats-py")
    try:
        from nats.aio.client import Client
        from nats.errors import Error
    except ModuleNotFoundError as error:
        raise ExtraMissing(server.place, "nats", error.name) from error
    if not hasattr(Client, "_process_info"):
        raise ConnectorError(
            f"{server.place}: expected a nats-py that is known here, found another; "
            f"pip install 'nats-py>=2.10,<3'"
        )

    class Careful(Client):
        takers: dict[int, Callable[[Any], None]]

        async def _process_msg(
            self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any
        ) -> None:
            # Without the library's queue and its task: a fifth of what a message costs.
            take = self.takers.get(sid)
            if take is None:
                await super()._process_msg(sid, subject, reply, data, headers)
                return
            found = await self._process_headers(headers) if headers else None
            take(self._build_message(sid, subject, reply, data, found))

        async def _process_info(
            self,
            info: dict[str, Any],
            initial_connection: bool = False,  # noqa: FBT001, FBT002
        ) -> None:
            # The library asks for TLS only if the server does, and would send the password as
            # it is to whoever pretends to be one without.
            if initial_connection and server.wants_tls and not info.get("tls_required"):
                if not info.get("tls_available"):
                    raise Error("nats: TLS is asked for, and this server has none")
                info["tls_required"] = True
            await super()._process_info(info, initial_connection)

        def _build_message(
            self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any
        ) -> Any:
            # A subject may be any bytes; one that is no UTF-8 would end the library's reading.
            try:
                return super()._build_message(sid, subject, reply, data, headers)
            except UnicodeDecodeError:
                message: Any = super()._build_message(sid, b"", b"", data, headers)
                message.subject = subject.decode(errors="surrogateescape")
                message.reply = reply.decode(errors="surrogateescape")
                return message

    made = Careful()
    made.takers = {}
    return made


async def _meaning(error: Exception, server: NatsServer, url: str) -> Exception:
    """Return what an error of the first moments means: something to mend, or to try again."""
    import ssl

    from nats.errors import Error

    said, place = _said(error), f"{server.place}: expected "
    low = said.lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectorError(
            f"{place}a certificate that ca_file vouches for at {url}, found {said!r}; "
            f"check ca_file and the name of the server"
        )
    if isinstance(error, ssl.SSLError) or "certificate" in low:
        return ConnectorError(
            f"{place}TLS at {url}, found {said!r}; check cert_file, tls_first and the port"
        )
    if "this server has none" in low:
        return ConnectorError(f"{place}TLS at {url}, found a server without; check the address")
    if ("info" in low and isinstance(error, Error)) or isinstance(error, ValueError):
        found = await _greeting(url, server.timeout_s)
        if found and not found.startswith(b"INFO"):
            return ConnectorError(
                f"{place}a NATS server at {url}, found one that says {shown(found)}; check the port"
            )
        return LinkLost(f"{url}: connection closed instead of a greeting")
    if isinstance(error, Error) and any(word in low for word in REFUSALS):
        return ConnectorError(
            f"{place}to be let in at {url}, found {said!r}; "
            f"check user, password, token, creds_file or nkey_file"
        )
    if isinstance(error, TimeoutError):
        return LinkLost(f"{url}: no greeting of a NATS server within {server.timeout_s:g} s")
    return LinkLost(f"{url}: {type(error).__name__}: {said}")


async def _greeting(url: str, timeout_s: float) -> bytes:
    """Return what a server says that is no NATS server, as far as it says anything."""
    host, _, port = url.partition("://")[2].rpartition(":")
    with (
        suppress(OSError, anyio.EndOfStream, anyio.BrokenResourceError),
        anyio.move_on_after(timeout_s),
    ):
        async with await anyio.connect_tcp(host.strip("[]"), int(port)) as stream:
            return await stream.receive(200)
    return b""


def _said(error: BaseException) -> str:
    return masked(one_line(error)).removeprefix("nats: ")


GONE: Final[tuple[type[Exception], ...]] = (LinkLost, OSError)
"""The errors of a server that is not there, or does not do what it was asked."""
