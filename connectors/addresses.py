"""Addresses of servers: taken apart, and shown without their secrets."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

from headrace.connectors.protocol import ConnectorError

_USER: Final = re.compile(r"(?<=://)[^/?#\s]*@")
_SECRET: Final = re.compile(
    r"(?i)\b([\w-]*(?:password|passwd|token|secret|api_?key|signature|credential)[\w-]*)(=|: )"
    r"[^&\s,;'\"]+"
)


def masked(text: str) -> str:
    """Return *text*, an address or an error that holds one, without user, password and keys.

    What stands before ``@`` in an address is ``***``, and so is the value of a parameter whose
    name says that it is a secret.
    """
    return _SECRET.sub(r"\1\2***", _USER.sub("***@", text))


def without_echo(text: str) -> str:
    """Return what a library says of an answer, without the bytes: they may be what was asked.

    Of a server that sends everything back they would be our own request, which has secrets.
    """
    return text.partition("bytearray(")[0].rstrip(" :")


def address(url: str, place: str, schemes: tuple[str, ...]) -> SplitResult:
    """Take an address apart.

    Raises:
        TypeError: it is no text.
        ConnectorError: it has another scheme, or no host; *place* says whose it is.
    """
    given: object = url
    if not isinstance(given, str):
        raise TypeError(f"{place}: expected an address, found {ascii(given)[:80]}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConnectorError(
            f"{place}: expected an address, found {masked(url)!r:.100} ({error})"
        ) from None
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ConnectorError(
            f"{place}: expected an address such as {schemes[0]}://localhost ({wanted}), "
            f"found {masked(url)!r:.100}"
        )
    return parts
