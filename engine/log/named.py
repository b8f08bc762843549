"""Which large result a record names: all that the log knows of its records but their time.

The results themselves are in files of their own: see `headrace.engine.log.blobs`.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from headrace.engine.inputs import EventStored, RunCompleted
from headrace.engine.log.blob_files import DIGEST_BYTES
from headrace.engine.log.files import Data

_END: Final = b"\xc0\xc4" + bytes((DIGEST_BYTES,))
"""In a run's end: nothing in place of the result, and then its digest …"""
_EVENT: Final = b"\xa4blob\xd9" + bytes((2 * DIGEST_BYTES,))
"""… and in the event that tells of it, which may be kept for longer."""
_SUBJECT: Final = "run.completed."


class Named(Struct, frozen=True):
    """A large result that a record names."""

    run: int
    """The run that it is of."""
    digest: bytes


class _Ended(Struct):
    """What is needed of an event about the end of a run."""

    run: int
    blob: str | None = None


_OTHERS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
"""From records that are something else, and happen to have the same bytes in them."""
_decode_end = msgspec.msgpack.Decoder(RunCompleted).decode
_decode_event = msgspec.msgpack.Decoder(EventStored).decode
_decode_ended = msgspec.msgpack.Decoder(_Ended).decode


def may_name(data: Data) -> bool:
    """Say whether one of the records in *data* may name a large result.  Seldom wrong, and fast."""
    found = bytes(data)
    return _END in found or _EVENT in found


def named_result(record: bytes) -> Named | None:
    """Return what an encoded *record* names; ``None``: nothing, as almost all of them."""
    named = _of_end(record) if _END in record else None
    return _of_event(record) if named is None and _EVENT in record else named


def _of_end(record: bytes) -> Named | None:
    try:
        end = _decode_end(record)
    except _OTHERS:
        return None
    return None if end.blob is None else _named(end.run, end.blob)


def _of_event(record: bytes) -> Named | None:
    try:
        event = _decode_event(record)
        if not event.subject.startswith(_SUBJECT):
            return None
        ended = _decode_ended(event.data)
        return None if ended.blob is None else _named(ended.run, bytes.fromhex(ended.blob))
    except _OTHERS:
        return None


def _named(run: int, digest: bytes) -> Named | None:
    return Named(run, digest) if len(digest) == DIGEST_BYTES else None
