"""The last segment of a new log: frames of another log's segment, put behind a header anew."""

from __future__ import annotations

import os

from headrace.engine.log import segment as segments
from headrace.engine.log.files import READ_BYTES_MAX, Data, Files, write_all
from headrace.engine.log.frame import (
    MORE,
    SEGMENT_HEADER_BYTES,
    ZLIB,
    Frame,
    SegmentHeader,
    encode_frame,
    encode_segment_header,
    shortest_body,
)
from headrace.engine.log.walker import records_at


class Tail:
    """The open last segment of a new log.  It is written once, and never read."""

    def __init__(
        self, files: Files, folder: str, origin: SegmentHeader, *, log_id: bytes, created_ns: int
    ) -> None:
        """Make the segment that comes in the place of the one with the header *origin*."""
        header, self.chain = encode_segment_header(
            log_id=log_id, base=origin.base, created_ns=created_ns, previous=origin.previous
        )
        self._files = files
        path = f"{folder}/{segments.name_of(origin.base)}"
        self._fd = files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._parts: list[Data] = [header]
        self._waiting_bytes = SEGMENT_HEADER_BYTES
        self._written_bytes = 0

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close(self._fd)

    @property
    def offset(self) -> int:
        """Where the next frame goes."""
        return self._written_bytes + self._waiting_bytes

    def add(self, path: str, frame: Frame, upto: int) -> None:
        """Add *frame* of the segment *path*, without its records after *upto*."""
        count = min(frame.count, upto + 1 - frame.base)
        if count == frame.count and not frame.codec & ZLIB:
            body, codec = bytes(frame.body), frame.codec
        else:
            # Not compressed, as no frame is of a segment that is written to.
            body, codec = shortest_body(records_at(path, frame)[:count])
        data, self.chain = encode_frame(
            body,
            # Where records are left out, a unit ends.
            kind=frame.kind | MORE if frame.more and count == frame.count else frame.kind,
            count=count,
            base=frame.base,
            durable=frame.durable,
            chain=self.chain,
            codec=codec,
        )
        self._append(data)

    def mark(self, kind: int, sequence: int, body: bytes) -> None:
        """Add a frame without records; *sequence* is the next one of the log."""
        data, self.chain = encode_frame(
            body, kind=kind, count=0, base=sequence, durable=sequence, chain=self.chain
        )
        self._append(data)

    def _append(self, data: bytes) -> None:
        self._parts.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= READ_BYTES_MAX:
            self._flush()

    def _flush(self) -> None:
        write_all(self._files, self._fd, b"".join(self._parts), self._written_bytes)
        self._written_bytes = self.offset
        self._parts, self._waiting_bytes = [], 0

    def sync(self) -> None:
        """Make everything that was added durable."""
        self._flush()
        self._files.fsync(self._fd)
