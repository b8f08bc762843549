"""`Stretch`: the part of a log that a replay goes through, unit by unit, and where it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from headrace.engine.decider import Decider
from headrace.engine.errors import LogCorrupt, LogMismatch, SnapshotUnusable
from headrace.engine.kernel import Kernel
from headrace.engine.record import Record, decode, is_decision
from headrace.engine.restore import ReadableLog, from_snapshot, new_kernel
from headrace.engine.snapshot import load

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

OnDamage = Callable[[LogCorrupt], None]


class Decode(Protocol):
    """Makes a record of its bytes, or says where bytes are that are none."""

    def __call__(self, sequence: int, raw: bytes, /) -> Record:
        """Return the record."""
        ...


def decoded(sequence: int, raw: bytes) -> Record:
    """Return the record that *raw* is; see `Decode`.

    Raises:
        LogMismatch: it is none.
    """
    try:
        return decode(raw)
    except UNREADABLE as error:
        raise LogMismatch(
            f"record {sequence}: expected a record, found {len(raw)} bytes that are none ({error})"
        ) from error


class Stretch(Struct, frozen=True, kw_only=True):
    """From where to where a replay goes."""

    log: ReadableLog
    begin_at: int | None = None
    """Begin at the newest snapshot at or before this sequence; ``None``: at the beginning, or
    at the oldest snapshot if that is gone."""
    until: int | None = None
    """The last record; a unit is never cut, so its decisions are seen too.  ``None``: all."""
    decode: Decode = decoded
    progress: Callable[[int], None] = lambda _sequence: None
    """Is told, now and then, how far it has come."""

    def kernel(self, decider: Decider) -> tuple[Kernel, list[str]]:
        """Return a kernel where it begins, and why snapshots that would be nearer are of no use."""
        log = self.log
        if self.begin_at is not None:
            return _before(log, decider, self.begin_at)
        if next((first > 1 for first, _ in log.read()), False):
            return from_snapshot(log, decider, oldest=True)
        return new_kernel(log, decider), []

    def batches(self, kernel: Kernel, problems: list[str]) -> Iterator[tuple[int, list[bytes]]]:
        """Yield the stored records behind *kernel*, all without a gap; see `log.read`.

        Raises:
            LogMismatch: records are missing that the state follows from.
            LogCorrupt: damage was met; all before it was yielded.
        """
        expected, until = kernel.sequence + 1, self.until
        for first, batch in self.log.read(after=kernel.sequence):
            if first != expected:
                raise LogMismatch(
                    f"expected every record, found {expected} to {first - 1} missing"
                    f"{''.join(f'; {problem}' for problem in problems)}; without them there is no "
                    "state: read the log with `headrace log cat`"
                )
            expected = first + len(batch)
            if until is not None and expected > until + 1:
                here = self._upto(first, batch, until)
                if here:
                    yield first, here
                if len(here) < len(batch):
                    return
            else:
                yield first, batch
            self.progress(expected - 1)

    def _upto(self, first: int, batch: list[bytes], until: int) -> list[bytes]:
        """Return what of *batch* is up to *until*, with the decisions that belong to its last."""
        count = max(0, until + 1 - first)
        while count < len(batch) and is_decision(self.decode(first + count, batch[count])):
            count += 1
        return batch[:count]


def _before(log: ReadableLog, decider: Decider, sequence: int) -> tuple[Kernel, list[str]]:
    """Return a kernel from the newest snapshot at or before *sequence* that can be used.

    Without one it is a kernel at the beginning of the log.
    """
    problems: list[str] = []
    for place in sorted((s for s in log.snapshots.sequences() if s <= sequence), reverse=True):
        kernel = new_kernel(log, decider)
        try:
            load(kernel, log.snapshots.read(place, log.fetch([place]).get(place)))
        except SnapshotUnusable as error:
            problems.append(str(error))
        else:
            return kernel, problems
    return new_kernel(log, decider), problems
