"""How the source and the sink of Kafka connect, and what is wrong if they cannot.

The library says of every failure only that it found no broker.  So a broker is asked by itself
before: that tells wrong credentials, and servers that speak something else, from one that is gone.
"""

from __future__ import annotations

import re
import ssl
import struct
from importlib.metadata import version
from typing import Any, Final

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from headrace.connectors.checks import (
    behind,
    check_maybe_text,
    check_number,
    check_text,
    needs_asyncio,
    one_line,
    reason,
)
from headrace.connectors.payloads import shown
from headrace.connectors.protocol import ConnectorError, ExtraMissing
from headrace.connectors.tls import TlsFiles

CLOSE_S: Final = 2.0
ANSWER_BYTES_MAX: Final = 1 << 20
CORRELATION: Final = 7
ASK_VERSIONS: Final = struct.pack(">ihhih", 10, 18, 0, CORRELATION, -1)
"""A whole request: which versions of the protocol do you speak?"""
ASK_BROKERS: Final = struct.pack(">ihhihi", 14, 3, 1, CORRELATION, -1, 0)
"""Another one, which only those may ask who are let in: which brokers are there?"""
HINT: Final = "if that goes on, check the port, and security"
KEY_HEADER: Final = "idempotency-key"
SUBJECT_HEADER: Final = "subject"
PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_HOST: Final = re.compile(r"[^\s/?#@]+")
_PORT: Final = re.compile(r"[0-9]{1,5}")


