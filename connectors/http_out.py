"""`HttpSink`: messages to an HTTP server, each under its idempotency key until it is taken.

What trying again may mend is tried again: no connection, no whole answer, 408, 425, 429 and 5xx;
a ``Retry-After`` is kept.  Any other status is the answer to this very message, so it is a dead
letter at once.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import SplitResult, quote, unquote, urlsplit

import anyio
import msgspec
from msgspec import Struct

from headrace.connectors.addresses import address, masked, without_echo
from headrace.connectors.checks import check_headers, check_number, check_text, kind_and_line
from headrace.connectors.payloads import shown
from headrace.connectors.protocol import (
    ConnectorError,
    ExtraMissing,
    SinkRefused,
    SinkUnavailable,
)
from headrace.connectors.trace_context import outgoing
from headrace.engine.clock import NS, Clock, SystemClock

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 5.0
RESPONSE_BYTES_MAX: Final = 64 * 1024
RETRY_AFTER_S_MAX: Final = 1e9
KEY_HEADER: Final = "Idempotency-Key"
SUBJECT: Final = "{subject}"
SECRET_CHARS_MIN: Final = 6
"""What is shorter stands in many an answer by itself."""
PUBLIC: Final = frozenset(("accept", "accept-language", "content-type", "user-agent", "prefer"))
"""Headers that hold no secret, but words of which answers are full."""
AGAIN: Final = frozenset((408, 425, 429))
"""Statuses below 500 that say "not now"."""
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_KEEP_METHOD: Final = frozenset((307, 308))
_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class HttpMessage(Struct, frozen=True):
    """A request."""

    body: Any = None
    """Bytes are sent as they are, anything else as JSON; ``None``: there is none."""
    url: str = ""
    """Relative to the address of the sink, or another one of the same server."""
    method: str = ""
    """Instead of the sink's."""
    headers: dict[str, str] = {}
    """Besides the sink's.  They are in the log: what is secret belongs to the sink."""


class HttpResult(Struct, frozen=True):
    """What the server has answered."""

    status: int
    body: bytes
    """Its first bytes."""
    content_type: str = ""
    truncated: bool = False
    """Whether there was more of it."""


