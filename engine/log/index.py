"""Sparse index: where in a segment a sequence or a time is to be looked for."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

from msgspec import Meta

from headrace.engine.log.files import Data

ACTIVE_STEP_BYTES: Final = 4 * 1024
"""Distance of two entries of the active segment, in memory: what `fetch` reads at most."""

FILE_STEP_BYTES: Final = 16 * 1024
"""Distance of two entries of an index file.  It is read whole to look one place up."""

SEALED_STEP_BYTES: Final = 64 * 1024
SEALED_STEP_RECORDS: Final = 4096
"""Distance of two entries of a sealed segment, whichever is reached first."""

INPUT_TAG_MAX: Final = 63
"""Records with a higher tag are decisions and carry no time of their own."""

_WIDTHS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}  # of msgpack's unsigned numbers

Natural = Annotated[int, Meta(ge=0)]
Entry = tuple[Natural, Natural, Natural]
"""Sequence of a frame's first record, the frame's offset, and the log time there."""


def log_time_ns(record: bytes) -> int:
    """Return the log time of an encoded input; 0 for a decision, and for anything else.

    The first 14 bytes of a record are enough.
    """
    # All that the log knows of its records: inputs are arrays of a tag and a time.
    start = 3 if record[:1] == b"\xdc" else 1
    if len(record) < start + 2 or not (start == 3 or 0x92 <= record[0] <= 0x9F):
        return 0
    tag, number = record[start], record[start + 1]
    if tag > INPUT_TAG_MAX:
        return 0
    if number < 0x80:
        return number
    width = _WIDTHS.get(number, 0)
    digits = record[start + 2 : start + 2 + width]
    return int.from_bytes(digits, "big") if len(digits) == width else 0


def begins_unit(record: bytes) -> bool:
    """Say whether an encoded record is an input: each begins a unit.

    The first 4 bytes of a record are enough.
    """
    start = 3 if record[:1] == b"\xdc" else 1
    return (
        len(record) > start
        and (start == 3 or 0x91 <= record[0] <= 0x9F)
        and record[start] <= INPUT_TAG_MAX
    )


def first_time_ns(body: Data) -> int:
    """Return the log time of the first record of a plain *body*; 0 if it has none."""
    start = 3 if body[0] == 0xDC else 1
    return log_time_ns(bytes(body[start : start + 14]))


class Places:
    """Entries in order, as columns: a segment has thousands, and they are in no object each."""

    def __init__(
        self, sequences: Sequence[int], offsets: Sequence[int], times: Sequence[int]
    ) -> None:
        """Take the columns."""
        self._sequences, self._offsets, self._times = sequences, offsets, times

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._sequences)

    @property
    def first_at_ns(self) -> int:
        """The first entry's log time; 0 if there is none."""
        return self._times[0] if self._times else 0

    def place_of(self, sequence: int) -> tuple[int, int]:
        """Return the frame to begin with to look for *sequence*: its first record, its offset.

        ``(0, 0)``: at the segment's first frame.
        """
        return self._place(bisect_right(self._sequences, sequence))

    def place_before(self, at_ns: int) -> tuple[int, int]:
        """Return the frame to begin with to look for the first record at or after *at_ns*."""
        return self._place(bisect_left(self._times, at_ns))

    def _place(self, place: int) -> tuple[int, int]:
        return (self._sequences[place - 1], self._offsets[place - 1]) if place else (0, 0)


class SparseIndex(Places):
    """Places that grow.  One thread adds, others may look things up at the same time."""

    _sequences: array[int]
    _offsets: array[int]
    _times: array[int]

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Begin with *entries*, in order."""
        super().__init__(array("Q"), array("Q"), array("Q"))
        for entry in entries:
            self._append(*entry)

    def add(self, sequence: int, offset: int, at_ns: int) -> None:
        """Take in the frame at *offset*, if it is far enough from the last entry."""
        offsets = self._offsets
        if not offsets or offset - offsets[-1] >= ACTIVE_STEP_BYTES:
            self._append(sequence, offset, at_ns)

    def _append(self, sequence: int, offset: int, at_ns: int) -> None:
        # A column that is searched is the last to grow: what is found there is in the others.
        self._offsets.append(offset)
        self._sequences.append(sequence)
        self._times.append(at_ns)

    def thinned(self) -> list[Entry]:
        """Return the entries that a sealed segment keeps."""
        return self._thinned(SEALED_STEP_BYTES, SEALED_STEP_RECORDS)

    def filed(self) -> list[Entry]:
        """Return the entries that an index file keeps."""
        return self._thinned(FILE_STEP_BYTES, SEALED_STEP_RECORDS)

    def _thinned(self, step_bytes: int, step_records: int) -> list[Entry]:
        kept: list[Entry] = []
        for entry in zip(self._sequences, self._offsets, self._times, strict=True):
            if (
                not kept
                or entry[1] - kept[-1][1] >= step_bytes
                or entry[0] - kept[-1][0] >= step_records
            ):
                kept.append(entry)
        return kept
