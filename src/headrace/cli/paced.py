"""`Paced`: a log that is read no faster than it was written, for demonstrations."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.output import write
from headrace.cli.records import View
from headrace.cli.text import NS, safe, to_json

if TYPE_CHECKING:
    from headrace.engine.log import LogReader
    from headrace.engine.log.protocol import SnapshotStore

_LEFT_OUT: Final = ("sequence", "kind", "recorded_at", "trace", "hops")


class Paced:
    """Reads as *reader* does, a record at a time, each when its time has come."""

    def __init__(self, reader: LogReader, speed: float, *, show: bool) -> None:
        """*speed* times as fast as it was recorded; with *show* each record is printed."""
        self._reader = reader
        self._speed = speed
        self._show = show
        self._view = View(reader)
        self._begun: tuple[float, int] | None = None

    @property
    def snapshots(self) -> SnapshotStore:
        """See `EventLog.snapshots`."""
        return self._reader.snapshots

    @property
    def committed_sequence(self) -> int:
        """See `EventLog.committed_sequence`."""
        return self._reader.committed_sequence

    def fetch(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """See `EventLog.fetch`."""
        return self._reader.fetch(sequences)

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `EventLog.read`."""
        for first, batch in self._reader.read(after=after):
            rows = self._view.rows([(first, batch)])
            for raw, (sequence, record, at_ns) in zip(batch, rows, strict=True):
                self._wait(at_ns)
                if self._show:
                    self._print(self._view.row_of(sequence, record, at_ns))
                yield sequence, [raw]

    def _wait(self, at_ns: int | None) -> None:
        if at_ns is None:
            return
        if self._begun is None:
            self._begun = time.monotonic(), at_ns
        begun_s, begun_ns = self._begun
        left_s = begun_s + (at_ns - begun_ns) / NS / self._speed - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)

    def _print(self, row: dict[str, Any]) -> None:
        more = {name: value for name, value in row.items() if name not in _LEFT_OUT}
        place = f"{row['sequence']:>8}  {row['recorded_at'] or '':30}  {row['kind']:16}"
        write(f"{place}  {safe(to_json(more))}")
