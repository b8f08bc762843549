"""`NotifySink`: messages to people, by any of the services that Apprise knows."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import anyio
import msgspec
from anyio import to_thread
from msgspec import Struct

from headrace.connectors.checks import check_number
from headrace.connectors.protocol import ExtraMissing, SinkRefused, SinkUnavailable

TITLE: Final = "{subject}"
BODY: Final = "{data}"
CHARS_MAX: Final = 32_768
TIMEOUT_S: Final = 60.0
THREADS_MAX: Final = 16
"""How many messages are under way at once, those counted whose answer nobody waits for any more."""
FOUND_CHARS_MAX: Final = 40
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}")


class Notification(Struct, frozen=True):
    """What people are told."""

    body: str
    title: str = ""


class NotifySink:
    """Tells everybody that *urls* name, as Apprise writes them: ``slack://…``, ``mailto://…``.

    *title* and *body* are templates for events that are forwarded: ``{subject}``, ``{data}``, and
    ``{data.field}`` for a field of it.  The addresses are secrets: they are never shown.

    At least once: Apprise says only whether all have taken a message, so it is sent to all again.
    """

    message_type: Any = Notification
    result_type: Any = None

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        name: str = "notify",
        title: str = TITLE,
        body: str = BODY,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Check the settings.

        Raises:
            ValueError, TypeError: they cannot work.
        """
        self.name = name
        place = f"sink {name!r}"
        several: object = urls
        if not isinstance(several, str | Sequence) or isinstance(several, bytes):
            raise TypeError(f"{place}, urls: expected addresses, found a {type(several).__name__}")
        given = [urls] if isinstance(urls, str) else list(urls)
        fault = _fault_of(given)
        if fault is not None:
            raise ValueError(
                f"{place}, urls: expected addresses such as 'slack://…' as Apprise writes them, "
                f"found {fault}"
            )
        self._urls = given
        self._title = _parts(title, f"{place}, title")
        self._body = _parts(body, f"{place}, body")
        self._timeout_s = check_number(place, "timeout_s", timeout_s, 0.001, 86_400.0)
        self._notifier: Any = None
        self._limiter: anyio.CapacityLimiter | None = None

    def __repr__(self) -> str:
        return f"NotifySink({len(self._urls)} addresses, name={self.name!r})"

    def message_of(self, subject: str, data: Any) -> Notification:
        """Return what tells of an event, by the templates."""
        values = {"subject": subject, "data": data}
        return Notification(_filled(self._body, values), _filled(self._title, values))

    async def __aenter__(self) -> Self:
        """Take the addresses.

        Raises:
            ExtraMissing: Apprise is not installed.
            ValueError: it does not know one of the addresses.
        """
        # It reads all its plugins at the first address: that takes a second.
        self._notifier = await to_thread.run_sync(self._opened)
        # Of its own: services that are silent would take the threads that all others share.
        self._limiter = anyio.CapacityLimiter(THREADS_MAX)
        return self

    async def probe(self) -> str:
        """Say whether the addresses are known, as `headrace doctor` asks.

        Nothing is sent, since people would read it; raises as entering does.
        """
        await to_thread.run_sync(self._opened)
        return (
            f"Apprise knows the addresses ({len(self._urls)} of {len(self._urls)}); whether they "
            "take a message is seen when one is sent"
        )

    def _opened(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                import apprise
            except ModuleNotFoundError as error:
                raise ExtraMissing(f"sink {self.name!r}", "notify", error.name) from None
            notifier = apprise.Apprise()
            for number, url in enumerate(self._urls, 1):
                with _silent("apprise"):
                    is_known = notifier.add(url)
                if not is_known:
                    scheme = url.partition("://")[0]
                    shown = f"{scheme}://…" if _SCHEME.fullmatch(scheme) else "…"
                    raise ValueError(
                        f"sink {self.name!r}, urls, number {number}: expected an address that "
                        f"Apprise knows, found another one ({shown})"
                    )
        return notifier

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Forget the addresses."""
        self._notifier = None

    async def send(self, message: Notification, *, key: str) -> None:
        """Tell everybody.

        Raises:
            SinkRefused: there is nothing to tell.
            SinkUnavailable: not all have taken it.
        """
        if not message.body and not message.title:
            raise SinkRefused(f"sink {self.name!r}: expected a body or a title, found neither")
        notify = partial(
            self._notifier.notify, body=message.body or message.title, title=message.title
        )
        # A thread cannot be stopped: it is left to its end, for which only the program's waits.
        with anyio.move_on_after(self._timeout_s):
            if await to_thread.run_sync(notify, abandon_on_cancel=True, limiter=self._limiter):
                return
            raise SinkUnavailable(
                f"sink {self.name!r}: expected all of {len(self._urls)} to take the message, "
                "found that not all did"
            )
        raise SinkUnavailable(
            f"sink {self.name!r}: expected an answer within {self._timeout_s:g} s, found none"
        )


@contextmanager
def _silent(name: str) -> Generator[None]:
    """Let a logger say nothing: of an address that it does not know Apprise shows all of it."""

    def no_record(_: logging.LogRecord) -> bool:
        return False

    log = logging.getLogger(name)
    log.addFilter(no_record)
    try:
        yield
    finally:
        log.removeFilter(no_record)


def _fault_of(urls: Sequence[object]) -> str | None:
    """Return what is wrong with addresses, without what they say: they are secrets."""
    if not urls:
        return "none"
    for number, url in enumerate(urls, 1):
        if not isinstance(url, str):
            return f"{type(url).__name__} as number {number}"
        if "://" not in url:
            return f"text without '://' as number {number}"
    return None


def _parts(template: str, place: str) -> list[str | list[str]]:
    """Take a template apart: texts, and the paths of what is put between them.

    No format strings: those would reach into any object.
    """
    if not isinstance(template, str):
        raise TypeError(f"{place}: expected text, found {type(template).__name__}")
    parts: list[str | list[str]] = []
    rest = template
    while rest:
        text, brace, rest = rest.partition("{")
        if text:
            parts.append(text)
        if not brace:
            break
        path, brace, rest = rest.partition("}")
        names = path.split(".")
        is_place = names == ["subject"] or (names[0] == "data" and "" not in names)
        if not brace or not is_place:
            found = f"{{{path}{brace}"
            raise ValueError(
                f"{place}: expected {{subject}}, {{data}} or {{data.field}}, "
                f"found {found[:FOUND_CHARS_MAX]!a}"
            )
        parts.append(names)
    return parts


def _filled(parts: list[str | list[str]], values: dict[str, Any]) -> str:
    made = ""
    for part in parts:
        if isinstance(part, str):
            made += part
            continue
        value: Any = values
        for name in part:
            value = value.get(name) if isinstance(value, dict) else None
        made += _text(value)
    return made[:CHARS_MAX]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return msgspec.json.encode(value).decode()
