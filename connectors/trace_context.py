"""The context of a trace as messages carry it: the only headers that connectors take in and send.

What others put into headers may be a secret, so all but these two are left where they are.  They
are those of the W3C recommendation "Trace Context", which most of what makes traces understands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

TRACE_PARENT: Final = "traceparent"
TRACE_STATE: Final = "tracestate"
TRACE_HEADERS: Final = (TRACE_PARENT, TRACE_STATE)

STATE_CHARS_MAX: Final = 512
_PARENT: Final = re.compile("(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_sent: ContextVar[dict[str, str] | None] = ContextVar("headrace_trace_headers", default=None)


def trace_headers(get: Callable[[str], str | bytes | None]) -> dict[str, str] | None:
    """Return the context that a message carries, ``None`` if it has none that is understood.

    *get* returns a header by its name in small letters.  A message is not refused because of it.
    """
    parent = _text(get(TRACE_PARENT))
    if parent is None or not _PARENT.fullmatch(parent):
        return None
    state = _text(get(TRACE_STATE))
    if not state or len(state) > STATE_CHARS_MAX or not state.isprintable():
        return {TRACE_PARENT: parent}
    return {TRACE_PARENT: parent, TRACE_STATE: state}


def _text(found: str | bytes | None) -> str | None:
    if isinstance(found, bytes):
        found = found.decode("latin-1")
    return found if isinstance(found, str) and found.isascii() else None


def outgoing() -> dict[str, str]:
    """Return the headers that go with what a sink sends now: none, unless the app makes traces."""
    return _sent.get() or {}


def set_outgoing(headers: dict[str, str]) -> Callable[[], None]:
    """Let `outgoing` return *headers* in this task; return what ends that."""
    token = _sent.set(headers)
    return lambda: _sent.reset(token)
