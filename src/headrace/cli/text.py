"""Text for a terminal: what comes from data can neither move the cursor nor fake a line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_CONTROL: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""C0 and C1 codes (among them ESC), line separators, marks that turn the direction of text,
and halves of characters, which cannot be written at all."""
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
NS: Final = 1_000_000_000


def safe(text: str) -> str:
    """Return *text* with everything escaped that a terminal would act on."""
    return _CONTROL.sub(_escape, text)


def safe_lines(text: str) -> str:
    """As `safe`, for a text of several lines: they stay lines."""
    return "\n".join(safe(line) for line in text.splitlines())


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    short = _SHORT.get(character)
    if short is not None:
        return short
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def rfc3339(at_ns: int | None) -> str | None:
    """Return a time in nanoseconds since the epoch, in UTC; ``None`` for none (or 0)."""
    return rfc3339_exact(at_ns) if at_ns else None


def rfc3339_exact(at_ns: int | None) -> str | None:
    """As `rfc3339`, but 0 is a time."""
    if at_ns is None:
        return None
    seconds, rest = divmod(at_ns, NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}{f'.{rest:09d}'.rstrip('0') if rest else ''}Z"


def duration(ns: int) -> str:
    """Return a span of time as people say it: ``4.2µs``, ``1.25s``, ``3m 20s``, ``2d 4h``."""
    seconds = ns / NS
    if 0 < ns < 1_000_000:
        return f"{ns / 1000:.3g}µs"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {left}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours < 24 else f"{hours // 24}d {hours % 24}h"


def to_json(value: Any) -> str:
    """Return *value* as JSON on one line, whatever msgpack could hold."""
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, msgspec.MsgspecError):
        encoded = msgspec.json.encode(_plain(value))
    return _unprintable(encoded.decode("utf-8", "backslashreplace"))


def pretty_json(value: Any) -> str:
    """As `to_json`, on several lines."""
    return msgspec.json.format(to_json(value), indent=2)


def _unprintable(text: str) -> str:
    # JSON itself escapes C0 only; all others can stand in strings only, so this keeps it JSON.
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    """Return *value* with everything replaced that has no place in JSON."""
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else to_json(key): _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, msgspec.msgpack.Ext):
        return {"ext": value.code, "data": value.data}
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value
