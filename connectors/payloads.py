"""From the bytes of a message to the data of an event.  What arrives is not trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import msgspec

DEPTH_MAX: Final = 64
FOUND_BYTES_MAX: Final = 60

Form = Literal["json", "msgpack", "text", "bytes"]
Payload = Form | Callable[[bytes], Any]
"""How the bytes of a message are read: a name, or a function, which raises if it cannot."""

_json: Final = msgspec.json.Decoder().decode
_msgpack: Final = msgspec.msgpack.Decoder().decode


class BadPayload(ValueError):
    """Bytes that are not what they should be; says what was expected and what was found."""


def reader(payload: Payload, place: str) -> Callable[[bytes], Any]:
    """Return the function that reads messages; it raises `BadPayload`.

    Raises:
        TypeError, ValueError: *payload* is no form; *place* says whose it is.
    """
    given: object = payload
    wanted = f"{place}, payload: expected {', '.join(get_args(Form))} or a function"
    if not isinstance(payload, str):
        own = payload
        if not callable(given):
            raise TypeError(f"{wanted}, found {ascii(given)[:80]}")

        def read(raw: bytes) -> Any:
            try:
                return own(raw)
            except ValueError as error:
                raise BadPayload(str(error)) from error
            except Exception as error:
                # Whatever a parser raises: the message would come again, and end the engine again.
                said = " ".join(str(error).split())
                raise BadPayload(f"{type(error).__name__}: {said}") from error

        return read
    found = _READERS.get(payload)
    if found is None:
        raise ValueError(f"{wanted}, found {ascii(given)[:80]}")
    return found


def read_json(raw: bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        BadPayload: it is none, or is nested more than 64 deep.
    """
    try:
        data = _json(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad("JSON", raw, error) from None
    # Each level takes a bracket: hardly a message has so many that it needs to be looked at.
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX:
        _check_depth(data, raw)
    return data


def read_msgpack(raw: bytes) -> Any:
    """Return what a MessagePack message says; raises as `read_json`."""
    try:
        data = _msgpack(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _bad("MessagePack", raw, error) from None
    if len(raw) > DEPTH_MAX:
        _check_depth(data, raw)
    return data


def read_text(raw: bytes) -> str:
    """Return UTF-8 text; raises `BadPayload`."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _bad("text as UTF-8", raw, error) from None


def shown(raw: bytes) -> str:
    """Return the beginning of *raw* as a person can read it on one line."""
    begin = raw[:FOUND_BYTES_MAX]
    try:
        text = ascii(begin.decode())
    except UnicodeDecodeError:
        text = repr(begin)
    return text + ("…" if len(raw) > FOUND_BYTES_MAX else "")


def _check_depth(data: Any, raw: bytes) -> None:
    # Written out: most of what is in a message is no container, and is looked at once.
    level, depth = [data] if type(data) is dict or type(data) is list else [], 0
    while level:
        depth += 1
        if depth > DEPTH_MAX:
            raise BadPayload(f"expected at most {DEPTH_MAX} levels of nesting, found {shown(raw)}")
        below: list[Any] = []
        for value in level:
            for inner in value.values() if type(value) is dict else value:
                kind = type(inner)
                if kind is dict or kind is list:
                    below.append(inner)
        level = below


def _bad(expected: str, raw: bytes, error: Exception) -> BadPayload:
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return BadPayload(f"expected {expected}, found {shown(raw)} ({reason})")


_READERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "json": read_json,
    "msgpack": read_msgpack,
    "text": read_text,
    "bytes": bytes,
}
