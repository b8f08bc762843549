"""Reading a log beside its writer, for the commands that only look."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import LogNotFound, RecordUnreadable
from headrace.cli.progress import shown
from headrace.cli.text import safe
from headrace.engine.errors import SegmentGone

if TYPE_CHECKING:
    from headrace.engine.decider import Decider
    from headrace.engine.kernel import Kernel
    from headrace.engine.log import LogReader
    from headrace.engine.record import Record
    from headrace.engine.runs import RunView

LOOK_BACK: Final = 64
"""How many records to look back at first, for the input that a decision belongs to."""


def check_there(log: Path) -> None:
    """Refuse a path without a log.

    Raises:
        LogNotFound: nothing is there, or something else.
    """
    from headrace.engine.log.manifest import NAME
    from headrace.engine.log.segment import base_of

    if log.is_dir():
        names = os.listdir(log)  # noqa: PTH208 (names are all that is needed)
        # Segments without their list are a damaged log, and that is for the reader to say.
        if NAME in names or any(base_of(name) is not None for name in names):
            return
        found = f"a folder with {safe(repr(min(names)))}" if names else "an empty folder"
    else:
        found = "a file" if log.exists() else "nothing there"
    raise LogNotFound(f"{safe(str(log))}: expected an event log, found {found}; check the path")


def opened(log: Path) -> LogReader:
    """Return a reader of the log at *log*.

    Raises:
        LogNotFound, LogUnusable, LogCorrupt, LogVersion: it cannot be read.
    """
    from headrace.engine.log import LogReader

    check_there(log)
    return LogReader(log)


def records(reader: LogReader, *, after: int = 0) -> Iterator[tuple[int, Record]]:
    """Yield ``(sequence, record)`` after *after*, up to what there is now."""
    for first, batch in reader.read(after=after):
        for sequence, raw in enumerate(batch, first):
            yield sequence, decoded(reader, sequence, raw)


def decoded(reader: LogReader, sequence: int, raw: bytes) -> Record:
    """Return what *raw* says.

    Raises:
        RecordUnreadable: its bytes are as they were written and still are no record.
    """
    import msgspec

    from headrace.engine.record import decode

    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordUnreadable(
            f"{reader.path} record {sequence}: expected a record, found {len(raw)} bytes that are "
            f"none ({safe(str(error))}); was it written by headrace?"
        ) from error


def decoder(reader: LogReader) -> Callable[[int, bytes], Record]:
    """Return `decoded` for the records of one log, for those who read very many."""
    import msgspec

    from headrace.engine.record import decode

    def decode_one(sequence: int, raw: bytes) -> Record:
        try:
            return decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return decoded(reader, sequence, raw)  # which says what is wrong

    return decode_one


def time_before(reader: LogReader, sequence: int) -> int | None:
    """Return the log time of the last input at or before *sequence*; ``None``: there is none."""
    span = LOOK_BACK
    upto = min(sequence, reader.last_sequence)
    while upto >= reader.first_sequence:
        after = max(reader.first_sequence - 1, upto - span)
        found: int | None = None
        try:
            for first, batch in reader.read(after=after, upto=upto):
                for place, raw in enumerate(batch, first):
                    found = getattr(decoded(reader, place, raw), "at_ns", found)
        except SegmentGone:
            continue  # it was removed just now: look back to where the log begins now
        if found is not None:
            return found
        upto, span = after, span * 8
    return None


def folded(
    reader: LogReader,
    decider: Decider | None = None,
    *,
    begin: Callable[[Kernel], None] = lambda _kernel: None,
    watch: Callable[[int, Record], None] | None = None,
    on_ended: Callable[[Sequence[RunView]], None] | None = None,
    shortcut: bool = False,
) -> Kernel:
    """Return the kernel after all records, with the rules of *decider* or without any.

    *begin* is shown the kernel before the first record, and *watch* each record before it is
    applied; *on_ended* gets the runs that have ended, of which the kernel would forget all
    but the last.  It begins at the oldest snapshot if older records were removed, and with
    *shortcut* at the newest.
    """
    from headrace.engine.decider import NoRules
    from headrace.engine.record import decode_all
    from headrace.engine.restore import from_snapshot, new_kernel

    decider = decider or NoRules()
    if shortcut or _begins_late(reader):
        kernel, problems = from_snapshot(reader, decider, oldest=not shortcut)
    else:
        kernel, problems = new_kernel(reader, decider), []
    if on_ended is not None:
        on_ended(kernel.state.runs.ended)
        kernel.state.runs.ended = deque()
    begin(kernel)
    last = reader.refresh()
    with shown("reading", last) as advance:
        for first, batch in reader.read(after=kernel.sequence):
            if first != kernel.sequence + 1:
                raise RecordUnreadable(
                    f"{reader.path}: expected every record, found {kernel.sequence + 1} to "
                    f"{first - 1} missing{''.join(f'; {problem}' for problem in problems)}; "
                    "without them there is no state: read it with `log cat`"
                )
            found = decode_all(batch, first=first, one=partial(decoded, reader))
            if watch is None:
                kernel.fold_all(first, found)
            else:
                for sequence, record in enumerate(found, first):
                    watch(sequence, record)
                    kernel.fold(sequence, record)
            kernel.state.effects.clear()  # nobody carries them out
            if on_ended is not None:
                on_ended(kernel.state.runs.ended)
                kernel.state.runs.ended.clear()
            advance(first + len(batch) - 1)
    kernel.finish_fold()
    return kernel


def _begins_late(reader: LogReader) -> bool:
    """Return whether the first records are gone: removed, or lost before a salvage."""
    return next((first > 1 for first, _ in reader.read()), False)


def size_bytes(log: Path) -> int:
    """Return the size of all files of the log, but not of the space that it keeps free."""
    from headrace.engine.log.store import RESERVE

    found = 0
    for entry in os.scandir(log):
        # Of a log in use any file but the newest may be removed just now.
        with contextlib.suppress(FileNotFoundError):
            if entry.is_file() and entry.name != RESERVE:
                found += entry.stat().st_size
    return found


def plain_raw(raw: Any) -> Any:
    """Return what msgpack bytes hold, as plain data."""
    import msgspec

    return None if raw is None else msgspec.msgpack.decode(raw)
