"""Groups: what was appended between two commits, and how it is spread over frames."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from msgspec import Struct

from headrace.engine.log.frame import BODY_BYTES_MAX, COUNT_MAX

ARRAY_HEADER_BYTES = 3
FRAME_BYTES = 64 * 1024
"""What is more than this is spread over several frames of the same write, where its units
allow it: to find one record, a whole frame has to be read and taken apart."""

assert FRAME_BYTES + ARRAY_HEADER_BYTES <= BODY_BYTES_MAX


class Group(Struct, frozen=True):
    """Whole units, in order."""

    first: int
    """Sequence of its first record."""
    records: list[bytes]
    ends: list[int]
    """Where its units end in `records`."""
    size_bytes: int
    """Of its records."""


def merged(groups: Iterable[Group]) -> list[Group]:
    """Return the same units in fewer groups: small ones together, as one frame holds them.

    Works on groups, not on records: a large one is passed on as it is.
    """
    found: list[Group] = []
    small: list[Group] = []
    size_bytes = count = 0
    for group in groups:
        size_bytes += group.size_bytes
        count += len(group.records)
        if small and (size_bytes > FRAME_BYTES or count > COUNT_MAX):
            found.append(_one_of(small))
            small, size_bytes, count = [], group.size_bytes, len(group.records)
        small.append(group)
    if small:
        found.append(_one_of(small))
    return found


def _one_of(groups: list[Group]) -> Group:
    if len(groups) == 1:
        return groups[0]
    records: list[bytes] = []
    ends: list[int] = []
    for group in groups:
        before = len(records)
        ends.extend([before + end for end in group.ends])
        records.extend(group.records)
    size_bytes = sum(group.size_bytes for group in groups)
    return Group(groups[0].first, records, ends, size_bytes)


def cut(group: Group) -> list[tuple[int, bool]]:
    """Say how the records of *group* are spread over frames.

    Returns for each frame where it ends in them, and whether its last unit goes on in the
    next one.  Units stay together wherever they fit into a frame.
    """
    records, ends = group.records, group.ends
    if len(records) <= COUNT_MAX and group.size_bytes <= FRAME_BYTES:
        return [(len(records), False)]
    return _cut_large(records, ends)


def _cut_large(records: Sequence[bytes], ends: Sequence[int]) -> list[tuple[int, bool]]:
    sizes = list(accumulate(map(len, records), initial=0))

    def fits(start: int, stop: int) -> bool:
        size = sizes[stop] - sizes[start] + ARRAY_HEADER_BYTES
        return stop - start <= COUNT_MAX and size <= BODY_BYTES_MAX

    frames: list[tuple[int, bool]] = []
    unit_sizes = [sizes[end] for end in ends]
    start = unit = 0
    while unit < len(ends):
        after = bisect_right(unit_sizes, sizes[start] + FRAME_BYTES, unit)
        after = bisect_right(ends, start + COUNT_MAX, unit, after)
        if after == unit:
            # A unit that is larger than a frame should be; perhaps larger than one can be.
            while not fits(start, ends[unit]):
                stop = start + 1
                while fits(start, stop + 1):
                    stop += 1
                frames.append((stop, True))
                start = stop
            after = unit + 1
        start, unit = ends[after - 1], after
        frames.append((start, False))
    return frames
