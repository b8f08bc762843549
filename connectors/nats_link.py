"""How the connectors of NATS connect, and what its errors mean.

One connection lasts until it breaks, and then another is made: the library's own reconnecting is
off, since it gives up, sends what was given up, and forgets what was asked for.  Nothing of it
prints: what it has to say is an error of the connection.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import anyio
from anyio.lowlevel import checkpoint

from headrace.connectors.addresses import address, masked
from headrace.connectors.checks import check_number, check_text, needs_asyncio, one_line
from headrace.connectors.payloads import shown
from headrace.connectors.protocol import ConnectorError, ExtraMissing

if TYPE_CHECKING:
    from ssl import SSLContext

SCHEMES: Final = ("nats", "tls")
PORT: Final = 4222
CLOSE_S: Final = 2.0
REFUSALS: Final = ("authorization violation", "authentication", "authorization", "nkey", "jwt")
"""What is in the answers of a server that does not let somebody in."""
CREDS: Final = re.compile(r"BEGIN NATS USER JWT-+\s+\S.*BEGIN USER NKEY SEED-+\s+\S", re.DOTALL)
NO_RESPONDERS: Final = "503"


class LinkLost(Exception):
    """There is no connection any more, or it does not do what it should."""


class NotAnswered(LinkLost):
    """Nobody has answered a request in time."""


class NoResponders(LinkLost):
    """Nobody is there to answer a request."""


class NatsServer:
    """Where a server is and how it is spoken to: the settings that all connectors of NATS share."""

    def __init__(
        self,
        url: str | Sequence[str],
        place: str,
        *,
        user: str | None,
        password: str | None,
        token: str | None,
        creds_file: str | None,
        nkey_file: str | None,
        ca_file: str | None,
        cert_file: str | None,
        key_file: str | None,
        tls_first: bool,
        inbox_prefix: str,
        keepalive_s: float,
        timeout_s: float,
    ) -> None:
        """Check the settings; nothing is connected yet.  *place* is how errors call the user."""
        self.place = place
        urls = [part.strip() for part in url.split(",")] if isinstance(url, str) else list(url)
        for one in urls or [""]:
            check_text(place, "url", one, what="an address such as nats://localhost:4222")
        parts = [address(one, place, SCHEMES) for one in urls]
        self.shown = ", ".join(masked(one) for one in urls)
        self.addresses = [
            f"{one.scheme}://{_host(one.hostname or '')}:{one.port or PORT}" for one in parts
        ]
        texts = {"user": user, "password": password, "token": token, "creds_file": creds_file,
                 "nkey_file": nkey_file, "ca_file": ca_file, "cert_file": cert_file,
                 "key_file": key_file}  # fmt: skip
        for name, value in texts.items():
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{place}, {name}: expected a text, found a {type(value).__name__}")
        given = next((one for one in parts if one.username), None)
        if given is not None and given.username:
            # As the library has it: what stands alone before the @ is a token.
            if given.password is None:
                token = token or unquote(given.username)
            else:
                user, password = (
                    user or unquote(given.username), password or unquote(given.password),
                )  # fmt: skip
        ways = [
            name
            for name, value in {
                "user": user, "token": token, "creds_file": creds_file, "nkey_file": nkey_file,
            }.items()
            if value
        ]  # fmt: skip
        if len(ways) > 1:
            raise ValueError(f"{place}: expected one way to log in, found {' and '.join(ways)}")
        if cert_file and not key_file:
            raise ValueError(f"{place}, key_file: expected the key of cert_file, found none")
        self.wants_tls = bool(
            ca_file or cert_file or tls_first or any(one.scheme == "tls" for one in parts)
        )
        self.keepalive_s = check_number(place, "keepalive_s", keepalive_s, 0.2, 600.0)
        self.timeout_s = check_number(place, "timeout_s", timeout_s, 0.1, 600.0)
        self._creds_file, self._nkey_file = creds_file, nkey_file
        self._tls_files = (ca_file, cert_file, key_file)
        self._options: dict[str, Any] = {
            "user": user,
            "password": password,
            "token": token,
            "user_credentials": creds_file,
            "nkeys_seed": nkey_file,
            "tls_handshake_first": tls_first,
            "inbox_prefix": check_text(place, "inbox_prefix", inbox_prefix),
            "ping_interval": self.keepalive_s / 2,
            "max_outstanding_pings": 1,
            "connect_timeout": self.timeout_s,
            "allow_reconnect": False,
            "reconnect_time_wait": 0,
            "name": "headrace",
        }
        self._next = 0

    def options(self) -> dict[str, Any]:
        """Return what the library is told; reads the files, which may have been made since.

        Raises:
            ConnectorError: one of them cannot be read, or is another.
        """
        for file, what in ((self._creds_file, "creds_file"), (self._nkey_file, "nkey_file")):
            if file is not None:
                self._check_file(what, file)
        return self._options | ({"tls": self._tls()} if self.wants_tls else {})

    def _check_file(self, what: str, file: str) -> None:
        try:
            import nkeys
        except ModuleNotFoundError as error:
            raise ExtraMissing(f"{self.place}, {what}", "nkeys", error.name) from error
        expected = f"{self.place}, {what}: expected a file with "
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConnectorError(f"{expected}credentials, found {one_line(error)}") from None
        if what == "creds_file":
            if not CREDS.search(text):
                raise ConnectorError(
                    f"{expected}a user's JWT and seed, as `nsc generate creds` writes it, "
                    f"found {file!r} without them"
                )
            return
        try:
            nkeys.from_seed(bytearray(text.strip().encode())).wipe()
        except (nkeys.NkeysError, ValueError):
            raise ConnectorError(
                f"{expected}the seed of an nkey, which begins with SU, found {file!r} without one"
            ) from None

    def _tls(self) -> SSLContext:
        import ssl

        ca_file, cert_file, key_file = self._tls_files
        try:
            context = ssl.create_default_context(cafile=ca_file)
            if cert_file:
                context.load_cert_chain(cert_file, key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConnectorError(
                f"{self.place}: expected certificates in {', '.join(filter(None, self._tls_files))}"
                f", found {one_line(error)}"
            ) from None
        return context

    def one(self) -> str:
        """Return the address to try next: one after the other."""
        self._next += 1
        return self.addresses[(self._next - 1) % len(self.addresses)]


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

        await self.client.subscribe(
            subject, queue=queue, cb=called, pending_msgs_limit=0, pending_bytes_limit=0
        )

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
    link = Link(client, server)
    options, url = server.options(), server.one()
    is_connecting = True

    async def failed(error: Exception) -> None:
        said = _said(error)
        if "permissions violation" in said.lower():
            link.complaints.append(said)
        if is_connecting:
            # Otherwise it would try for ever, and say nothing.
            raise error

    async def closed() -> None:
        if not is_connecting:
            link.lose(_said(client.last_error) if client.last_error else "the server has gone")

    try:
        await client.connect(url, error_cb=failed, closed_cb=closed, **options)
    except BaseException as error:
        await close(link)
        if not isinstance(error, Exception):
            raise
        raise await _meaning(error, server, url) from None
    is_connecting = False
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

    return Careful()


async def _meaning(error: Exception, server: NatsServer, url: str) -> Exception:
    """Return what an error of the first moments means: something to mend, or to try again."""
    import ssl

    from nats.errors import Error

    said, place = _said(error), f"{server.place}: expected "
    low = said.lower()
    if isinstance(error, ConnectorError):
        return error
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
    if "info" in low and isinstance(error, Error):
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


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


GONE: Final[tuple[type[Exception], ...]] = (LinkLost, OSError)
"""The errors of a server that is not there, or does not do what it was asked."""
