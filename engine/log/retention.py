"""Retention: remove the oldest finished segments of a log, and nothing that anybody needs.

MANIFEST is told first, durably, and only then are files removed: a crash between the two
leaves files that no list names, which the next removal or the next start takes away.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable
from typing import Final

import msgspec
from msgspec import Struct

from headrace.engine.clock import seconds_to_ns
from headrace.engine.errors import LogUnusable, SegmentGone
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.active import ActiveSegment
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.files import Files, SystemFiles, opened
from headrace.engine.log.index import log_time_ns
from headrace.engine.log.lease import EVERYTHING, living
from headrace.engine.log.lock import Lock
from headrace.engine.log.manifest import Manifest, Segment
from headrace.engine.log.reader import LogReader
from headrace.engine.log.snapshots import FileSnapshots

_INDEX_SUFFIX: Final = ".idx"
SEQUENCE_MAX: Final = 2**64 - 1
"""The largest that a log could have: 64 bits are what its files have for one."""


class Policy(Struct, frozen=True):
    """How much of a log is kept.  What is beyond one of the limits may go."""

    keep_bytes: int | None = None
    """The newest segments that together have so many bytes stay."""
    keep_s: float | None = None
    """Segments stay whose last record is no older, in log time, than the log's newest."""

    def __post_init__(self) -> None:
        """Refuse a limit that is negative or infinite: with a `ValueError`."""
        for name, value in self.limits().items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, not {value}")

    def limits(self) -> dict[str, float]:
        """Return the limits that there are, by name."""
        limits = {"keep_bytes": self.keep_bytes, "keep_s": self.keep_s}
        return {name: value for name, value in limits.items() if value is not None}


class Need(Struct, frozen=True):
    """What keeps records from being removed."""

    sequence: int
    """The oldest record that it needs."""
    reason: str
    """For people: ``hold 'audit'``, ``lease of pid 4711`` …"""


class Retention(Struct, frozen=True):
    """What was removed, or would be, and why no more."""

    first_sequence: int
    """The oldest record that is kept."""
    segments: int = 0
    records: int = 0
    size_bytes: int = 0
    kept_by: tuple[Need, ...] = ()
    """What needs the oldest segment that is kept.  None: the policy keeps it, or it is the
    open one."""


def needs_of(files: Files, folder: str, manifest: Manifest) -> list[Need]:
    """Return what holds, leases and snapshots of the log in *folder* need.

    Raises:
        OSError: a lease cannot be read.
    """
    names = files.listdir(folder)
    found = _holds_of(manifest) + _leases_of(files, folder, names)
    return found + snapshot_needs(FileSnapshots(files, folder))


def snapshot_needs(snapshots: FileSnapshots) -> list[Need]:
    """Return what each of *snapshots* needs: its own record, and what its state refers to."""
    return [
        Need(oldest, f"snapshot at {sequence}") for sequence, oldest in snapshots.needs().items()
    ]


def _holds_of(manifest: Manifest) -> list[Need]:
    return [Need(sequence, f"hold {name!r}") for name, sequence in manifest.holds.items()]


def _leases_of(files: Files, folder: str, names: Iterable[str]) -> list[Need]:
    held = living(files, folder, names)
    return [Need(lease.sequence, f"lease of pid {lease.pid}") for lease in held]


def remove_orphans(files: Files, folder: str, first_sequence: int) -> None:
    """Remove the files of segments before *first_sequence*, and the leases of dead readers.

    No list names them and nobody uses them, so that one which cannot be removed is no harm.
    """
    with contextlib.suppress(OSError):
        names = files.listdir(folder)
        found = [name for name in names if 0 < _base_in(name) < first_sequence]
        if found:
            # The list that does not name them may have been put there by a process that was
            # killed before it was durable: power loss could still bring back the other one.
            files.sync_directory(folder)
        for name in found:
            with contextlib.suppress(OSError):
                files.unlink(f"{folder}/{name}")
        living(files, folder, names, remove_dead=True)


def _base_in(name: str) -> int:
    """Return the first record of the segment that the file *name* belongs to; 0: to none."""
    if name.endswith(_INDEX_SUFFIX):
        name = name.removesuffix(_INDEX_SUFFIX) + segments.SUFFIX
    return segments.base_of(name) or segments.packed_base_of(name) or 0


class Extent(Struct, frozen=True):
    """What MANIFEST does not say of a log: how far its open segment has come."""

    base: int
    """The open segment."""
    size_bytes: int
    newest_ns: int
    """Log time of the newest record; 0: it has none."""


