"""How the source and the sink of Redis connect, and what its errors mean.

The only file that knows how the library is set up: it tries nothing again by itself, since a
source and a run each do that in their own way, and every wait for an answer has an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import anyio

from headrace.connectors.addresses import address, masked
from headrace.connectors.checks import (
    check_maybe_text,
    check_number,
    check_text,
    needs_asyncio,
    one_line,
)
from headrace.connectors.protocol import ConnectorError, ExtraMissing
from headrace.connectors.tls import TlsFiles

if TYPE_CHECKING:
    from redis.asyncio import Redis

CONNECT_S: Final = 5.0
CLOSE_S: Final = 2.0
LATER: Final = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "OOM",
                "NOREPLICAS", "MISCONF", "UNKILLABLE")  # fmt: skip
"""How answers begin that say nothing about what was asked, but how the server is just now."""
SAID_CHARS_MAX: Final = 200


class Connection:
    """Where a server is and how it is spoken to: the settings that source and sink share."""

    def __init__(
        self,
        url: str,
        place: str,
        *,
        user: str | None,
        password: str | None,
        ca_file: str | None,
        cert_file: str | None,
        key_file: str | None,
        timeout_s: float,
    ) -> None:
        """Check the settings; nothing is connected yet.  *place* is how errors call the user."""
        check_text(place, "url", url, what="an address such as redis://localhost:6379/0")
        parts = address(url, place, ("redis", "rediss"))
        database = parts.path.strip("/")
        if database and not (database.isascii() and database.isdigit()):
            raise ConnectorError(
                f"{place}: expected the number of a database behind the port, "
                f"found {masked(url)!r}; write redis://{parts.hostname}:{parts.port or 6379}/0"
            )
        self.place = place
        self.shown = masked(url)
        self.timeout_s = check_number(place, "timeout_s", timeout_s, 0.1, 3600.0)
        check_maybe_text(place, "user", user)
        check_maybe_text(place, "password", password, secret=True)
        self._tls = TlsFiles.checked(place, ca_file, cert_file, key_file)
        self._has_tls = parts.scheme == "rediss"
        if not self._has_tls and (given := self._tls.given()):
            raise ValueError(
                f"{place}, {given}: expected an address rediss:// beside it, found {self.shown!r}"
            )
        self._settings: dict[str, Any] = {
            "host": parts.hostname,
            "port": parts.port or 6379,
            "db": int(database or 0),
            "username": user or (unquote(parts.username) if parts.username else None),
            "password": password or (unquote(parts.password) if parts.password else None),
        }
        if self._has_tls:
            self._settings |= {
                "ssl": True,
                "ssl_ca_certs": ca_file,
                "ssl_certfile": cert_file,
                "ssl_keyfile": key_file,
                "ssl_password": "",
            }

    def client(self) -> Redis:
        """Return a client, which connects when it is first used.

        Raises:
            ConnectorError: the library is missing, the loop is not asyncio's, or a file of
                certificates is none.
        """
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ModuleNotFoundError as error:
            raise ExtraMissing(self.place, "redis", error.name) from error
        needs_asyncio(self.place, "redis")
        if self._has_tls:
            self._tls.context()  # the library takes a file that is none for a server that is gone
        return Redis(
            **self._settings,
            socket_timeout=self.timeout_s,
            socket_connect_timeout=min(CONNECT_S, self.timeout_s),
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    async def probe(self) -> str:
        """Say what answers there, as `headrace doctor` asks.

        Raises:
            ConnectorError, RedisError, OSError: nothing does as it should.
        """
        client = self.client()
        try:
            info = await client.info("server")
        except gone() as error:
            raise self.refusal(error) or error from None
        finally:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await client.aclose()
        return f"Redis {info['redis_version']} at {self.shown}"

    @contextmanager
    def answers(self) -> Generator[None]:
        """Say of an answer without an end what the library says of others that are none."""
        try:
            yield
        except ValueError as error:
            if not isinstance(error.__context__, asyncio.LimitOverrunError):
                raise
            from redis.exceptions import InvalidResponse

            raise InvalidResponse("a line without an end") from None

    def refusal(self, error: Exception) -> ConnectorError | None:
        """Return what trying again cannot mend about *error*; ``None``: it may."""
        from redis.exceptions import (
            AuthenticationError,
            AuthorizationError,
            BusyLoadingError,
            InvalidResponse,
            NoPermissionError,
            ResponseError,
        )

        said = masked(one_line(error))[:SAID_CHARS_MAX]
        if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
            return ConnectorError(
                f"{self.place}: expected to be let in at {self.shown}, found {said!r}; "
                f"check user and password, and what they may do"
            )
        if isinstance(error, InvalidResponse):
            return ConnectorError(
                f"{self.place}: expected a Redis server at {self.shown}, found one that answers "
                f"{said!r}; check the port"
            )
        if isinstance(error, BusyLoadingError) or said.startswith(LATER):
            return None
        if "CERTIFICATE_VERIFY_FAILED" in said:
            return ConnectorError(
                f"{self.place}: expected a certificate that ca_file vouches for at {self.shown}, "
                f"found {said!r}; check ca_file and the name of the server"
            )
        if "NOAUTH" in said or "AUTH <password>" in said:
            return ConnectorError(
                f"{self.place}: expected to be let in at {self.shown}, found {said!r}; "
                f"check user and password"
            )
        if isinstance(error, ResponseError):
            return ConnectorError(
                f"{self.place}: expected {self.shown} to do what it was asked, found {said!r}"
            )
        return None


def gone() -> tuple[type[Exception], ...]:
    """Return the errors of a server that is not there, or does not do what it was asked."""
    from redis.exceptions import RedisError

    return RedisError, OSError


def field_name(place: str, name: str, given: str | None) -> bytes | None:
    """Return what an entry calls a field, or ``None`` as it is given.

    Raises:
        TypeError, ValueError: no field is called so; *place* and *name* say which setting it is.
    """
    if given is None:
        return None
    try:
        return check_text(place, name, given, what="the name of a field").encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{place}, {name}: expected the name of a field, found {ascii(given)[:80]}"
        ) from None
