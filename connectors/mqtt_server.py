"""`MqttServer`: where an MQTT server is and how it is greeted, for source and sink alike.

All is checked when it is made; what is secret is in no representation of it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import anyio
from anyio.abc import ByteStream
from msgspec import Struct, json

from headrace.connectors.addresses import address, masked
from headrace.connectors.checks import (
    check_flag,
    check_maybe_text,
    check_number,
    check_one_of,
    reason,
)
from headrace.connectors.mqtt_topics import check_topic
from headrace.connectors.protocol import ConnectorError
from headrace.connectors.tls import TlsFiles
from headrace.engine.errors import HeadraceError

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
QOS: Final = (0, 1, 2)
CLIENT_ID_BYTES_MAX: Final = 65_535


class Will(Struct, frozen=True):
    """What the server publishes when a connection ends without a farewell."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False


class LinkLost(HeadraceError):
    """There is no connection, or no longer."""


class LinkRefused(LinkLost):
    """There is none, and the reason is one that trying again will hardly mend."""


class MqttServer:
    """An address, and what is said there first."""

    def __init__(
        self,
        place: str,
        url: str,
        *,
        version: int = 5,
        user: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        keepalive_s: float = 15.0,
        timeout_s: float = 5.0,
        will: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the settings; *place* says in errors whose they are.

        Raises:
            ConnectorError: *url* is no address.
            TypeError, ValueError: another setting is none.
        """
        if not isinstance(url, str):
            raise TypeError(f"{place}: expected an address as text, found {type(url).__name__}")
        parts = address(url, place, tuple(PORTS))
        self.place = place
        self.shown = masked(url)
        self.host = parts.hostname or ""
        self.port = parts.port or PORTS[parts.scheme]
        self.version = check_one_of(place, "version", version, (4, 5), hint="3.1.1 is 4")
        self.user = unquote(parts.username) if parts.username else None
        self.password = unquote(parts.password) if parts.password else None
        self.user = check_maybe_text(place, "user", user) or self.user
        self.password = check_maybe_text(place, "password", password, secret=True) or self.password
        if self.password and self.user is None and self.version == 4:
            raise ValueError(f"{place}, user: expected one beside a password, found none")
        self.keepalive_s = round(check_number(place, "keepalive_s", keepalive_s, 1.0, 65_535.0))
        """Whole seconds: a server that says nothing for twice as long counts as gone."""
        self.timeout_s = check_number(place, "timeout_s", timeout_s, 0.1, 3600.0)
        self.will = None if will is None else _will_of(place, will)
        self._tls = TlsFiles.checked(place, ca_file, cert_file, key_file)
        self.is_tls = parts.scheme == "mqtts"
        if not self.is_tls and (given := self._tls.given()):
            raise ValueError(
                f"{place}, {given}: expected an address mqtts:// beside it, found {self.shown!r}"
            )
        if self.is_tls:
            self._tls.context()  # a file that is not there is found now

    def __repr__(self) -> str:
        """Name it, without its secrets."""
        return f"<MqttServer {self.shown}>"

    async def dial(self) -> ByteStream:
        """Connect.

        Raises:
            LinkLost: nobody is there.
            LinkRefused: who is there does not speak TLS, or is not who it should be.
        """
        try:
            with anyio.fail_after(self.timeout_s):
                if not self.is_tls:
                    return await anyio.connect_tcp(self.host, self.port)
                context = self._tls.context()
                return await anyio.connect_tcp(
                    self.host, self.port, ssl_context=context, tls_standard_compatible=False
                )
        except ssl.SSLCertVerificationError as error:
            raise LinkRefused(
                f"{self.at()}: expected a certificate that is signed for this host by an authority "
                f"that is trusted, found another ({error.verify_message}); see ca_file"
            ) from None
        except ssl.SSLError as error:
            raise LinkRefused(
                f"{self.at()}: expected TLS, found something else ({error.reason or error})"
            ) from None
        except TimeoutError:
            raise LinkLost(
                f"{self.at()}: expected an answer within {self.timeout_s:g} s, found none"
            ) from None
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, ConnectorError) as error:
            raise LinkLost(f"{self.at()}: cannot connect: {reason(error)}") from None

    async def probe(self) -> str:
        """Say what answers there, as `headrace doctor` asks; raises as `dial`."""
        await anyio.aclose_forcefully(await self.dial())
        return f"{self.shown} can be connected to{', by TLS' if self.is_tls else ''}"

    def at(self) -> str:
        """Return whose it is and where, for errors."""
        return f"{self.place}, {self.host}:{self.port}"


def _will_of(place: str, will: Mapping[str, Any]) -> Will:
    if not isinstance(will, Mapping):
        raise TypeError(f"{place}, will: expected topic, payload, qos, retain; found {will!r:.80}")
    unknown = sorted(map(str, will.keys() - set(Will.__struct_fields__)))
    if unknown or "topic" not in will:
        found = f"found {unknown[0]!r}" if unknown else "found no topic"
        raise ValueError(f"{place}, will: expected topic, payload, qos, retain; {found}")
    check_topic(will["topic"])
    payload = will.get("payload", b"")
    if isinstance(payload, str):
        payload = payload.encode()
    if not isinstance(payload, bytes):
        payload = json.encode(payload)
    qos = check_one_of(f"{place}, will", "qos", will.get("qos", 0), QOS)
    retain = check_flag(f"{place}, will", "retain", will.get("retain", False))
    return Will(will["topic"], payload, qos, retain)


def client_id_of(place: str, given: object, otherwise: str) -> str:
    """Return the name by which the server knows a client; an empty one: it chooses one.

    Raises:
        TypeError, ValueError: *given* is none.
    """
    if given is None:
        return otherwise
    found = check_maybe_text(place, "client_id", given) or ""
    size = len(found.encode(errors="surrogatepass"))
    if not found or size > CLIENT_ID_BYTES_MAX or "\0" in found:
        raise ValueError(
            f"{place}, client_id: expected 1 to {CLIENT_ID_BYTES_MAX} bytes without U+0000, "
            f"found {found!r:.80}"
        )
    return found