def extent_of(files: Files, folder: str, catalog: Catalog, active: ActiveSegment | None) -> Extent:
    """Return how far the open segment of the log in *folder* has come.

    *active* is the one that is being written; ``None``: nobody writes, and it is read.

    Raises:
        LogUnusable, LogCorrupt, LogVersion: it cannot be read.
    """
    if active is not None:
        return Extent(active.base, active.offset, active.last_at_ns)
    base = catalog.manifest.segments[-1].base
    path = f"{folder}/{segments.name_of(base)}"
    with (
        _explained("expected to read its last segment", folder),
        LogReader(folder, lease=False, files=files) as reader,
        opened(files, path, os.O_RDONLY) as fd,
    ):
        newest_ns = 0
        for _, records in reader.read(after=base - 1):
            newest_ns = max(newest_ns, *map(log_time_ns, records))
        return Extent(base, files.size(fd), newest_ns)


def removable(
    manifest: Manifest, policy: Policy, needs: Iterable[Need], extent: Extent
) -> list[Segment]:
    """Return the oldest segments that *policy* gives up and that nothing of *needs* needs."""
    *sealed, last = manifest.segments
    limit = min((need.sequence for need in needs), default=last.base)
    newest_ns = max(extent.newest_ns, *(entry.last_at_ns for entry in manifest.segments), 0)
    after_bytes = sum(map(_room_of, sealed))
    if extent.base == last.base:
        after_bytes += extent.size_bytes
    found: list[Segment] = []
    for entry, last_at_ns in zip(sealed, _last_times(sealed, newest_ns), strict=True):
        after_bytes -= _room_of(entry)
        beyond = policy.keep_bytes is not None and after_bytes >= policy.keep_bytes
        old = policy.keep_s is not None and newest_ns - last_at_ns > seconds_to_ns(policy.keep_s)
        if entry.next_sequence > limit or not (beyond or old):
            break
        found.append(entry)
    return found


def _room_of(entry: Segment) -> int:
    return entry.packed.size_bytes if entry.packed is not None else entry.size_bytes


def _last_times(sealed: list[Segment], newest_ns: int) -> list[int]:
    """Return the log time of the last record of each segment, or one that is later."""
    times: list[int] = []
    following_ns = newest_ns
    for entry in reversed(sealed):
        # A segment of one huge unit has decisions only, and they have no time of their own.
        times.append(entry.last_at_ns or following_ns)
        following_ns = entry.first_at_ns or times[-1]
    return times[::-1]


def plan(manifest: Manifest, policy: Policy, needs: Iterable[Need], extent: Extent) -> Retention:
    """Return what `retain` would do to the log with *manifest*."""
    needs = list(needs)
    return _done(manifest, removable(manifest, policy, needs, extent), needs)


def _done(manifest: Manifest, removed: list[Segment], needs: Iterable[Need]) -> Retention:
    """Return what is to be said once *removed*, the first of *manifest*, are gone."""
    oldest, *_ = left = manifest.segments[len(removed) :]
    until = oldest.next_sequence if len(left) > 1 else oldest.base
    kept_by = {need for need in needs if need.sequence < until}
    return Retention(
        first_sequence=oldest.base,
        segments=len(removed),
        records=sum(entry.next_sequence - entry.base for entry in removed),
        size_bytes=sum(map(_room_of, removed)),
        kept_by=tuple(sorted(kept_by, key=lambda need: (need.sequence, need.reason))),
    )


def retain(
    files: Files,
    folder: str,
    catalog: Catalog,
    policy: Policy,
    *,
    upto: Iterable[Need],
    extent: Extent,
) -> Retention:
    """Remove the oldest segments of the log in *folder* that *policy* gives up.

    None goes that *upto*, a hold, a lease or a snapshot needs.  Works beside the writer and
    beside readers, but one at a time.

    Raises:
        LogUnusable: MANIFEST could not be written, or a lease not be read; all is still there.
    """
    with _explained("expected to remove its oldest segments", folder):
        needs = [*upto, *needs_of(files, folder, catalog.manifest)]
        found = catalog.manifest
        removed = removable(found, policy, needs, extent)
        if removed:
            found, removed = _unlist(catalog, policy, needs, extent)
            late = _leases_after(files, folder)
            removed = _list_again(catalog, removed, late)
            needs += late
    remove_orphans(files, folder, catalog.manifest.first_sequence)
    return _done(found, removed, needs)


def compact(
    folder: str,
    policy: Policy,
    *,
    before: int | None = None,
    dry_run: bool = False,
    files: Files | None = None,
    needs: Callable[[], Iterable[Need]] = tuple,
) -> Retention:
    """Remove what *policy* gives up of the log in *folder*, which no engine holds.

    Nothing from *before* on goes, or that a hold, a lease or a snapshot needs.  A *dry_run*
    only says what would go, also of a log that is in use.  That there is a snapshot to start
    from is for the caller to see to; and what the records after that need is for *needs* to
    say, once nobody can write any more.

    Raises:
        LogLocked: somebody writes it.
        LogUnusable: there is no log, or the disk failed; every record is still there.
        LogCorrupt, LogVersion: it cannot be read.
    """
    disk = files or SystemFiles()
    upto = [] if before is None else [Need(before, f"limit at {before}")]
    with contextlib.ExitStack() as stack:
        if dry_run:
            stack.enter_context(_explained("expected to read it", folder))
            catalog = Catalog(disk, folder, _manifest_of(disk, folder))
        else:
            catalog = stack.enter_context(closed_log(disk, folder))
        extent = extent_of(disk, folder, catalog, None)
        upto += needs()
        if dry_run:
            found = needs_of(disk, folder, catalog.manifest)
            return plan(catalog.manifest, policy, [*upto, *found], extent)
        return retain(disk, folder, catalog, policy, upto=upto, extent=extent)