class Brokers:
    """Where the brokers are and how they are spoken to."""

    def __init__(
        self,
        servers: str,
        place: str,
        *,
        security: str,
        mechanism: str,
        user: str | None,
        password: str | None,
        ca_file: str | None,
        cert_file: str | None,
        key_file: str | None,
        timeout_s: float,
    ) -> None:
        """Check the settings; nothing is connected yet.  *place* is how errors call the user."""
        self.hosts = _hosts(place, servers)
        for name, value, known in (
            ("security", security, PROTOCOLS),
            ("mechanism", mechanism, MECHANISMS),
        ):
            if value not in known:
                raise ValueError(
                    f"{place}, {name}: expected one of {', '.join(known)}, found {value!r:.80}"
                )
        check_maybe_text(place, "user", user)
        check_maybe_text(place, "password", password, secret=True)
        self.place = place
        self.servers: Any = [f"{host}:{port}" for host, port in self.hosts]
        """As the library takes them."""
        self.shown = servers
        self.timeout_s = check_number(place, "timeout_s", timeout_s, 0.1, 3600.0)
        self._tls = TlsFiles.checked(place, ca_file, cert_file, key_file)
        self._has_login = security.startswith("SASL")
        self._has_tls = security in ("SSL", "SASL_SSL")
        if not self._has_tls and (given := self._tls.given()):
            raise ValueError(
                f"{place}, {given}: expected security SSL or SASL_SSL beside it, found {security}"
            )
        self._settings: dict[str, Any] = {
            "security_protocol": security,
            "request_timeout_ms": round(timeout_s * 1000),
        }
        if security.startswith("SASL"):
            if not isinstance(user, str) or not isinstance(password, str):
                raise TypeError(
                    f"{place}: expected a user and a password, since security is {security}"
                )
            self._settings |= {
                "sasl_mechanism": mechanism,
                "sasl_plain_username": user,
                "sasl_plain_password": password,
            }

    def settings(self) -> dict[str, Any]:
        """Return what the library is to connect with.

        Raises:
            ConnectorError: the library is missing, the loop is not asyncio's, or there is no
                such file of certificates.
        """
        try:
            import aiokafka as _  # noqa: F401
        except ModuleNotFoundError as error:
            raise ExtraMissing(self.place, "kafka", error.name) from error
        needs_asyncio(self.place, "aiokafka")
        settings = dict(self._settings)
        if self._has_tls:
            settings["ssl_context"] = self._tls.context()
        return settings

    async def probe(self) -> str:
        """Say what answers there, as `headrace doctor` asks; raises as `ask`."""
        await self.ask()
        return f"a Kafka broker at {self.shown}"

    async def ask(self) -> None:
        """Return if one of the brokers lets us in.

        Raises:
            ConnectorError: what trying again cannot mend.
            OSError: it may.
        """
        settings = self.settings()
        from aiokafka.conn import create_conn
        from aiokafka.errors import (
            AuthenticationFailedError,
            IllegalSaslStateError,
            IncompatibleBrokerVersion,
            KafkaError,
            SaslAuthenticationFailed,
            UnsupportedSaslMechanismError,
        )

        failure: Exception = OSError("no broker")
        for host, port in self.hosts:
            try:
                # First by ourselves: of another server the library would take any length.
                await self._speaks_kafka(host, port, settings.get("ssl_context"))
                if not self._has_login:
                    return
                connection = await create_conn(host, port, **settings)
            except (
                AuthenticationFailedError,
                SaslAuthenticationFailed,
                UnsupportedSaslMechanismError,
            ) as error:
                raise ConnectorError(
                    f"{self.place}: expected to be let in at {host}:{port}, found "
                    f"{one_line(error)!r}; check user, password and mechanism"
                ) from None
            except (IllegalSaslStateError, IncompatibleBrokerVersion) as error:
                raise ConnectorError(
                    f"{self.place}: expected a broker at {host}:{port} that asks for a user, found "
                    f"one that does not ({type(error).__name__}); check security, and the port"
                ) from None
            except ssl.SSLCertVerificationError as error:
                raise ConnectorError(
                    f"{self.place}: expected a certificate that ca_file vouches for at "
                    f"{host}:{port}, found {one_line(error)!r}; check ca_file"
                ) from None
            except (OSError, KafkaError) as error:
                failure = error
            else:
                closing: Any = connection.close()
                await closing
                return
        said = "" if isinstance(behind(failure), ConnectionRefusedError) else f"; {HINT}"
        raise OSError(f"{self.shown}: {reason(failure)}{said}") from failure

    async def _speaks_kafka(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Return if a broker answers: without a login to all that is asked."""
        what = "the connection was closed"
        questions = [ASK_VERSIONS] if self._has_login else [ASK_VERSIONS, ASK_BROKERS]
        try:
            with anyio.fail_after(self.timeout_s):
                async with await _connected(host, port, tls) as stream:
                    answers = BufferedByteReceiveStream(stream)
                    for question in questions:
                        await stream.send(question)
                        await self._answered(answers, f"{host}:{port}")
                        what = "a broker that wants a login, or one that was about to end"
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            raise OSError(what) from None

    async def _answered(self, answers: BufferedByteReceiveStream, server: str) -> None:
        head = await answers.receive_exactly(8)
        size, correlation = struct.unpack(">ii", head)
        if not 4 < size <= ANSWER_BYTES_MAX or correlation != CORRELATION:
            raise ConnectorError(
                f"{self.place}: expected a Kafka broker at {server}, found a server that "
                f"answers {shown(head)}; check the port, and security"
            )
        await answers.receive_exactly(size - 4)


def _hosts(place: str, servers: str) -> list[tuple[str, int]]:
    what = "addresses such as localhost:9092, separated by commas"
    hosts: list[tuple[str, int]] = []
    for server in check_text(place, "servers", servers, what=what).split(","):
        host, colon, port = server.strip().rpartition(":")
        is_port = bool(colon) and _PORT.fullmatch(port) and 0 < int(port) < 65536
        if not is_port or not _HOST.fullmatch(host):
            # A user does not stand there, and who has written one is not to see it in a log.
            # Part by part: a pattern would take seconds for a long text without one.
            found = ",".join(_without_user(server) for server in servers.split(","))
            raise ConnectorError(f"{place}, servers: expected {what}, found {found!a:.100}")
        hosts.append((host.strip("[]"), int(port)))
    return hosts


def _without_user(server: str) -> str:
    _, at, host = server.rpartition("@")
    return f"***@{host}" if at else server


async def _connected(host: str, port: int, tls: ssl.SSLContext | None) -> ByteStream:
    if tls is None:
        return await anyio.connect_tcp(host, port)
    return await anyio.connect_tcp(host, port, ssl_context=tls, tls_standard_compatible=False)


def inner(place: str, owner: Any, name: str) -> Any:
    """Return what the library has in *owner* under *name*, and does not promise to keep.

    Raises:
        ConnectorError: this version of it has no such thing.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        raise ConnectorError(
            f"{place}: expected an aiokafka whose {type(owner).__name__} has {name!r}, as 0.12 to "
            f"0.14 have, found {version('aiokafka')}; pip install 'aiokafka>=0.12,<0.15'"
        ) from None


def gone() -> tuple[type[Exception], ...]:
    """Return the errors of brokers that are not there, or do not do what they were asked."""
    from aiokafka.errors import KafkaError

    return KafkaError, OSError