class HttpSink:
    """Sends each message as a request to *url*, which may hold a place ``{subject}``.

    *headers* go with each request and are never shown, nor in the log.  Redirects are not followed
    unless *redirects_max* says so, and then only to the same server.
    """

    message_type: Any = HttpMessage
    result_type: Any = HttpResult

    def __init__(
        self,
        url: str,
        *,
        name: str = "http",
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        key_header: str = KEY_HEADER,
        timeout_s: float = TIMEOUT_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
        redirects_max: int = 0,
        ca_file: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Check the settings; nothing is connected yet.

        *timeout_s* is for the whole of a request; *ca_file* is a file of certificates to trust.

        Raises:
            ValueError, TypeError: they cannot work.
        """
        self.name = name
        place = f"sink {name!r}"
        try:
            parts = address(url, f"{place}, url", ("http", "https"))
        except ConnectorError as error:
            raise ValueError(str(error)) from None
        if not _METHOD.fullmatch(check_text(place, "method", method)):
            raise ValueError(f"{place}, method: expected one such as 'POST', found {method!r:.40}")
        if not _NAME.fullmatch(check_text(place, "key_header", key_header)):
            raise ValueError(f"{place}, key_header: expected a header's name, found {key_header!r}")
        self._url = url
        self._method = method
        self._headers = check_headers(place, {} if headers is None else headers)
        self._key_header = key_header
        self._timeout_s = check_number(place, "timeout_s", timeout_s, 0.001, 86_400.0)
        self._connect_timeout_s = check_number(
            place, "connect_timeout_s", connect_timeout_s, 0.001, 3600.0
        )
        self._response_bytes_max = check_number(
            place, "response_bytes_max", response_bytes_max, 1, 512 * 1024
        )
        self._redirects_max = check_number(place, "redirects_max", redirects_max, 0, 20)
        self._ca = (
            None if ca_file is None else check_text(place, "ca_file", ca_file, what="a file's path")
        )
        self._clock: Clock = clock or SystemClock()
        # Of an address the path may be as secret as a password: that of a chat's webhook is.
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self._server = f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
        self._secrets = _secrets(parts, self._headers)
        self._places = [] if len(parts.path) < 2 else [parts.path.encode()]
        self._places += [parts.query.encode()] if parts.query else []
        self._client: httpx2.AsyncClient | None = None

    def __repr__(self) -> str:
        return f"HttpSink({self._server!r}, name={self.name!r})"

    def message_of(self, subject: str, data: Any) -> HttpMessage:
        """Return the message that forwards an event: its data as JSON."""
        if SUBJECT not in self._url:
            return HttpMessage(data)
        path = self._url.replace(SUBJECT, quote(subject, safe=""))
        parts = urlsplit(path)
        return HttpMessage(data, f"{parts.path}?{parts.query}" if parts.query else parts.path)

    async def __aenter__(self) -> Self:
        """Get ready to send; it connects with the first message."""
        try:
            import httpx2
        except ModuleNotFoundError as error:
            raise ExtraMissing(f"sink {self.name!r}", "http", error.name) from None
        try:
            self._client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(self._timeout_s, connect=self._connect_timeout_s),
                verify=_context(self._ca),
                headers={"accept-encoding": "identity"},  # the bound is for what comes
            )
        except OSError as error:
            raise ConnectorError(
                f"sink {self.name!r}, ca_file: expected a file of certificates, found {error}"
            ) from None
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def send(self, message: HttpMessage, *, key: str) -> HttpResult:
        """Send a request; return the answer if it is one of success (2xx).

        Raises:
            SinkRefused: the server does not take it, or it is no request.
            SinkUnavailable: there is no answer, or one that says "not now".
        """
        import httpx2

        assert self._client is not None, "it is opened by its engine"
        with anyio.move_on_after(self._timeout_s):
            try:
                return await self._sent(message, key)
            except (httpx2.InvalidURL, httpx2.LocalProtocolError, UnicodeEncodeError) as error:
                raise SinkRefused(
                    f"{self._place(message)}: expected a request that can be sent, found "
                    f"{_line(error)}"
                ) from None
            except (httpx2.TransportError, OSError, anyio.ClosedResourceError) as error:
                raise SinkUnavailable(
                    f"{self._place(message)}: expected an answer, found {_line(error)}"
                ) from None
        raise SinkUnavailable(
            f"{self._place(message)}: expected a whole answer within {self._timeout_s:g} s, "
            "found none"
        )

    async def _sent(self, message: HttpMessage, key: str) -> HttpResult:
        import httpx2

        client = self._client
        assert client is not None
        base = httpx2.URL(self._url.replace(SUBJECT, ""))
        url = base.join(message.url) if message.url else base
        method = message.method or self._method
        if not _METHOD.fullmatch(method):
            raise SinkRefused(f"{self._place(message)}: expected a method, found {method!r:.40}")
        content, content_type = _content(message.body)
        headers = {**content_type, **outgoing(), **_lower(message.headers), **self._headers}
        headers[self._key_header.lower()] = key
        for _ in range(self._redirects_max + 1):
            if (url.scheme, url.host, url.port) != (base.scheme, base.host, base.port):
                raise SinkRefused(
                    f"{self._place(message)}: expected an address at {self._server}, found one "
                    "elsewhere, which would get its headers"
                )
            async with client.stream(method, url, content=content, headers=headers) as response:
                body, truncated = await self._read(response)
            status = response.status_code
            if status not in _REDIRECTS or not self._redirects_max:
                return self._result(message, response, body, truncated=truncated)
            location = response.headers.get("location", "")
            if not location or (status not in _KEEP_METHOD and method not in {"GET", "HEAD"}):
                return self._result(message, response, body, truncated=truncated)
            url = url.join(location)
        raise SinkRefused(
            f"{self._place(message)}: expected at most {self._redirects_max} redirects, found more"
        )

    async def _read(self, response: httpx2.Response) -> tuple[bytes, bool]:
        import httpx2

        body, truncated = bytearray(), False
        try:
            # To its end also then: an iteration that is left is for the garbage collector.
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > self._response_bytes_max:
                    truncated = True
                    await response.aclose()
        except (httpx2.StreamError, httpx2.TransportError, anyio.ClosedResourceError):
            if not truncated:
                raise
        return bytes(body[: self._response_bytes_max]), truncated

    def _result(
        self, message: HttpMessage, response: httpx2.Response, body: bytes, *, truncated: bool
    ) -> HttpResult:
        status = response.status_code
        if 200 <= status < 300:
            content_type = response.headers.get("content-type", "")
            body = _without(body, self._secrets)
            return HttpResult(status, body, content_type[:200], truncated)
        found = f"{self._place(message)}: expected a status of success, found {status}"
        if body:
            found += f" and {masked(shown(_without(body, self._secrets + self._places)))}"
        if status in AGAIN or status >= 500:
            after_s = retry_after_s(response.headers.get("retry-after"), self._clock)
            raise SinkUnavailable(found, retry_after_s=after_s)
        if status in _REDIRECTS:
            found += "; is the address right, or is redirects_max= to be set?"
        raise SinkRefused(found)

    def _place(self, message: HttpMessage) -> str:
        return f"sink {self.name!r}, {(message.method or self._method)[:20]} to {self._server}"


def retry_after_s(text: str | None, clock: Clock) -> float | None:
    """Return when a server wants to be asked again, in seconds, if *text* says it (RFC 9110).

    It is a number of seconds, or a date; ``None``: it is neither.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:10]) if len(text) <= 10 else RETRY_AFTER_S_MAX
    try:
        at = parsedate_to_datetime(text)
        at_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return max(0.0, at_s - clock.wall_ns() / NS)


def _content(body: Any) -> tuple[bytes | None, dict[str, str]]:
    if body is None:
        return None, {}
    if isinstance(body, bytes):
        return body, {"content-type": "application/octet-stream"}
    return msgspec.json.encode(body), {"content-type": "application/json"}


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _secrets(parts: SplitResult, headers: Mapping[str, str]) -> list[bytes]:
    """Return what a server that says what it got would say, the longest first."""
    values = [value for name, value in headers.items() if name not in PUBLIC]
    given = [word for value in values for word in (value, value.rpartition(" ")[2])]
    if parts.password:
        word, user = unquote(parts.password), unquote(parts.username or "")
        given += [word, parts.password, b64encode(f"{user}:{word}".encode()).decode()]
    found = {text.encode() for text in given if len(text) >= SECRET_CHARS_MIN}
    return sorted(found, key=len, reverse=True)


def _without(body: bytes, secrets: list[bytes]) -> bytes:
    for secret in secrets:
        body = body.replace(secret, b"***")
    return body


def _context(ca: str | None) -> Any:
    import ssl

    return True if ca is None else ssl.create_default_context(cafile=ca)


def _line(error: Exception) -> str:
    return masked(without_echo(kind_and_line(error)))[:250]
