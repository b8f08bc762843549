"""Reading over segment borders: what `FileLog`, `LogReader` and the tools share."""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from headrace.engine.errors import LogUnusable, SegmentGone
from headrace.engine.log import index_file
from headrace.engine.log import manifest as manifests
from headrace.engine.log import segment as segments
from headrace.engine.log.files import Files
from headrace.engine.log.frame import (
    SEAL,
    SEGMENT_HEADER_BYTES,
    Damage,
    Frame,
    Newer,
    records_of,
)
from headrace.engine.log.index import Places, SparseIndex
from headrace.engine.log.manifest import Packed, Segment

OPEN_FILES_MAX: Final = 8
"""How many segments are kept open for reading."""


Place = tuple[int, tuple[int, int]]
"""The base of a segment, and in it the sequence and the offset of a frame (0, 0: the first)."""


class OpenSegments:
    """Descriptors and indexes of the segments that were read last."""

    def __init__(self, files: Files, folder: str) -> None:
        """Begin with none open."""
        self._files = files
        self._folder = folder
        self._open: OrderedDict[int, int] = OrderedDict()
        self._packed: set[int] = set()
        self._indexes: OrderedDict[int, Places] = OrderedDict()

    def path(self, base: int) -> str:
        """Return the path of the segment *base*: of the file that is open, if one is."""
        name = segments.packed_name_of if base in self._packed else segments.name_of
        return f"{self._folder}/{name(base)}"

    def packed(self, base: int) -> bool:
        """Say whether what is open of the segment *base* is compressed.

        Raises:
            As `fd`.
        """
        self.fd(base)
        return base in self._packed

    def fd(self, base: int) -> int:
        """Return a descriptor of the segment *base*, for reading; it stays ours.

        Raises:
            SegmentGone: retention has removed it.
            LogCorrupt: it is missing, or another segment than its name says.
        """
        fd = self._open.get(base)
        if fd is not None:
            self._open.move_to_end(base)
            return fd
        fd = self._open[base] = self._open_either(base)
        path = self.path(base)
        header = segments.read_header(self._files, fd, path)
        if header.base != base:
            raise segments.corrupt(path, 0, Damage(f"record {base}", f"record {header.base}"), base)
        if len(self._open) > OPEN_FILES_MAX:
            _, oldest = self._open.popitem(last=False)
            self._files.close(oldest)
        return fd

    def _open_either(self, base: int) -> int:
        # Compression puts a file under another name in its place.  It may do so at any time, so
        # that only what is open says which of the two it is; their offsets differ.
        self._packed.discard(base)
        self._indexes.pop(base, None)
        path = self.path(base)
        with contextlib.suppress(FileNotFoundError):
            return self._files.open(path, os.O_RDONLY)
        try:
            fd = self._files.open(f"{self._folder}/{segments.packed_name_of(base)}", os.O_RDONLY)
        except FileNotFoundError as error:
            check_kept(self._files, self._folder, base)
            raise segments.corrupt(path, 0, Damage("a segment", "no such file"), base) from error
        self._packed.add(base)
        return fd

    def _described(self, entry: Segment) -> Segment | Packed:
        """Return what MANIFEST says of the file that is open of the segment *entry*."""
        if not self.packed(entry.base):
            return entry
        if entry.packed is None:
            # It was compressed since the list was read.
            entry = listed_now(self._files, self._folder, entry)
        if entry.packed is None:
            missing = Damage("a segment", "only a compressed one that no list names")
            raise segments.corrupt(self.path(entry.base), 0, missing, entry.base)
        return entry.packed

    def chain_after(self, base: int, seal: Frame) -> int:
        """Return the checksum that the segment after *base*, whose last frame is *seal*, names.

        Raises:
            LogCorrupt: the last frame is damaged.
        """
        if not self.packed(base):
            return seal.crc
        return segments.read_seal(self._files, self.fd(base), self.path(base), seal.offset).chain

    def index(self, entry: Segment) -> Places:
        """Return the index of the sealed segment that *entry* describes.

        Raises:
            LogCorrupt: it has no index file, and its last frame is damaged, where there is
                one too.
        """
        fd = self.fd(entry.base)
        index = self._indexes.get(entry.base)
        if index is None:
            file = self._described(entry)
            index = index_file.load(self._files, self._folder, entry.base, file.digest)
            if index is None:
                path = self.path(entry.base)
                seal = segments.read_seal(self._files, fd, path, file.seal_offset)
                index = SparseIndex(seal.index)
            self._indexes[entry.base] = index
            if len(self._indexes) > OPEN_FILES_MAX:
                self._indexes.popitem(last=False)
        return index

    def walk(
        self,
        base: int,
        place: tuple[int, int] = (0, 0),
        *,
        previous: int | None = None,
        chunk_bytes: int = segments.SCAN_BYTES,
    ) -> segments.Walk:
        """Return a walk over the segment *base*.

        It begins at *place* of its index, and then does not know what came before, or at its
        first frame, and then checks that the segment follows the checksum *previous*.

        Raises:
            LogCorrupt: the segment is missing, another one, or its header is damaged.
        """
        fd = self.fd(base)
        sequence, offset = place
        chain: int | None = None
        if offset <= SEGMENT_HEADER_BYTES:
            path = self.path(base)
            header = segments.read_header(self._files, fd, path)
            if previous is not None and header.previous != previous:
                expected = f"the segment that follows checksum {previous:#010x}"
                found = f"the one that follows {header.previous:#010x}"
                raise segments.corrupt(path, 0, Damage(expected, found), base)
            sequence, offset, chain = base, SEGMENT_HEADER_BYTES, header.crc
        return segments.Walk(
            self._files,
            fd,
            offset=offset,
            sequence=sequence,
            chain=chain,
            chunk_bytes=chunk_bytes,
        )

    def close_below(self, base: int) -> None:
        """Give back the segments before *base*: until then a removed one keeps its room."""
        for older in [open_base for open_base in self._open if open_base < base]:
            self._files.close(self._open.pop(older))
            self._indexes.pop(older, None)

    def close(self) -> None:
        """Give the files back."""
        while self._open:
            _, fd = self._open.popitem()
            self._files.close(fd)


