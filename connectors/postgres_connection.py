"""How the connectors of PostgreSQL connect, how they write names, and what its errors mean."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

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

CLOSE_S: Final = 2.0
CONNECT_S: Final = 5.0
FIRST_STEPS_S: Final = 1.0
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
Connection = Any
"""That of the library, which has no types."""
LATER_CLASSES: Final = ("08", "40", "53", "55", "57", "58", "XX")
"""Beginnings of SQLSTATE that say nothing about what was asked, but how the server is just now."""
ACCESS_CLASSES: Final = ("28", "3D", "42501")
"""Those that somebody has to mend at the server: who may connect, and to what."""


class Database:
    """Where a server is and how it is spoken to: the settings that all of its connectors share."""

    def __init__(
        self, url: str, place: str, *, password: str | None, ca_file: str | None, timeout_s: float
    ) -> None:
        """Check the settings; nothing is connected yet.  *place* is how errors call the user."""
        check_text(place, "url", url, what="an address such as postgresql://localhost/db")
        address(url, place, ("postgresql", "postgres"))
        check_maybe_text(place, "password", password, secret=True)
        self.place = place
        self.shown = masked(url)
        self.timeout_s = check_number(place, "timeout_s", timeout_s, 0.1, 3600.0)
        self._url = url
        self._password = password
        self._tls = TlsFiles.checked(place, ca_file, None, None)

    def settings(self) -> dict[str, Any]:
        """Return what the library is to connect with.

        Raises:
            ConnectorError: the library is missing, the loop is not asyncio's, or there is no
                such file of certificates.
        """
        try:
            import asyncpg as _  # noqa: F401
        except ModuleNotFoundError as error:
            raise ExtraMissing(self.place, "postgres", error.name) from error
        needs_asyncio(self.place, "asyncpg")
        settings: dict[str, Any] = {
            "dsn": self._url,
            "timeout": min(CONNECT_S, self.timeout_s),
            "command_timeout": self.timeout_s,
            # What is read and then handed on must not come undone by a crash of the server.
            "server_settings": {"application_name": "headrace", "synchronous_commit": "on"},
        }
        if self._password is not None:
            settings["password"] = self._password
        if self._tls.ca_file is not None:
            settings["ssl"] = self._tls.context()
        return settings

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Connection, None]:
        """Connect for as long as the block lasts.

        Raises:
            ConnectorError: what trying again cannot mend.
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: it may.
        """
        settings = self.settings()
        try:
            connection = await connect(**settings)
            try:
                yield connection
            finally:
                with anyio.move_on_after(CLOSE_S, shield=True):
                    await _closed(connection)
        except gone() as error:
            refusal = self.refusal(error)
            if refusal is None:
                raise
            raise refusal from None

    async def probe(self) -> str:
        """Say what answers there, as `headrace doctor` asks; raises as `connected`."""
        async with self.connected() as connection:
            version = connection.get_server_version()
        return f"PostgreSQL {version.major}.{version.minor} at {self.shown}"

    def refusal(self, error: Exception) -> ConnectorError | None:
        """Return what trying again cannot mend about *error*; ``None``: it may."""
        import asyncpg

        said = masked(one_line(error))
        state = getattr(error, "sqlstate", None)
        if isinstance(state, str) and state:
            if state.startswith(ACCESS_CLASSES):
                return ConnectorError(
                    f"{self.place}: expected to be let in at {self.shown}, found {said!r}; "
                    f"check user, password, database and privileges"
                )
            if state.startswith(LATER_CLASSES):
                return None
            return ConnectorError(
                f"{self.place}: expected {self.shown} to do what it was asked, "
                f"found {said!r} (SQLSTATE {state})"
            )
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConnectorError(
                f"{self.place}: expected a certificate that ca_file vouches for at {self.shown}, "
                f"found {said!r}; check ca_file and the name of the server"
            )
        if isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in said:
            return None  # it was asked while its connection was being lost
        if isinstance(error, asyncpg.InternalClientError) or (
            isinstance(error, ConnectionError) and "rejected SSL upgrade" in said
        ):
            return ConnectorError(
                f"{self.place}: expected a PostgreSQL server at {self.shown}, found one that "
                f"answers otherwise ({said}); check the port, and sslmode if it has no TLS"
            )
        if isinstance(error, asyncpg.ClientConfigurationError | asyncpg.InterfaceError) and (
            not isinstance(error, asyncpg.InterfaceWarning) and "closed" not in said
        ):
            return ConnectorError(f"{self.place}: {self.shown}: {said}")
        return None


async def connect(*arguments: Any, **settings: Any) -> Connection:
    """Connect as the library does, but let a cancellation wait for a moment.

    The library leaves an error that nobody takes, if it is cancelled at its first steps; those
    take milliseconds or until the server is found to be silent, which is a step that it may be
    cancelled at.
    """
    import asyncpg

    connecting = asyncio.ensure_future(asyncpg.connect(*arguments, **settings))
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait([connecting], timeout=FIRST_STEPS_S)
            connecting.cancel()
            await asyncio.wait([connecting])
        if not connecting.cancelled() and connecting.exception() is None:
            connecting.result().terminate()
        raise


async def _closed(connection: Connection) -> None:
    """Close a connection at once; wait for what was called off on it, which is called off too."""
    cancellations = list(connection._cancellations)
    connection.terminate()
    await asyncio.gather(*cancellations, return_exceptions=True)


def gone() -> tuple[type[Exception], ...]:
    """Return the errors of a server that is not there, or does not do what it was asked."""
    import asyncpg

    return asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError


def quoted(place: str, name: str, value: Any) -> str:
    """Return the name of a table or column, perhaps behind its schema, as SQL has it.

    Raises:
        TypeError, ValueError: it is none; *place* and *name* say which setting it is.
    """
    check_text(place, name, value, what="a name such as outbox or shop.outbox")
    parts = value.split(".")
    if len(parts) > 2 or not all(map(NAME.fullmatch, parts)):
        raise ValueError(
            f"{place}, {name}: expected a name of letters, digits and _, such as outbox or "
            f"shop.outbox, found {value!r:.80}"
        )
    return ".".join(f'"{part}"' for part in parts)
