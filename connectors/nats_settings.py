"""Where a NATS server is and how it is spoken to: what all connectors of NATS can be told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote

from headrace.connectors.addresses import address, masked
from headrace.connectors.checks import check_flag, check_number, check_text, one_line
from headrace.connectors.protocol import ConnectorError, ExtraMissing
from headrace.connectors.tls import TlsFiles

SCHEMES: Final = ("nats", "tls")
PORT: Final = 4222
CREDS: Final = re.compile(r"BEGIN NATS USER JWT-+\s+\S.*BEGIN USER NKEY SEED-+\s+\S", re.DOTALL)


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
        texts = {"user": user, "password": password, "token": token, "creds_file": creds_file,
                 "nkey_file": nkey_file, "ca_file": ca_file, "cert_file": cert_file,
                 "key_file": key_file}  # fmt: skip
        for name, value in texts.items():
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{place}, {name}: expected a text, found a {type(value).__name__}")
        urls = _urls(place, url)
        parts = [address(one, place, SCHEMES) for one in urls]
        self.shown = ", ".join(masked(one) for one in urls)
        self.addresses = [_plain_address(one) for one in parts]
        user, password, token = _login(parts, user, password, token)
        _check_ways(place, user=user, token=token, creds_file=creds_file, nkey_file=nkey_file)
        check_flag(place, "tls_first", tls_first)
        self.wants_tls = bool(
            ca_file or cert_file or tls_first or any(one.scheme == "tls" for one in parts)
        )
        self.keepalive_s = check_number(place, "keepalive_s", keepalive_s, 0.2, 600.0)
        self.timeout_s = check_number(place, "timeout_s", timeout_s, 0.1, 600.0)
        self._creds_file, self._nkey_file = creds_file, nkey_file
        self._tls = TlsFiles.checked(place, ca_file, cert_file, key_file)
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
        return self._options | ({"tls": self._tls.context()} if self.wants_tls else {})

    def _check_file(self, what: str, file: str) -> None:
        try:
            import nkeys  # type: ignore[import-untyped]
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

    def one(self) -> str:
        """Return the address to try next: one after the other."""
        self._next += 1
        return self.addresses[(self._next - 1) % len(self.addresses)]


def _plain_address(parts: SplitResult) -> str:
    """Return an address without user and password."""
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{host}:{parts.port or PORT}"


def _urls(place: str, url: str | Sequence[str]) -> list[str]:
    given: object = url
    if not isinstance(given, str | Sequence) or isinstance(given, bytes):
        raise TypeError(f"{place}, url: expected an address, found {ascii(given)[:80]}")
    urls = [part.strip() for part in url.split(",")] if isinstance(url, str) else list(url)
    what = "an address such as nats://localhost:4222"
    return [check_text(place, "url", one, what=what) for one in urls or [""]]


def _login(
    parts: list[SplitResult], user: str | None, password: str | None, token: str | None
) -> tuple[str | None, str | None, str | None]:
    """Return user, password and token: those that are set, else those of an address."""
    given = next((one for one in parts if one.username), None)
    if given is None or given.username is None:
        return user, password, token
    # As the library has it: what stands alone before the @ is a token.
    if given.password is None:
        return user, password, token or unquote(given.username)
    return user or unquote(given.username), password or unquote(given.password), token


def _check_ways(place: str, **ways: str | None) -> None:
    found = [name for name, value in ways.items() if value]
    if len(found) > 1:
        raise ValueError(f"{place}: expected one way to log in, found {' and '.join(found)}")
