"""``headrace events tail``: the last events of a log, and those that are still coming."""

from __future__ import annotations

import select
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import INTERRUPTED, OK
from headrace.cli.log import Selection, selection
from headrace.cli.logs import opened
from headrace.cli.output import Output, Stream
from headrace.cli.records import View
from headrace.engine.errors import SegmentGone

if TYPE_CHECKING:
    from headrace.engine import record as r
    from headrace.engine.log import LogReader

COLUMNS: Final = {"sequence": 8, "recorded_at": 30, "subject": 24, "data": 0}
WAIT_MS: Final = 50
LOOK_BACK: Final = 256

_Row = tuple[int, "r.Record", int | None]


def tail(
    log: Path,
    output: Output,
    *,
    after: int | None,
    count: int,
    follow: bool,
    subject: str | None,
) -> int:
    """Print the last *count* events, or all after *after*; with *follow* go on until interrupted.

    Raises:
        SegmentGone: retention has removed what comes next.
    """
    wanted = selection(("event",), subject)
    with opened(log) as reader:
        view = View(reader)
        last = reader.refresh()
        try:
            with Stream(output, COLUMNS) as stream:
                if after is None:
                    for row in _last(reader, wanted, count, last):
                        _add(stream, view, row)
                    after = last
                elif not follow:
                    _add_wanted(stream, reader, wanted, reader.read(after=after))
                if follow:
                    _add_wanted(stream, reader, wanted, reader.follow(after=after, wait=_wait))
        except KeyboardInterrupt:
            return INTERRUPTED
    return OK


def _add(stream: Stream, view: View, row: _Row) -> None:
    shown: dict[str, Any] = view.row_of(*row)
    stream.add(shown)


def _add_wanted(
    stream: Stream,
    reader: LogReader,
    wanted: Selection,
    batches: Iterator[tuple[int, list[bytes]]],
) -> None:
    view = View(reader)
    for row in view.rows(batches):
        if wanted(row[1]):
            _add(stream, view, row)


def _last(reader: LogReader, wanted: Selection, count: int, last: int) -> Iterator[_Row]:
    """Yield the last *count* wanted records up to *last*, looking back as far as needed."""
    span = LOOK_BACK
    while count > 0:
        after = max(reader.first_sequence - 1, last - span)
        found: deque[_Row] = deque(maxlen=count)
        rows = View(reader).rows(reader.read(after=after, upto=last))
        try:
            found.extend(row for row in rows if wanted(row[1]))
        except SegmentGone:
            continue  # it was removed just now: look back to where the log begins now
        if len(found) == count or after < reader.first_sequence:
            yield from found
            return
        span *= 8


def _wait() -> bool:
    """Sleep a little; return whether anybody still reads what is printed."""
    sys.stdout.flush()
    if not hasattr(select, "poll"):
        import time

        time.sleep(WAIT_MS / 1000)
        return True
    # A pipe whose reader has gone says so at once, and not only when there is a next event.
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return not poll.poll(WAIT_MS)
