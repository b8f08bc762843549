"""Fork: a new log that has the first records of another one, and goes its own way from there."""

from __future__ import annotations

import os
from collections.abc import Callable

from msgspec import Struct

from headrace.engine.clock import Clock, SystemClock
from headrace.engine.errors import LogMismatch
from headrace.engine.log.clone import Plan, make
from headrace.engine.log.file import draw_id
from headrace.engine.log.files import Files, SystemFiles
from headrace.engine.log.manifest import Parent
from headrace.engine.log.moment import Moment, Units, units_at
from headrace.engine.log.walker import OpenSegments


class Fork(Struct, frozen=True):
    """A log that was forked off another one."""

    log_id: bytes
    """Its own."""
    parent: Parent
    """Where it left its origin; `Parent.sequence` is the last record that they share."""
    first_sequence: int
    """The oldest record that it has."""
    asked: int
    """The sequence that was asked for."""
    left_out: tuple[int, int] | None
    """First and last sequence of the unit that *asked* is in the middle of; ``None``: of none."""
    linked: int
    """How many segments are shared with the origin on the disk."""
    copied_bytes: int
    """How many bytes of segments were written."""
    snapshot: int
    """The sequence of the newest snapshot that it has; 0: none."""
    results: int
    """How many large results, in files of their own, it has: all that its origin has."""

    @property
    def sequence(self) -> int:
        """The last record that it shares with its origin."""
        return self.parent.sequence


def fork(
    source: str | os.PathLike[str],
    sequence: int | None,
    target: str | os.PathLike[str],
    *,
    files: Files | None = None,
    clock: Clock | None = None,
    new_id: Callable[[], bytes] | None = None,
) -> Fork:
    """Make a new log at *target* with the records up to *sequence* of the one at *source*.

    The source may be written meanwhile, and is only read.  Units are never cut: if *sequence*
    is in the middle of one, the fork ends before it and says so.  ``None``: at the last record
    that is committed.  Finished segments and large results are shared (hard links) where the
    disk allows it, and hardly looked at then: `verify` reads every byte.

    *target* must be missing, empty, or left by a fork that was cut short.  After an error, or
    after a crash at any moment, it is no log.

    Raises:
        LogMismatch: there is no such record, or no whole unit up to it.
        LogUnusable: *source* cannot be read, or *target* cannot be made.
        LogCorrupt, BlobUnusable: something that was to be taken over is damaged.
        LogVersion: a newer headrace wrote the source.
    """
    old: str = os.path.abspath(source)  # noqa: PTH100  resolve() asks the disk
    new: str = os.path.abspath(target)  # noqa: PTH100  as above
    clock = clock or SystemClock()
    log_id = (new_id or draw_id)()
    asked = sequence
    units = Units(0, 0)

    def plan(reading: OpenSegments, moment: Moment) -> Plan:
        nonlocal asked, units
        asked = moment.committed if sequence is None else sequence
        units = _cut(old, reading, moment, asked)
        return Plan(
            units.end,
            fork_id=log_id,
            created_ns=clock.wall_ns(),
            config={
                "durability": moment.manifest.config.get("durability", "fsynced"),
                "forked_from": old,
            },
        )

    made = make(files or SystemFiles(), old, new, plan)
    assert made.manifest.parent is not None
    assert asked is not None
    return Fork(
        log_id=log_id,
        parent=made.manifest.parent,
        first_sequence=made.manifest.first_sequence,
        asked=asked,
        left_out=(units.end + 1, units.next_end) if units.end < asked else None,
        linked=made.linked,
        copied_bytes=made.copied_bytes,
        snapshot=made.snapshot,
        results=made.results,
    )


def _cut(folder: str, reading: OpenSegments, moment: Moment, sequence: int) -> Units:
    first, last = moment.manifest.first_sequence, moment.committed
    if sequence == last:
        return Units(last, last)
    if not first <= sequence <= last:
        found = f"records {first} to {last}" if first <= last else "no record at all"
        raise LogMismatch(
            f"{folder}: expected record {sequence}, found {found}; choose one that is there"
        )
    units = units_at(reading, moment, sequence)
    if units.end < first:
        raise LogMismatch(
            f"{folder}: expected a whole unit up to record {sequence}, found that the first one "
            f"is {first} to {units.next_end}; choose {units.next_end} or a later one"
        )
    return units
