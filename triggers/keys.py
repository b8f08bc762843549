"""What can be the key of an automaton: values that are the same again after a restart."""

from __future__ import annotations

from math import isnan
from typing import Any, Final, cast

KEY_CHARS_MAX: Final = 500
KEY_PARTS_MAX: Final = 16
KEY_EXPECTED: Final = (
    f"expected str, bytes (up to {KEY_CHARS_MAX}), int, float, bool or a tuple of these"
)


def is_key(key: object) -> bool:
    """Say whether *key* can name an automaton: hashable, and the same after a restart."""
    kind = type(key)
    if kind is str:
        return len(text := cast("str", key)) <= KEY_CHARS_MAX and _has_encoding(text)
    if kind is bytes:
        return len(cast("bytes", key)) <= KEY_CHARS_MAX
    if kind is bool:
        return True
    if kind is int:
        return -(2**63) <= cast("int", key) < 2**64  # what msgpack can hold
    if kind is float:
        return not isnan(cast("float", key))  # not equal to itself: each would be a new key
    if kind is not tuple:
        return False
    parts = cast("tuple[object, ...]", key)
    return len(parts) <= KEY_PARTS_MAX and all(
        type(part) is not tuple and is_key(part) for part in parts
    )


def plain_key(key: Any) -> Any:
    """Return the one form of all keys that are equal to *key*: a whole number as an ``int``.

    For Python ``True``, ``1`` and ``1.0`` are one key of a dict.  So they are one here, and
    look the same whichever came first, also after a restart.
    """
    kind = type(key)
    if kind is bool:
        return int(key)
    if kind is float and key.is_integer() and -(2**63) <= key < 2**64:
        return int(key)
    return tuple(map(plain_key, key)) if kind is tuple else key


def _has_encoding(text: str) -> bool:
    # Half a character, as of a file name that is no UTF-8, cannot be stored.
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
