"""The headers of an event: text that goes with it beside its data, and what is refused of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Raw

from headrace.engine.errors import EventRefused
from headrace.engine.payload import PAYLOAD_BYTES_MAX

COUNT_MAX: Final = 64
BYTES_MAX: Final = 16 * 1024
"""Of all names and values together."""


def checked_headers(headers: Any, subject: str, payload: Raw) -> dict[str, str] | None:
    """Return *headers* as they are stored: a dict of their own, ``None`` for none.

    Raises:
        TypeError: they are no mapping of text to text.
        EventRefused: one is no printable ASCII, or they are too many or too long, by themselves or
            with *payload*.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(
            f"event {subject!r}, headers: expected a mapping of text to text, found {headers!r:.80}"
        )
    if len(headers) > COUNT_MAX:
        raise EventRefused(
            f"event {subject!r}, headers: expected at most {COUNT_MAX}, found {len(headers)}; "
            f"put what belongs to the event into its data"
        )
    total = 0
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f"event {subject!r}, headers: expected text for names and values, found "
                f"{name!r:.80}: {value!r:.80}"
            )
        if not name or not _is_plain(name) or not _is_plain(value):
            raise EventRefused(
                f"event {subject!r}, headers: expected printable ASCII, found {name!r:.80}: "
                f"{value!r:.80}; encode it, or put it into the data"
            )
        total += len(name) + len(value)
    size = memoryview(payload).nbytes
    if total > BYTES_MAX or total + size > PAYLOAD_BYTES_MAX:
        raise EventRefused(
            f"event {subject!r}, headers: expected at most {BYTES_MAX} characters, and "
            f"{PAYLOAD_BYTES_MAX} bytes with the data, found {total} and {total + size}; "
            f"shorten them"
        )
    return dict(headers) or None


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()