def listed_now(files: Files, folder: str, entry: Segment) -> Segment:
    """Return what MANIFEST says now of the finished segment *entry*; *entry* if nothing."""
    manifest = manifests.load(files, folder)
    listed = manifest.segments if manifest is not None else []
    return next((other for other in listed if other.base == entry.base), entry)


def check_kept(files: Files, folder: str, base: int) -> None:
    """Check that the segment *base*, which was in the list of the log in *folder*, still is.

    Raises:
        SegmentGone: retention has removed it.
    """
    manifest = manifests.load(files, folder)
    if manifest is not None and base < manifest.first_sequence:
        raise SegmentGone(folder, wanted=base, first_sequence=manifest.first_sequence)


def step(opened: OpenSegments, base: int, walk: segments.Walk) -> Frame:
    """Return the next frame of *walk* over the segment *base*: there is one.

    Raises:
        LogCorrupt: it is damaged or missing.
        LogVersion: a newer headrace wrote it.
        LogUnusable: the disk cannot read it.
    """
    path = opened.path(base)
    offset, sequence = walk.offset, walk.sequence
    try:
        frame = walk.next_frame()
    except Damage as damage:
        raise segments.corrupt(path, offset, damage, sequence) from damage
    except Newer as newer:
        raise segments.too_new(path, offset, newer) from newer
    except OSError as error:
        # Not the end of the log and not damage that anybody has seen: the disk says nothing.
        raise LogUnusable(
            f"{path} byte {offset}: expected to read record {sequence}, found {error}; "
            "check the disk"
        ) from error
    if frame is None:
        missing = Damage(f"the frame of record {sequence}", "the end of the file")
        raise segments.corrupt(path, offset, missing, sequence)
    return frame


def records_at(path: str, frame: Frame) -> list[bytes]:
    """Return the records of *frame*, which was read from *path*.

    Raises:
        LogCorrupt: they cannot be told apart.
    """
    try:
        return records_of(frame)
    except Damage as damage:
        raise segments.corrupt(path, frame.offset, damage, frame.base) from damage


def cut_batch(
    first: int, records: list[bytes], *, after: int, upto: int
) -> tuple[int, list[bytes]] | None:
    """Return the part of a batch that is after *after* and not beyond *upto*."""
    start = max(0, after + 1 - first)
    stop = min(len(records), upto + 1 - first)
    if start >= stop:
        return None
    if start or stop < len(records):
        return first + start, records[start:stop]
    return first, records


def segment_of(bases: Sequence[int], sequence: int) -> int:
    """Return the place in *bases* of the segment that holds *sequence*; 0 if it is before all."""
    return max(0, bisect_right(bases, sequence) - 1)


def read_batches(
    opened: OpenSegments,
    start: Place,
    *,
    after: int,
    upto: int,
    leave: Callable[[Place], None] = lambda _: None,
    chunk_bytes: int = segments.SCAN_BYTES,
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the records after *after* up to *upto*, frame by frame.

    It begins at *start*; before each batch *leave* is told where the next one begins.

    Raises:
        LogCorrupt: damage was met; everything yielded before it is intact.
        LogVersion: a newer headrace wrote a frame.
    """
    base, place = start
    walk = opened.walk(base, place, chunk_bytes=chunk_bytes)
    while walk.sequence <= upto:
        frame = step(opened, base, walk)
        if frame.kind == SEAL:
            previous = opened.chain_after(base, frame)
            base, walk = frame.base, opened.walk(frame.base, previous=previous)
        elif frame.count and walk.sequence > after + 1:
            cut = cut_batch(
                frame.base, records_at(opened.path(base), frame), after=after, upto=upto
            )
            if cut is not None:
                leave((base, (walk.sequence, walk.offset)))
                yield cut


def fetch_records(
    opened: OpenSegments,
    locate: Callable[[int], Place],
    sequences: Iterable[int],
    *,
    keep: Callable[[int, list[bytes]], None] = lambda _first, _records: None,
) -> dict[int, bytes]:
    """Return the records at *sequences*, ascending, which are in the files.

    *locate* says for a sequence with which segment and place to begin.  *keep* is given the
    records of the last frame that was read, with the sequence of its first.

    Raises:
        LogCorrupt: damage was met.
        LogVersion: a newer headrace wrote a frame.
    """
    found: dict[int, bytes] = {}
    base, walk, first = 0, None, 1
    records: list[bytes] = []
    for sequence in sequences:
        if sequence - first >= len(records):
            at, place = locate(sequence)
            if walk is None or at != base or place[1] > walk.offset:
                base = at
                walk = opened.walk(base, place, chunk_bytes=segments.FETCH_BYTES)
            records = []
            while walk.sequence <= sequence:
                frame = step(opened, base, walk)
                if frame.kind == SEAL:  # a reading has left off at the end of this segment
                    previous = opened.chain_after(base, frame)
                    base, walk = frame.base, opened.walk(frame.base, previous=previous)
                    continue
                first = frame.base
                if walk.sequence > sequence:
                    records = records_at(opened.path(base), frame)
        if 0 <= sequence - first < len(records):
            found[sequence] = records[sequence - first]
    if records:
        keep(first, records)
    return found
