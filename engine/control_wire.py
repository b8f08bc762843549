"""What goes over ``control.sock``: one request, one answer, each with its length before it.

A message is 4 bytes of length (big-endian) and a msgpack map: ``{v, command, arguments}``
or ``{v, result}`` or ``{v, error: {kind, message}}``.  A connection may ask again and again,
one thing at a time.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

NAME: Final = "control.sock"
TEMPORARY: Final = "control.sock.tmp"
VERSION: Final = 1
LENGTH_BYTES: Final = 4
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
ADDRESS_BYTES_MAX: Final = 100
"""Unix socket addresses end at 107 bytes on Linux, at 103 on macOS."""

EMPTY: Final = Raw(b"\x80")
NIL: Final = Raw(b"\xc0")


class Request(Struct):
    """What a client asks for."""

    v: int
    command: str
    arguments: Raw = EMPTY


class Fault(Struct):
    """Why a request was not carried out."""

    kind: str
    """Name of the error's class."""
    message: str


class Answer(Struct, omit_defaults=True):
    """What came of a request: a result or an error."""

    v: int
    result: Raw = NIL
    error: Fault | None = None


class WireEvent(Struct, omit_defaults=True):
    """One event of the command ``emit``."""

    subject: str
    data: Raw = NIL
    id: str | None = None
    source: str = ""
    time_ns: int | None = None
    key: str | None = None
    headers: dict[str, str] | None = None


class EmitArguments(Struct):
    """What ``emit`` takes."""

    events: list[WireEvent]


class CancelArguments(Struct):
    """What ``cancel`` takes."""

    run: int
    reason: str = "cancelled on request"


class RedriveArguments(Struct):
    """What ``redrive`` takes."""

    run: int
    from_start: bool = False


class SignalArguments(Struct):
    """What ``signal`` takes."""

    run: int
    name: str
    data: Raw


class PauseArguments(Struct):
    """What ``pause`` takes: it resumes, too."""

    rule: str
    reason: str = ""
    paused: bool = True


class AcknowledgeArguments(Struct):
    """What ``acknowledge`` takes."""

    rule: str
    key: Any = None
    by: str = ""
    note: str = ""


class HoldArguments(Struct):
    """What ``hold`` takes: keep the records from *sequence* on."""

    name: str
    sequence: int


class ReleaseArguments(Struct):
    """What ``release`` takes."""

    name: str


DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""

_encode = msgspec.msgpack.Encoder().encode


def packed(message: Any) -> bytes:
    """Return *message* with its length before it.

    Raises:
        ValueError: it is too long.
    """
    body = _encode(message)
    if len(body) > MESSAGE_BYTES_MAX:
        raise ValueError(
            f"expected a message of at most {MESSAGE_BYTES_MAX} bytes, found {len(body)}"
        )
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


@contextlib.contextmanager
def addressable(folder: str) -> Generator[str]:
    """Give a name of *folder* that is short enough for the address of a socket in it.

    Raises:
        OSError: the folder is not there, or its path is too long and there is no way round.
    """
    if len(os.fsencode(f"{folder}/{TEMPORARY}")) <= ADDRESS_BYTES_MAX:
        yield folder
    elif sys.platform == "linux":
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
    else:
        raise OSError(
            f"expected a path of at most {ADDRESS_BYTES_MAX} bytes for the socket of {folder}; "
            f"choose a shorter path for the log"
        )
