"""From a log to the kernel that wrote it: what every start does first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final, Protocol

import msgspec

from headrace.engine.decider import Decider
from headrace.engine.diagnostics import logger
from headrace.engine.errors import LogMismatch, SegmentGone, SnapshotUnusable
from headrace.engine.fresh import MEND
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import SnapshotStore
from headrace.engine.record import KIND_BY_TYPE, Record, RuleFired, decode, decode_all
from headrace.engine.snapshot import load

OFFERS_AT_ONCE: Final = 1000


class ReadableLog(Protocol):
    """What is needed of a log to know its state: an `EventLog`, or a `LogReader`."""

    @property
    def snapshots(self) -> SnapshotStore:
        """See `EventLog.snapshots`."""
        ...

    @property
    def committed_sequence(self) -> int:
        """See `EventLog.committed_sequence`."""
        ...

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `EventLog.read`."""
        ...

    def fetch(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """See `EventLog.fetch`."""
        ...


def restore(log: ReadableLog, decider: Decider, *, clock: str | None) -> Kernel:
    """Return the kernel in the state that *log* records, from its newest snapshot on.

    Takes as long as what comes after that snapshot.  One that cannot be used is a warning:
    the one before it is tried, and then the log from its beginning.

    Raises:
        LogMismatch: the log goes by another clock than *clock* (with ``None`` any will do),
            or has lost the records that its state follows from.
        LogCorrupt: damage was met.
    """
    kernel, problems = from_snapshot(log, decider)
    _check_offers(log, kernel)
    for first, records in log.read(after=kernel.sequence):
        _check_next(kernel, first, problems)
        kernel.fold_all(first, decode_all(records))
    # The end of a log that was salvaged may be missing, too.
    _check_next(kernel, log.committed_sequence + 1, problems)
    kernel.finish_fold()
    kernel.state.effects.clear()
    recorded = kernel.state.clock
    if recorded and clock is not None and recorded != clock:
        raise LogMismatch(
            f"the log goes by clock={recorded!r}, and it was opened with clock={clock!r}; open it "
            f"with clock={recorded!r}, or use another log"
        )
    return kernel


def _check_offers(log: ReadableLog, kernel: Kernel) -> None:
    """Check that the offers that a snapshot knows of are there: the log has what is offered.

    Raises:
        LogMismatch: one was lost.
    """
    owed = list(kernel.state.offers.owed)
    for start in range(0, len(owed), OFFERS_AT_ONCE):
        batch = owed[start : start + OFFERS_AT_ONCE]
        lost = sorted(set(batch) - log.fetch(batch).keys())
        if lost:
            raise LogMismatch(
                f"expected record {lost[0]}, an event that was offered and is not stored yet, "
                "found none: it was lost before the snapshot that the log would be started from; "
                "the log can be read with `headrace log cat`, and not be run"
            )


def _check_next(kernel: Kernel, sequence: int, problems: list[str]) -> None:
    """Check that *sequence* comes next.

    Raises:
        LogMismatch: records before it are missing.
    """
    if sequence != kernel.sequence + 1:
        raise LogMismatch(
            f"expected record {kernel.sequence + 1}, found record {sequence} next: the state "
            f"needs all of them, or a snapshot of what is gone "
            f"({'; '.join(problems) or 'there is none'}); the log can be read with "
            f"`headrace log cat`, and not be run{_fork_at(kernel.sequence)}"
        )


def _fork_at(sequence: int) -> str:
    """Return what else can be done with a log of which whole records end at *sequence*."""
    if not sequence:
        return ""
    return f"; `headrace log fork --at {sequence}` makes one that can, of what is before the loss"


def read_back(log: ReadableLog, first: int, last: int) -> Iterator[tuple[int, Record]]:
    """Yield the stored records from *first* to *last*, with their sequences.

    Raises:
        SegmentGone: retention has removed the first of them.
    """
    for start, records in log.read(after=first - 1):
        if start > first:
            raise SegmentGone("the log", wanted=first, first_sequence=start)
        for sequence, raw in enumerate(records, start):
            if sequence > last:
                return
            yield sequence, decode(raw)
        first = start + len(records)


def first_sequence(log: ReadableLog) -> int:
    """Return the sequence of the oldest record that is kept; 1 in an empty log."""
    for first, _ in log.read():
        return first
    return 1


def from_snapshot(
    log: ReadableLog, decider: Decider, *, oldest: bool = False
) -> tuple[Kernel, list[str]]:
    """Return a kernel from the newest snapshot that can be used, and why others cannot.

    With *oldest* from the oldest one, to see as much of the log as there is.  If none can be
    used it is a kernel at the beginning.
    """
    problems: list[str] = []
    snapshots = log.snapshots
    sequences = snapshots.sequences()
    for sequence in reversed(sequences) if oldest else sequences:
        kernel = new_kernel(log, decider)
        try:
            load(kernel, snapshots.read(sequence, log.fetch([sequence]).get(sequence)))
        except SnapshotUnusable as error:
            problems.append(str(error))
            snapshots.discard(sequence)
            logger().warning("snapshot_unusable", reason=str(error))
        else:
            return kernel, problems
    return new_kernel(log, decider), problems


def new_kernel(log: ReadableLog, decider: Decider) -> Kernel:
    """Return a kernel at the beginning of *log*."""
    kernel = Kernel(decider)
    kernel.state.read_back = partial(read_back, log)
    kernel.state.runs.read = partial(_firings, log)
    return kernel


def _firings(log: ReadableLog, sequences: list[int]) -> list[RuleFired]:
    """Return the firings at *sequences*, which made runs that have not ended.

    Raises:
        LogMismatch: one is not there, or is none.
        LogCorrupt: damage was met.
    """
    found = log.fetch(sequences)
    return [_firing(sequence, found.get(sequence)) for sequence in sequences]


def _firing(sequence: int, raw: bytes | None) -> RuleFired:
    what = "no record"
    if raw is not None:
        try:
            record = decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            what = f"what is no record: {error}"
        else:
            if isinstance(record, RuleFired):
                return record
            what = repr(KIND_BY_TYPE[type(record)])
    raise LogMismatch(
        f"expected record {sequence} to be a firing that made a run, found {what}; {MEND}"
    )
