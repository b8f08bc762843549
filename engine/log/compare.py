"""Where two logs part: the first record that is not the same in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from headrace.engine.log.manifest import Segment
from headrace.engine.log.reader import LogReader
from headrace.engine.log.walker import segment_of

Batch = tuple[int, list[bytes]]


class Comparison(Struct, frozen=True):
    """What two logs have in common, counted in sequences."""

    first: int
    """The first record that both keep; what is before it is not compared."""
    at: int | None
    """The first record that differs, or that only one of them has; ``None``: there is none."""
    common: int
    """How many are the same, from the first on."""
    shared: int
    """How many of those are in segments that the logs share, and were not read."""
    only_a: int
    """How many the first log has from *at* on."""
    only_b: int

    @property
    def same(self) -> bool:
        """Whether both logs hold the same records."""
        return self.at is None


def compare(
    a: LogReader, b: LogReader, *, progress: Callable[[int], None] = lambda _sequence: None
) -> Comparison:
    """Compare the records of two logs, byte for byte, up to where they are now.

    Segments that both list with the same digest, as a fork and its origin do, are not read.
    *progress* is told up to which record they are the same so far.

    Raises:
        LogCorrupt: damage was met before they part.
        LogVersion: a newer headrace wrote one of them.
    """
    last_a, last_b = a.refresh(), b.refresh()
    first = max(a.first_sequence, b.first_sequence)
    after = min(_shared(a.manifest.segments, b.manifest.segments, first) - 1, last_a, last_b)
    after = max(after, first - 1)
    shared = after - first + 1
    at = _parting(
        _after(a, after, last_a), _after(b, after, last_b), next_sequence=after + 1, tell=progress
    )
    if at > max(last_a, last_b):
        return Comparison(first, None, at - first, shared, 0, 0)
    only_a, only_b = max(0, last_a - at + 1), max(0, last_b - at + 1)
    return Comparison(first, at, at - first, shared, only_a, only_b)


def _shared(a: Sequence[Segment], b: Sequence[Segment], sequence: int) -> int:
    """Return the first record from *sequence* on that is not in a segment of both lists."""
    while True:
        one = a[segment_of([entry.base for entry in a], sequence)]
        other = b[segment_of([entry.base for entry in b], sequence)]
        known = one.sealed and other.sealed and one.next_sequence > sequence
        if not known or (one.base, one.digest) != (other.base, other.digest):
            return sequence
        sequence = one.next_sequence


def _after(reader: LogReader, after: int, last: int) -> Iterator[Batch]:
    return reader.read(after=after, upto=last)


def _parting(
    a: Iterator[Batch], b: Iterator[Batch], *, next_sequence: int, tell: Callable[[int], None]
) -> int:
    """Return the first sequence at which *a* and *b* are not the same; at the latest their end."""
    one, other = next(a, None), next(b, None)
    while one is not None and other is not None:
        (first, left), (second, right) = one, other
        if first != second:
            return min(first, second)  # one of them was salvaged, and there is a gap
        count = min(len(left), len(right))
        if left[:count] != right[:count]:
            pairs = zip(left, right, strict=False)
            return first + next(n for n, pair in enumerate(pairs) if pair[0] != pair[1])
        next_sequence = first + count
        tell(next_sequence - 1)
        one = (next_sequence, left[count:]) if count < len(left) else next(a, None)
        other = (next_sequence, right[count:]) if count < len(right) else next(b, None)
    rest = one or other
    return rest[0] if rest is not None else next_sequence
