"""The segment that is being written, and the place in it where the next frame goes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from headrace.engine.log.digest import RunningDigest
from headrace.engine.log.files import Files, write_all
from headrace.engine.log.frame import (
    CLOSE,
    DATA,
    MORE,
    NOTE,
    SEAL,
    SEGMENT_HEADER_BYTES,
    Frame,
    encode_frame,
    shortest_body,
)
from headrace.engine.log.group import Group, cut
from headrace.engine.log.index import SparseIndex, first_time_ns, log_time_ns
from headrace.engine.log.manifest import Segment
from headrace.engine.log.segment import Gap, Seal, encode_body, name_of


class ActiveSegment:
    """The open segment file, everything that its next frame needs, and its summary.

    Used by one thread at a time: that which recovers the log, then the writer's.  `index`
    and `written_sequence` may be read by others.
    """

    def __init__(
        self,
        files: Files,
        folder: str,
        *,
        base: int,
        log_id: bytes,
        header: bytes,
        created_ns: int,
        chain: int,
        flags: int = os.O_RDWR,
    ) -> None:
        """Open the segment *base*; nothing after its 64 bytes of *header* is known yet."""
        self._files = files
        self.path = f"{folder}/{name_of(base)}"
        self.fd = files.open(self.path, flags)
        self.base = base
        self.log_id = log_id
        self.created_ns = created_ns
        """Wall-clock time of its creation."""
        self.offset = SEGMENT_HEADER_BYTES
        self.sequence = base
        self.chain = chain
        self.index = SparseIndex()
        self.last_kind = 0
        """Kind of the last frame; 0: there is none."""
        self.seal_offset = 0
        self.first_at_ns = 0
        self.last_at_ns = 0
        self._digest = RunningDigest()
        self._digest.feed(header)

    @property
    def sealed(self) -> bool:
        """Whether the segment is finished."""
        return self.last_kind == SEAL

    def absorb(self, frame: Frame, sequence: int) -> None:
        """Take in a frame that recovery found; *sequence* is the next one after it."""
        if frame.kind == SEAL:
            self.seal_offset = frame.offset
        else:
            self._digest.feed(frame.raw)
        if frame.kind == DATA:
            self._note(frame.base, frame.offset, first_time_ns(frame.body))
        self.offset = frame.end
        self.sequence = sequence
        self.chain = frame.crc
        self.last_kind = frame.kind

    def _note(self, sequence: int, offset: int, at_ns: int) -> None:
        """Take the frame at *offset* into the index; *at_ns* 0: its first record has no time."""
        self.first_at_ns = self.first_at_ns or at_ns
        self.last_at_ns = at_ns or self.last_at_ns
        self.index.add(sequence, offset, self.last_at_ns)

    def write_groups(self, groups: Sequence[Group], durable_sequence: int) -> None:
        """Write *groups* as frames after the last one, without making them durable.

        Raises:
            OSError: the file may hold a part of them; `cut_back` removes it.
        """
        sequence, chain, offset = self.sequence, self.chain, self.offset
        parts: list[bytes] = []
        notes: list[tuple[int, int, int]] = []
        for group in groups:
            start = 0
            for stop, more in cut(group):
                part = group.records[start:stop]
                body, codec = shortest_body(part)
                data, chain = encode_frame(
                    body,
                    kind=DATA | MORE if more else DATA,
                    count=len(part),
                    base=sequence,
                    durable=durable_sequence + 1,
                    chain=chain,
                    codec=codec,
                )
                parts.append(data)
                notes.append((sequence, offset, log_time_ns(part[0])))
                sequence += len(part)
                offset += len(data)
                start = stop
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        write_all(self._files, self.fd, data, self.offset)
        for note in notes:
            self._note(*note)
        self._advance(data, DATA, sequence, chain)

    def write_close(self) -> None:
        """Write the frame that marks a clean end.  Everything before it is durable.

        Raises:
            OSError: as `write_groups`.
        """
        self._write_mark(CLOSE, b"")

    def write_seal(self) -> None:
        """Write the segment's last frame.  Everything before it is durable.

        Raises:
            OSError: as `write_groups`.
        """
        seal = Seal(
            self.sequence - self.base,
            self.first_at_ns,
            self.last_at_ns,
            self.index.thinned(),
            self._digest.value(),
        )
        offset = self.offset
        self._write_mark(SEAL, encode_body(seal))
        self.seal_offset = offset

    def write_gap(self, gap: Gap) -> None:
        """Write that the records of *gap* are missing; the next one comes after them.

        Raises:
            OSError: as `write_groups`.
        """
        assert gap.first == self.sequence
        self._write_mark(NOTE, encode_body(gap))
        self.sequence = gap.last + 1

    def _write_mark(self, kind: int, body: bytes) -> None:
        data, chain = encode_frame(
            body,
            kind=kind,
            count=0,
            base=self.sequence,
            durable=self.sequence,
            chain=self.chain,
        )
        write_all(self._files, self.fd, data, self.offset)
        self._advance(data, kind, self.sequence, chain)

    def _advance(self, data: bytes, kind: int, sequence: int, chain: int) -> None:
        if kind != SEAL:
            self._digest.feed(data)
        self.offset += len(data)
        self.sequence = sequence
        self.chain = chain
        self.last_kind = kind

    def cut_back(self) -> None:
        """Remove what a failed write left after the last whole frame.

        Raises:
            OSError: it is still there.
        """
        self._files.truncate(self.fd, self.offset)

    def sync(self) -> None:
        """Make everything that was written durable.

        Raises:
            OSError: it is not known what is durable.
        """
        self._files.fdatasync(self.fd)
        if not self._files.is_named(self.fd, self.path):
            # The bytes went where nobody will look for them.
            raise FileNotFoundError(
                2, "the segment was deleted or moved away while it was written", self.path
            )

    def entry(self) -> Segment:
        """Return what MANIFEST says of this segment."""
        if not self.sealed:
            return Segment(self.base, self.log_id)
        return Segment(
            base=self.base,
            log_id=self.log_id,
            sealed=True,
            size_bytes=self.offset,
            seal_offset=self.seal_offset,
            next_sequence=self.sequence,
            chain=self.chain,
            digest=self._digest.value(),
            first_at_ns=self.first_at_ns,
            last_at_ns=self.last_at_ns,
        )

    def close(self) -> None:
        """Give the file back."""
        self._digest.close()
        self._files.close(self.fd)
