"""A log as it is at one moment, also while its writer goes on: what can be copied of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import Final

import msgspec
from msgspec import Struct

from headrace.engine.errors import LogCorrupt, LogUnusable
from headrace.engine.log import head as heads
from headrace.engine.log import lock as locks
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.evidence import judge, scan_active
from headrace.engine.log.files import Files
from headrace.engine.log.folder import check_finished
from headrace.engine.log.frame import DATA, Frame
from headrace.engine.log.index import begins_unit
from headrace.engine.log.manifest import Manifest, Segment
from headrace.engine.log.walker import OpenSegments, records_at, segment_of, step

LOOKS_MAX: Final = 8
"""How often a log is looked at anew that seems to be damaged while it is being written."""


class Moment(Struct, frozen=True):
    """What is committed of a log."""

    manifest: Manifest
    """As it was, with every segment that is finished; the last one may have been since."""
    committed: int
    """The last record that counts; it ends a unit."""


class Units(Struct, frozen=True):
    """Where a log can be cut without cutting a unit."""

    end: int
    """The last record of the last whole unit."""
    next_end: int
    """The last record of the unit after it; `end` itself if nothing had to be left out."""


def observe(files: Files, folder: str) -> Moment:
    """Look at the log in *folder* and change nothing.

    Of a log at level ``fsynced`` with a writer, records count up to where HEAD or a frame
    proves them to be durable; of any other each whole unit does, as it would at its next start.

    Raises:
        LogUnusable: there is no log.
        LogCorrupt: acknowledged records are damaged.
        LogVersion: a newer headrace wrote it.
    """
    seen: tuple[str, int] | None = None
    for _ in range(LOOKS_MAX):
        try:
            return _look(files, folder, alone=False)
        except LogCorrupt as error:
            # Damage stays where it is; a write that goes on just now does not.
            if seen == (error.path, error.offset_bytes):
                raise
            seen = (error.path, error.offset_bytes)
    return _look(files, folder, alone=False)


def _look(files: Files, folder: str, *, alone: bool) -> Moment:
    """Look once; *alone* says that we hold the lock."""
    # HEAD first, so that what is written meanwhile can only be more than it says.
    head = heads.load(files, folder)
    manifest = manifests.load(files, folder)
    if manifest is None:
        raise _no_manifest(files, folder)
    if head is not None and head.log_id != manifest.log_id:
        head = None
    *listed, entry = manifest.segments
    while True:
        scan = scan_active(files, folder, entry, head, os.O_RDONLY)
        active = scan.active
        try:
            following = f"{folder}/{segments.name_of(active.sequence)}"
            if not (active.sealed and scan.tear is None and files.kind(following) == "file"):
                break
            listed.append(active.entry())
            entry = Segment(active.sequence, manifest.log_id)
        finally:
            active.close()
    judge(scan, head)
    committed = active.sequence - 1
    proven = max(scan.proven, head.next_sequence if head is not None else 0) - 1
    level = manifest.config.get("durability", "fsynced")
    if level == "fsynced" and proven < committed and not alone:
        # A writer might yet cut back what is not proven.  If there is none, it stays: the
        # next start would keep it, and it may have been acknowledged before power was lost.
        with _lock_taken(files, folder) as taken:
            if taken:
                return _look(files, folder, alone=True)
        committed = proven
    return Moment(msgspec.structs.replace(manifest, segments=[*listed, entry]), committed)


def _no_manifest(files: Files, folder: str) -> LogCorrupt | LogUnusable:
    names = files.listdir(folder) if files.kind(folder) == "directory" else []
    check_finished(folder, names)
    if any(map(segments.base_of, names)):
        path = f"{folder}/{manifests.NAME}"
        return LogCorrupt(path, 0, expected="the list of segments", found="no such file")
    return LogUnusable(f"{folder}: expected an event log, found none; check the path")


@contextlib.contextmanager
def _lock_taken(files: Files, folder: str) -> Generator[bool]:
    """Take the lock for the length of a ``with`` block, if it is free; say whether it was."""
    try:
        fd = files.open(f"{folder}/{locks.NAME}", os.O_RDONLY)
    except FileNotFoundError:
        yield True  # a copy that nobody has opened
        return
    except PermissionError:
        yield False
        return
    try:
        taken = files.lock(fd)
        try:
            yield taken
        finally:
            if taken:
                files.unlock(fd)
    finally:
        files.close(fd)


def units_at(opened: OpenSegments, moment: Moment, sequence: int) -> Units:
    """Say where the log can be cut at or before the record *sequence*, one that it has.

    Raises:
        LogCorrupt: damage was met on the way there.
        LogVersion: a newer headrace wrote it.
    """
    entries = moment.manifest.segments
    entry = entries[segment_of([e.base for e in entries], sequence)]
    limit = entry.next_sequence - 1 if entry.sealed else moment.committed
    if sequence == limit:
        return Units(sequence, sequence)
    # A unit is in one segment, whose border is therefore one of units.
    before = entry.base - 1
    unit: list[Frame] = []
    walk = opened.walk(entry.base)
    while True:
        frame = step(opened, entry.base, walk)
        if frame.kind == DATA:
            unit.append(frame)
        after = walk.sequence - 1
        if not frame.more:
            if after >= sequence:
                break
            before = after
            unit.clear()
    ends = [before, after]
    for frame in unit:
        found = records_at(opened.path(entry.base), frame)
        ends += [s - 1 for s, record in enumerate(found, frame.base) if begins_unit(record)]
    return Units(
        max(end for end in ends if end <= sequence), min(end for end in ends if end >= sequence)
    )
