"""The times of the records of one frame, each of 9 bytes, said once where they repeat.

All that is stored in one turn of the loop has one log time.  So a record whose time is that of
the record before it is written with nil in its place: 8 bytes less for most of the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headrace.engine.log.index import INPUT_TAG_MAX

_HEADS: Final = frozenset(
    bytes((0x90 | length, tag)) for length in range(2, 16) for tag in range(INPUT_TAG_MAX + 1)
)
"""How an input begins whose time is in `_TIME`: an array of up to 15, and a tag."""

_TIME: Final = slice(2, 11)
_TIME_MARK: Final = b"\xcf"  # msgpack's: 8 bytes of an integer follow
_NIL: Final = b"\xc0"
_NONE: Final = bytes(12)  # longer than what is compared to it


def shorten(records: Sequence[bytes]) -> list[bytes] | None:
    """Return *records* without the times that repeat; `whole` undoes it.

    ``None``: none repeats, or there is a nil already where a time would be.
    """
    shorter: list[bytes] = []
    time: bytes | None = None
    long, short = _NONE, _NONE  # how the record before began, as it was and without its time
    for record in records:
        if record[:11] == long:  # of the same kind too, as nearly always
            shorter.append(short + record[11:])
            continue
        head, mark = record[:2], record[2:3]
        if mark == _NIL:
            return None
        if mark == _TIME_MARK and head in _HEADS:
            long, short = record[:11], head + _NIL
            if record[_TIME] == time:
                shorter.append(short + record[11:])
                continue
            time = record[_TIME]
        shorter.append(record)
    return shorter if sum(map(len, shorter)) < sum(map(len, records)) else None


def whole(records: Sequence[bytes]) -> list[bytes]:
    """Return what `shorten` has made *records* of.

    Raises:
        ValueError: there is no time before the first of them that goes without.
    """
    found: list[bytes] = []
    time: bytes | None = None
    long, short = _NONE, _NONE
    for record in records:
        if record[:3] == short:
            found.append(long + record[3:])
            continue
        head, mark = record[:2], record[2:3]
        if mark == _NIL:
            if time is None:
                raise ValueError(repr(record[:11]))
            long, short = head + time, head + _NIL
            found.append(long + record[3:])
            continue
        if mark == _TIME_MARK and head in _HEADS:
            time = record[_TIME]
            long, short = record[:11], head + _NIL
        found.append(record)
    return found
