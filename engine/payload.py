"""How users' data becomes the bytes in a record, and what is refused before it gets there."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from headrace.engine.errors import EventRefused
from headrace.engine.log.frame import RECORD_BYTES_MAX

PAYLOAD_BYTES_MAX: Final = 1024 * 1024 - 4096
"""The log takes records of up to 1 MiB; the rest is for what surrounds the payload."""

ENCODE_ERRORS: Final = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
"""What msgspec raises for data that it cannot encode."""

BLOB_BYTES_MIN: Final = 64 * 1024
"""Results that are larger are stored in files of their own, and a record has their digest."""
RESULT_BYTES_MAX: Final = 256 * 1024 * 1024

LABELS_CHARS_MAX: Final = 600
"""Characters of subject, id, source and key together: at most 2 400 bytes of what is left."""

_encode = msgspec.msgpack.Encoder().encode
_encode_in_order = msgspec.msgpack.Encoder(order="deterministic").encode
_check_whole = msgspec.msgpack.Decoder(Raw).decode
"""Returns bytes as one value, and raises if they are not exactly that.

They are not if there is a `Raw` in the data of a user that holds something else, such as JSON; a
record around them could never be read again.
"""


def check_record(encoded: bytes) -> bytes:
    """Return *encoded*, a whole record, if the log takes it.

    Raises:
        EventRefused: it is too large.
    """
    if len(encoded) > RECORD_BYTES_MAX:
        raise _too_large("a record", len(encoded))
    return encoded


def encode_event(data: Any, subject: str) -> Raw:
    """Encode the data of an event from outside.

    Raises:
        EventRefused: msgspec cannot encode it, or it is too large.
    """
    try:
        encoded = _encode(data)
        whole = _check_whole(encoded)
    except ENCODE_ERRORS as error:
        raise _refused(f"event {subject!r}", error) from error
    if len(encoded) > PAYLOAD_BYTES_MAX:
        raise _too_large(f"event {subject!r}", len(encoded))
    return whole


def check_labels(subject: str, *labels: str | None) -> None:
    """Refuse an event whose subject and labels would make its record too large.

    Raises:
        EventRefused: they are too long, or no text that can be stored.
        TypeError: one is no string.
    """
    total = 0
    for label in (subject, *labels):
        if label is not None:
            if not isinstance(label, str):
                raise TypeError(f"event {subject!r}: expected text for its labels, found {label!r}")
            check_text(label, f"event {subject!r}")
            total += len(label)
    if total > LABELS_CHARS_MAX:
        raise EventRefused(
            f"event {subject[:40]!r}…: expected at most {LABELS_CHARS_MAX} characters of subject, "
            f"id, source and key together, found {total}; shorten them"
        )


def check_text(text: str, what: str) -> None:
    """Refuse text that has no encoding: half a character, as of a file name that is no UTF-8.

    Raises:
        EventRefused: it cannot be stored; *what* says whose it is.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _refused(what, error) from error


def check_numbers(subject: str, *numbers: int | None) -> None:
    """Refuse an event whose position or time is no number that can be stored.

    Raises:
        TypeError: one is no whole number.
        EventRefused: one has more than 64 bits.
    """
    for number in numbers:
        if number is not None:
            if type(number) is not int:
                raise TypeError(f"event {subject!r}: expected a whole number, found {number!r}")
            if not -(2**63) <= number < 2**63:
                raise EventRefused(
                    f"event {subject!r}: expected a position and a time of 64 bits, found {number}"
                )


def encode_stable(data: Any, what: str, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> Raw:
    """Encode data that a resumed run is compared by: sets and dicts in a fixed order.

    Raises:
        EventRefused: msgspec cannot encode it, or it is too large; *what* says whose it is.
    """
    try:
        encoded = _in_order(data)
        _check_whole(encoded)
    except ENCODE_ERRORS as error:
        raise _refused(what, error) from error
    if len(encoded) > bytes_max:
        raise _too_large(what, len(encoded), bytes_max)
    return Raw(encoded)


def _in_order(data: Any) -> bytes:
    try:
        return _encode_in_order(data)
    except TypeError as error:
        if "dicts with str keys" not in str(error):
            raise
        # msgspec orders no others.  They are in the order in which the code filled them, the
        # same in each process; that of a set is not.
        return _encode(_with_sets_in_order(data))


def _with_sets_in_order(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _with_sets_in_order(value) for key, value in data.items()}
    if isinstance(data, (set, frozenset)):
        return sorted(data, key=_encode)
    if isinstance(data, (list, tuple)):
        return [_with_sets_in_order(part) for part in data]
    return data


def _refused(what: str, error: BaseException) -> EventRefused:
    if isinstance(error, msgspec.DecodeError):
        return EventRefused(
            f"{what}: its data cannot be stored: expected one value as msgpack in each Raw, found "
            f"{error}; decode what it holds, and store that"
        )
    return EventRefused(
        f"{what}: its data cannot be stored: {error}; use dicts, lists, numbers, text, structs "
        f"or dataclasses"
    )


def _too_large(what: str, size: int, bytes_max: int = PAYLOAD_BYTES_MAX) -> EventRefused:
    return EventRefused(
        f"{what}: expected at most {bytes_max} bytes, found {size}; "
        f"store large data elsewhere and pass where it is"
    )
