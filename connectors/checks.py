"""Settings that are looked at when a connector is made, and the errors that say what to do."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, TypeVar

from headrace.connectors.protocol import ConnectorError
from headrace.engine.subject import check_emit

SHOWN_CHARS_MAX: Final = 80
LABEL_CHARS_MAX: Final = 150
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
N = TypeVar("N", int, float)


def check_text(place: str, name: str, value: Any, *, what: str = "a text") -> str:
    """Return *value*, which is a text that is not empty.

    Raises:
        TypeError, ValueError: it is not; *place* and *name* say which setting it is.
    """
    if not isinstance(value, str):
        raise TypeError(f"{place}, {name}: expected {what}, found {_shown(value)}")
    if not value or "\0" in value:
        raise ValueError(f"{place}, {name}: expected {what}, found {_shown(value)}")
    return value


def check_number(place: str, name: str, value: N, least: N, most: N) -> N:
    """Return *value*, a number of the kind of *least*, from that to *most*.

    Raises:
        TypeError, ValueError: it is not; *place* and *name* say which setting it is.
    """
    whole = isinstance(least, int)
    what = f"{'a whole number' if whole else 'a number'} from {_plain(least)} to {_plain(most)}"
    found: Any = value
    if isinstance(found, bool) or not isinstance(found, int if whole else (int, float)):
        raise TypeError(f"{place}, {name}: expected {what}, found {_shown(value)}")
    if not least <= found <= most:
        raise ValueError(f"{place}, {name}: expected {what}, found {_shown(value)}")
    return value


def check_maybe_text(place: str, name: str, value: Any, *, secret: bool = False) -> str | None:
    """Return *value*, a text or ``None``; what is *secret* is not shown.

    Raises:
        TypeError: it is neither; *place* and *name* say which setting it is.
    """
    if value is not None and not isinstance(value, str):
        found = type(value).__name__ if secret else _shown(value)
        raise TypeError(f"{place}, {name}: expected a text, found {found}")
    return value


def check_flag(place: str, name: str, value: Any) -> bool:
    """Return *value*, true or false.

    Raises:
        TypeError: it is neither; *place* and *name* say which setting it is.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{place}, {name}: expected true or false, found {_shown(value)}")
    return value


def check_subject(place: str, name: str, value: Any) -> str:
    """Return *value*, a subject that events can have.

    Raises:
        TypeError, ValueError: it is none; *place* and *name* say which setting it is.
    """
    if not isinstance(value, str):
        raise TypeError(f"{place}, {name}: expected a subject, found {_shown(value)}")
    try:
        check_emit(value)
    except ValueError as error:
        raise ValueError(f"{place}, {name}: {error}") from None
    return value


def check_headers(place: str, headers: Any) -> dict[str, str]:
    """Return *headers* of HTTP by their names in small letters.

    Raises:
        TypeError, ValueError: they are none.  No value is shown: it may be a secret.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"{place}, headers: expected a table, found {_shown(headers)}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise ValueError(f"{place}, headers: expected names of headers, found {name!r:.40}")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValueError(
                f"{place}, headers, {name[:40]}: expected text in ASCII without line breaks, "
                "found another value"
            )
    return {name.lower(): value for name, value in headers.items()}


def check_one_of(
    place: str, name: str, value: Any, known: tuple[Any, ...], *, hint: str = ""
) -> Any:
    """Return *value*, one of *known*.

    Raises:
        ValueError: it is another; *place* and *name* say which setting it is.
    """
    if isinstance(value, bool) or value not in known:
        wanted = " or ".join(map(repr, known)) + (f" ({hint})" if hint else "")
        raise ValueError(f"{place}, {name}: expected {wanted}, found {_shown(value)}")
    return value


def needs_asyncio(place: str, library: str, *, instead: str = "") -> None:
    """Refuse to work where the loop is not asyncio's.

    Raises:
        ConnectorError: it is not; *place* says whose *library* needs it, *instead* what else
            can be done.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConnectorError(
            f"{place}: expected asyncio, which {library} is made for, found another event loop; "
            f"run the app on asyncio{', or ' if instead else ''}{instead}"
        ) from None


def label(text: str) -> str:
    """Return *text* as an id or a name of a cursor, which have bounds: a long one by its digest."""
    if len(text) <= LABEL_CHARS_MAX:
        return text
    return f"{text[: LABEL_CHARS_MAX - 33]}~{blake2b(text.encode(), digest_size=16).hexdigest()}"


def one_line(error: BaseException) -> str:
    """Return what *error* says as one line, its kind included if that is all there is."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def kind_and_line(error: BaseException) -> str:
    """Return what *error* is and what it says, as one line; its kind alone if that is all."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def behind(error: BaseException) -> BaseException:
    """Return what led to *error*, a connection that failed: of several attempts the last."""
    inner = error.exceptions[-1] if isinstance(error, BaseExceptionGroup) else error.__cause__
    return error if inner is None else behind(inner)


def reason(error: BaseException) -> str:
    """Return what is `behind` *error* as people say it: ``Connection refused``."""
    root = behind(error)
    # The numbers of names that are not found, and of TLS, are others than the system's.
    if isinstance(root, OSError) and not isinstance(root, socket.gaierror | ssl.SSLError):
        return os.strerror(root.errno) if root.errno else one_line(root)
    return one_line(root)


def _plain(number: float) -> str:
    """Return *number* as people write it: ``65 535``, and ``0.1``."""
    shown = int(number) if number == int(number) else number
    return f"{shown:,}".replace(",", " ")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"
