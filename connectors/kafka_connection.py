"""How the source and the sink of Kafka connect, and what is wrong if they cannot.

The library says of every failure only that it found no broker.  So a broker is asked by itself
before: that tells wrong credentials, and servers that speak something else, from one that is gone.
"""

from __future__ import annotations

import ssl
import struct
from typing import Any, Final

import anyio

from headrace.connectors.addresses import masked
from headrace.connectors.checks import check_number, check_text, needs_asyncio, one_line
from headrace.connectors.payloads import shown
from headrace.connectors.protocol import ConnectorError, ExtraMissing

CLOSE_S: Final = 2.0
ANSWER_BYTES_MAX: Final = 1 << 20
CORRELATION: Final = 7
ASK_VERSIONS: Final = struct.pack(">ihhih", 10, 18, 0, CORRELATION, -1)
"""A whole request: which versions of the protocol do you speak?"""
PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


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
        timeout_s: float,
    ) -> None:
        """Check the settings; nothing is connected yet.  *place* is how errors call the user."""
        what = "addresses such as localhost:9092, separated by commas"
        check_text(place, "servers", servers, what=what)
        self.hosts: list[tuple[str, int]] = []
        for server in servers.split(","):
            host, colon, port = server.strip().rpartition(":")
            if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ConnectorError(
                    f"{place}, servers: expected {what}, found {masked(servers)!r}"
                )
            self.hosts.append((host.strip("[]"), int(port)))
        for name, value, known in (
            ("security", security, PROTOCOLS),
            ("mechanism", mechanism, MECHANISMS),
        ):
            if value not in known:
                raise ValueError(
                    f"{place}, {name}: expected one of {', '.join(known)}, found {value!r:.80}"
                )
        self.place = place
        self.servers: Any = [f"{host}:{port}" for host, port in self.hosts]
        """As the library takes them."""
        self.shown = servers
        self.timeout_s = check_number(place, "timeout_s", timeout_s, 0.1, 3600.0)
        self._ca_file = ca_file
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
        if "SSL" in settings["security_protocol"].replace("SASL", ""):
            try:
                settings["ssl_context"] = ssl.create_default_context(cafile=self._ca_file)
            except OSError as error:
                raise ConnectorError(
                    f"{self.place}, ca_file: expected certificates at {self._ca_file}, "
                    f"found: {error.strerror or error}"
                ) from None
        return settings

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
            KafkaError,
            SaslAuthenticationFailed,
            UnsupportedSaslMechanismError,
        )

        failure: Exception = OSError("no broker")
        for host, port in self.hosts:
            try:
                if settings["security_protocol"] == "PLAINTEXT":
                    await self._speaks_kafka(host, port)
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
        raise OSError(f"{self.shown}: {type(failure).__name__}: {one_line(failure)}") from failure

    async def _speaks_kafka(self, host: str, port: int) -> None:
        try:
            with anyio.fail_after(self.timeout_s):
                async with await anyio.connect_tcp(host, port) as stream:
                    await stream.send(ASK_VERSIONS)
                    answer = b""
                    while len(answer) < 8:
                        answer += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise OSError("the connection was closed") from error
        size, correlation = struct.unpack(">ii", answer[:8])
        if not 4 < size <= ANSWER_BYTES_MAX or correlation != CORRELATION:
            raise ConnectorError(
                f"{self.place}: expected a Kafka broker at {host}:{port}, found a server that "
                f"answers {shown(answer)}; check the port, and security"
            )


def gone() -> tuple[type[Exception], ...]:
    """Return the errors of brokers that are not there, or do not do what they were asked."""
    from aiokafka.errors import KafkaError

    return KafkaError, OSError
