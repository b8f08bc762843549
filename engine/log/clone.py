"""A new log made of another one: what a fork and a copy have in common.

The directory of the new log is filled under a mark, `folder.UNFINISHED`, which is there
before anything else is.  MANIFEST comes last, when all the rest is durable, and makes it a
log.  So a crash leaves a whole log or a directory that says of itself that it is none.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator
from typing import Final

import msgspec
from msgspec import Struct

from headrace.engine.errors import BlobUnusable, LogCorrupt, LogUnusable, SegmentGone
from headrace.engine.log import blob_files, index_file, snapshots
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.digest import new_digest
from headrace.engine.log.files import READ_BYTES_MAX, Files, opened, remove_tree, write_all
from headrace.engine.log.folder import UNFINISHED, is_ours, make_directory
from headrace.engine.log.frame import (
    CLOSE,
    FORK,
)
from headrace.engine.log.head import HeadFile
from headrace.engine.log.manifest import Manifest, Parent, Segment
from headrace.engine.log.moment import Moment, observe
from headrace.engine.log.neighbours import check_sealed
from headrace.engine.log.tail import Tail
from headrace.engine.log.walker import OpenSegments, listed_now, step

TRIES_MAX: Final = 32
"""How often it is begun anew because retention took away what was to be copied."""

CANNOT_LINK: Final = frozenset(
    (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
)
"""Errors of a disk that has no further names for a file: other disk, not allowed, too many."""


class Plan(Struct, frozen=True):
    """What a new log is to be."""

    upto: int
    """The last record that it takes over."""
    fork_id: bytes = b""
    """Its own id, if it goes another way from here; empty: it is the same log."""
    created_ns: int = 0
    """Of a fork."""
    config: dict[str, str] = {}
    """What MANIFEST says of a fork."""

    @property
    def forks(self) -> bool:
        """Whether the new log is another one: it shares files and has its own id."""
        return bool(self.fork_id)


class Clone(Struct, frozen=True):
    """A new log."""

    manifest: Manifest
    linked: int
    """How many segments it shares with its origin."""
    copied_bytes: int
    """How many bytes of segments were written for it."""
    snapshot: int
    """The sequence of the newest snapshot that it has; 0: none."""
    results: int
    """How many large results it has, in files of their own."""


class _Outrun(Exception):
    """What there was at that moment has made way: snapshots for newer ones, or old records."""


def make(
    files: Files, source: str, target: str, plan: Callable[[OpenSegments, Moment], Plan]
) -> Clone:
    """Make the directory *target* a log with what *plan* takes of the one at *source*.

    The source is only read.  After an error there is nothing new at *target*, as far as the
    disk still lets it be removed.

    Raises:
        LogUnusable: there is no log at *source*, something at *target*, or the disk failed.
        LogCorrupt: something that was to be taken over is damaged.
        BlobUnusable: a large result that was to be copied is.
        LogVersion: a newer headrace wrote the source.
    """
    try:
        for _ in range(TRIES_MAX):
            moment = observe(files, source)
            _check_apart(source, target)
            reading = OpenSegments(files, source)
            try:
                wanted = plan(reading, moment)
                with _directory(files, target) as folder:
                    making = _Making(
                        files, source, folder, reading=reading, moment=moment, plan=wanted
                    )
                    return making.run()
            except _Outrun:
                continue
            except (LogCorrupt, SegmentGone, FileNotFoundError):
                # Retention and compression put other segments in the place of those that we
                # knew; damage is what is still in the list.
                if manifests.load(files, source) == moment.manifest:
                    raise
            finally:
                # They were only read, so that an error here means nothing.
                with contextlib.suppress(OSError):
                    reading.close()
    except OSError as error:
        raise LogUnusable(
            f"{target}: expected to make a log of {source} there, found: {error}; check both "
            "and try again"
        ) from error
    raise LogUnusable(
        f"{source}: expected a log that stays as it is for a moment, found other segments each "
        f"of {TRIES_MAX} times; try again, or keep its records meanwhile: `headrace log hold`"
    )


def _check_apart(source: str, target: str) -> None:
    if target == source or target.startswith(f"{source}/"):
        raise LogUnusable(f"{target}: expected a path outside of the log {source}; choose another")


@contextlib.contextmanager
def _directory(files: Files, path: str) -> Generator[str]:
    """Begin a new log at *path*; what is left of an unfinished one there is removed.

    If the block raises, everything is removed again.
    """
    found = files.kind(path)
    names = files.listdir(path) if found == "directory" else []
    again = UNFINISHED in names and manifests.NAME not in names
    if found not in ("missing", "directory") or (names and not again):
        raise LogUnusable(f"{path}: expected a new path, found something there; choose another")
    if found == "missing":
        make_directory(files, path)
    mark = files.open(f"{path}/{UNFINISHED}", os.O_RDWR | os.O_CREAT)
    try:
        if not files.lock(mark) or manifests.NAME in files.listdir(path):
            raise LogUnusable(
                f"{path}: expected a new path, found a log that somebody else is making; choose "
                "another"
            )
        try:
            # Durable before anything else is there, so that a crash cannot leave what looks
            # like a log that has lost its MANIFEST.
            files.fsync(mark)
            files.sync_directory(path)
            _empty(files, path)
            yield path
        except BaseException:
            with contextlib.suppress(OSError):
                _empty(files, path)
                files.sync_directory(path)
                files.unlink(f"{path}/{UNFINISHED}")
                if found == "missing":
                    files.rmdir(path)
            raise
        # From here on it is a log; its first start would remove the mark too.
        with contextlib.suppress(OSError):
            files.unlink(f"{path}/{UNFINISHED}")
    finally:
        with contextlib.suppress(OSError):
            files.close(mark)


def _empty(files: Files, path: str) -> None:
    """Remove all that we put into the directory *path*, but for the mark."""
    # MANIFEST first: without it the rest is no log, however far this comes.
    for name in sorted(files.listdir(path), key=lambda name: name != manifests.NAME):
        if name == blob_files.NAME:
            remove_tree(files, f"{path}/{name}")
        elif name != UNFINISHED and is_ours(name):
            files.unlink(f"{path}/{name}")


class _Making:
    """The making of one new log."""

    def __init__(
        self,
        files: Files,
        source: str,
        target: str,
        *,
        reading: OpenSegments,
        moment: Moment,
        plan: Plan,
    ) -> None:
        self._files = files
        self._source = source
        self._target = target
        self._reading = reading
        self._manifest = moment.manifest
        self._committed = moment.committed
        self._plan = plan
        self._linked = 0
        self._copied_bytes = 0

    def run(self) -> Clone:
        plan, files = self._plan, self._files
        # First: while segments are copied the writer may take two others and drop these.
        snapshot = self._take_snapshots()
        entries = self._manifest.segments
        shared = [e for e in entries if e.sealed and e.next_sequence - 1 <= plan.upto]
        previous: Segment | None = None
        for place, entry in enumerate(shared):
            previous = shared[place] = self._take_segment(entry, previous)
            self._take_index(entry)
        tail = entries[len(shared)]
        log_id = plan.fork_id or self._manifest.log_id
        parent, last = self._write_tail(tail, log_id, previous)
        results = self._take_results()
        files.sync_directory(self._target)
        changes = {"segments": [*shared, last]}
        manifest = msgspec.structs.replace(self._manifest, **changes)
        if plan.forks:
            manifest = msgspec.structs.replace(
                manifest,
                log_id=log_id,
                created_ns=plan.created_ns,
                parent=parent,
                config=plan.config,
                holds={},
            )
        manifests.store(files, self._target, manifest)
        return Clone(manifest, self._linked, self._copied_bytes, snapshot, results)

    def _take_snapshots(self) -> int:
        """Share or copy the snapshots that the new log can use; return the newest's sequence.

        Raises:
            _Outrun: the writer was faster, and a log that has lost its beginning needs one.
        """
        upto = self._plan.upto
        names = self._files.listdir(self._source)
        found = sorted(s for name in names if (s := snapshots.sequence_of(name)) is not None)
        wanted = [sequence for sequence in found if sequence <= upto]
        taken = [sequence for sequence in wanted[::-1] if self._take_snapshot(sequence)]
        if found and not taken and self._manifest.first_sequence > 1:
            is_late = upto == self._committed
            if wanted or (is_late and found[0] <= observe(self._files, self._source).committed):
                raise _Outrun
        return max(taken, default=0)

    def _take_snapshot(self, sequence: int) -> bool:
        name = snapshots.name_of(sequence)
        return self._take(f"{self._source}/{name}", f"{self._target}/{name}")

    def _take_segment(self, entry: Segment, previous: Segment | None) -> Segment:
        """Share or copy a finished segment, and return what is to be said of it."""
        try:
            self._take_file(entry, previous)
        except (LogCorrupt, FileNotFoundError):
            now = listed_now(self._files, self._source, entry)
            if now.packed == entry.packed:
                raise
            # Compression has put another file in its place meanwhile.
            self._take_file(now, previous)
            return now
        return entry

    def _take_file(self, entry: Segment, previous: Segment | None) -> None:
        """Share the file of a segment, or copy it and compare it with its digest."""
        check_sealed(self._files, self._source, entry, previous)
        source = f"{self._source}/{entry.file_name}"
        with opened(self._files, source, os.O_RDONLY) as fd:
            segments.read_seal(self._files, fd, source, entry.file.seal_offset)
            self._share_or_copy(fd, entry, previous)

    def _share_or_copy(self, fd: int, entry: Segment, previous: Segment | None) -> None:
        name, file = entry.file_name, entry.file
        source, target = f"{self._source}/{name}", f"{self._target}/{name}"
        if self._plan.forks and self._link(source, target):
            self._linked += 1
            # It may have been replaced between the look at it and the link.
            check_sealed(self._files, self._target, entry, previous)
            return
        digest = new_digest()
        left = file.seal_offset

        def feed(data: bytes) -> None:
            nonlocal left
            digest.update(data[:left])
            left -= min(left, len(data))

        self._copied_bytes += self._copy(fd, target, feed)
        if digest.digest() != file.digest:
            raise LogCorrupt(
                source,
                0,
                expected=f"digest {file.digest.hex()}",
                found=digest.hexdigest(),
                first_sequence=entry.base,
                last_sequence=entry.next_sequence - 1,
            )

    def _link(self, source: str, target: str) -> bool:
        """Give a file a second name; say whether the disk can do so."""
        try:
            self._files.link(source, target)
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
            return False
        return True

    def _take_index(self, entry: Segment) -> None:
        """Copy a segment's index: a cache, which may be missing, and may be written anew."""
        name = index_file.name_of(entry.base)
        try:
            with opened(self._files, f"{self._source}/{name}", os.O_RDONLY) as fd:
                self._copy(fd, f"{self._target}/{name}", sync=False)
        except FileNotFoundError:
            return

    def _copy(
        self,
        fd: int,
        target: str,
        feed: Callable[[bytes], None] = lambda _: None,
        *,
        sync: bool = True,
    ) -> int:
        """Copy the open file *fd*, as a rule durably, and return its length."""
        files, offset = self._files, 0
        with opened(files, target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as new:
            while data := files.pread(fd, READ_BYTES_MAX, offset):
                feed(data)
                write_all(files, new, data, offset)
                offset += len(data)
            if sync:
                files.fsync(new)
        return offset

    def _take(self, source: str, target: str) -> bool:
        """Share or copy a file that is never changed; one that is gone meanwhile is left out.

        Returns whether it is there.
        """
        try:
            if not (self._plan.forks and self._link(source, target)):
                with opened(self._files, source, os.O_RDONLY) as fd:
                    self._copy(fd, target)
        except FileNotFoundError:
            return False
        return True

    def _take_results(self) -> int:
        """Share or copy the large results; return how many there are.

        Raises:
            BlobUnusable: one that was to be copied is damaged.
            _Outrun: retention has removed records meanwhile, and perhaps what they name.
        """
        files, count = self._files, 0
        parts = list(blob_files.parts_of(files, self._source))
        if not parts:
            return 0
        files.mkdir(blobs := f"{self._target}/{blob_files.NAME}")
        for part in parts:
            files.mkdir(made := f"{blobs}/{part.rpartition('/')[2]}")
            for digest in blob_files.digests_in(files, part):
                count += self._take_result(digest)
            files.sync_directory(made)
        files.sync_directory(blobs)
        now = manifests.load(files, self._source)
        # It is told before it removes anything: see `retention`.
        if now is not None and now.first_sequence != self._manifest.first_sequence:
            raise _Outrun
        return count

    def _take_result(self, digest: bytes) -> bool:
        """Share or copy a large result; say whether it is still there."""
        files, source, target = self._files, self._source, self._target
        try:
            old, new = blob_files.path_of(source, digest), blob_files.path_of(target, digest)
            if not (self._plan.forks and self._link(old, new)):
                blob_files.copy_checked(files, source, target, digest)
        except FileNotFoundError:
            return False
        except BlobUnusable as error:
            raise BlobUnusable(
                f"{error}, or `headrace log salvage {source} NEW` makes a log without it"
            ) from error
        return True

    def _write_tail(
        self, entry: Segment, log_id: bytes, previous: Segment | None
    ) -> tuple[Parent, Segment]:
        """Write the last segment, which holds what is left of *entry*, and HEAD."""
        files, plan = self._files, self._plan
        fd = self._reading.fd(entry.base)
        path = self._reading.path(entry.base)
        header = segments.read_header(files, fd, path)
        if header.log_id != entry.log_id:
            raise LogCorrupt(
                path,
                0,
                expected=f"a segment of log {entry.log_id.hex()}",
                found=f"one of log {header.log_id.hex()}",
                first_sequence=entry.base,
            )
        walk = self._reading.walk(entry.base, previous=previous.chain if previous else None)
        created_ns = plan.created_ns if plan.forks else header.created_ns
        with Tail(files, self._target, header, log_id=log_id, created_ns=created_ns) as tail:
            chain = header.previous if previous else header.crc
            while walk.sequence <= plan.upto:
                frame = step(self._reading, entry.base, walk)
                tail.add(path, frame, plan.upto)
                chain = frame.crc
            parent = Parent(self._manifest.log_id, plan.upto, chain)
            if plan.forks:
                tail.mark(FORK, plan.upto + 1, segments.encode_body(parent))
            # Nobody writes to it: it is as clean as a log that was closed.
            tail.mark(CLOSE, plan.upto + 1, b"")
            tail.sync()
            self._copied_bytes += tail.offset
            head = HeadFile(files, self._target, log_id, 0)
            try:
                head.write(
                    next_sequence=plan.upto + 1,
                    base=entry.base,
                    offset=tail.offset,
                    chain=tail.chain,
                )
                head.sync()
            finally:
                head.close()
        return parent, Segment(entry.base, log_id)