def _unlist(
    catalog: Catalog, policy: Policy, needs: list[Need], extent: Extent
) -> tuple[Manifest, list[Segment]]:
    """Take out of MANIFEST what can be removed; return what it was before, and that."""
    found = catalog.manifest
    removed: list[Segment] = []

    def shorten(manifest: Manifest) -> Manifest:
        nonlocal found, removed
        # With the holds of this moment: since the last look there may be another.
        held = _holds_of(manifest)
        found, removed = manifest, removable(manifest, policy, [*needs, *held], extent)
        left = manifest.segments[len(removed) :]
        return msgspec.structs.replace(manifest, first_sequence=left[0].base, segments=left)

    catalog.change(shorten)
    return found, removed


def _leases_after(files: Files, folder: str) -> list[Need]:
    """Return the leases that there are once MANIFEST has been shortened.

    Who takes a lease reads MANIFEST after it.  So a reader whose lease is not there yet will
    find the new list; one whose lease is there now may have found the old one.
    """
    try:
        return _leases_of(files, folder, files.listdir(folder))
    except OSError:
        return [Need(EVERYTHING, "a lease that cannot be read")]


def _list_again(catalog: Catalog, removed: list[Segment], needs: list[Need]) -> list[Segment]:
    """Put back into MANIFEST what is needed of *removed*; return what stays removed."""
    gone = [
        entry for entry in removed if all(entry.next_sequence <= need.sequence for need in needs)
    ]
    again = removed[len(gone) :]
    if again:
        catalog.change(
            lambda manifest: msgspec.structs.replace(
                manifest,
                first_sequence=again[0].base,
                segments=[*again, *manifest.segments],
            )
        )
    return gone


def hold(catalog: Catalog, folder: str, name: str, sequence: int) -> None:
    """Keep the records from *sequence* on, under *name*, until `release`.

    A hold of the same name is replaced.

    Raises:
        SegmentGone: *sequence* has been removed already; nothing was changed.
        LogUnusable: MANIFEST could not be written.
    """
    if not name or not name.isprintable():
        raise ValueError(f"the name of a hold must be printable and not empty, not {name!r}")
    if not 1 <= sequence <= SEQUENCE_MAX:
        raise ValueError(f"a hold begins at a sequence from 1 to {SEQUENCE_MAX}, not at {sequence}")

    def held(manifest: Manifest) -> Manifest:
        first = manifest.first_sequence
        if sequence < first:
            raise SegmentGone(folder, wanted=sequence, first_sequence=first)
        return msgspec.structs.replace(manifest, holds={**manifest.holds, name: sequence})

    with _explained(f"expected to note the hold {name!r}", folder):
        catalog.change(held)


def release(catalog: Catalog, folder: str, name: str) -> bool:
    """Give up the hold *name*; say whether there was one.

    Raises:
        LogUnusable: MANIFEST could not be written.
    """
    if name not in catalog.manifest.holds:
        return False

    def released(manifest: Manifest) -> Manifest:
        holds = {other: at for other, at in manifest.holds.items() if other != name}
        return msgspec.structs.replace(manifest, holds=holds)

    with _explained(f"expected to release the hold {name!r}", folder):
        catalog.change(released)
    return True


@contextlib.contextmanager
def _explained(expected: str, folder: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise LogUnusable(
            f"{folder}: {expected}, found {error}; no record is gone; check the disk, "
            "then try again"
        ) from error


@contextlib.contextmanager
def closed_log(files: Files, folder: str) -> Generator[Catalog]:
    """Hold the log in *folder*, which nobody writes, to change its MANIFEST and nothing else.

    Raises:
        LogLocked: somebody writes it.
        LogUnusable: there is no log, or it may not be written.
    """
    with contextlib.ExitStack() as undo:
        try:
            _manifest_of(files, folder)  # or the lock would be made in a foreign directory
            lock = Lock(files, folder)
            undo.callback(_give_back, lock)
            manifest = _manifest_of(files, folder)
        except OSError as error:
            raise LogUnusable(
                f"{folder}: expected an event log that can be written, found: {error}; check its "
                "owner and its mode"
            ) from error
        yield Catalog(files, folder, manifest)


def _give_back(lock: Lock) -> None:
    # What matters is synced, so that an error here means nothing any more.
    with contextlib.suppress(OSError):
        lock.release()


def _manifest_of(files: Files, folder: str) -> Manifest:
    manifest = manifests.load(files, folder)
    if manifest is None:
        raise LogUnusable(f"{folder}: expected an event log, found none; check the path")
    return manifest
