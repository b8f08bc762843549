"""``headrace emit``: events for an engine, running or not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headrace.cli.door import Door, door
from headrace.cli.errors import OK, BadInput, Usage
from headrace.cli.output import Output, write, write_document, write_rows
from headrace.cli.text import safe

if TYPE_CHECKING:
    from headrace.engine.emission import Emission

BATCH: Final = 1000
"""Events that are handed in at once."""


def emit_one(
    log: Path,
    subject: str,
    data: str | None,
    output: Output,
    *,
    id: str | None,
    source: str,
    time: str | None,
    key: str | None,
) -> int:
    """Put one event into a log and print its sequence.

    Raises:
        Usage: an argument is no part of an event; nothing was stored.
    """
    from headrace.engine.emission import Emission, checked
    from headrace.engine.errors import EventRefused

    event = Emission(subject, parsed(data), id, source, key=key, time_ns=_time_ns(time))
    try:
        checked(event)
    except (ValueError, EventRefused) as error:
        raise Usage(f"emit: {safe(str(error))}") from error
    with door(log) as way:
        (sequence,) = way.emit([event])
        say_if_offline(log, way)
        document = {"log": str(log), "sequence": sequence, "state": state_for(way)}
    write_document(document, output, lambda: str(sequence))
    return OK


def parsed(data: str | None, argument: str = "DATA") -> object:
    """Return what JSON on the command line says; ``None`` for nothing.

    Raises:
        Usage: it is none; *argument* says which it was.
    """
    import msgspec

    if data is None:
        return None
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Usage(
            f"{argument} {safe(data[:60])!r}: expected JSON, found none ({error}); text has quotes "
            f"of its own, as in '\"open\"'"
        ) from error


def _time_ns(time: str | None) -> int | None:
    from headrace.cli.times import time_ns

    if time is None:
        return None
    try:
        return time_ns(time)
    except ValueError as error:
        raise Usage(
            f"--time {safe(time)!r}: expected a time such as 2026-03-01T08:00:00Z, or so long ago "
            f"as -15m; found neither"
        ) from error


def emit_many(log: Path, path: str, output: Output, *, source: str) -> int:
    """Put the events of a file of JSON lines into a log and print their sequences.

    Raises:
        BadLine: a line is no event; those before it are stored, and printed.
    """
    with door(log) as way:
        for batch in _batches(path, source):
            sequences = way.emit(batch)
            if output == "table":
                write("\n".join(map(str, sequences)))
            else:
                rows = [{"sequence": sequence, "state": state_for(way)} for sequence in sequences]
                write_rows(rows, "jsonl", (), empty="")
            sys.stdout.flush()
        say_if_offline(log, way)
    return OK


def _batches(path: str, source: str) -> Iterator[list[Emission]]:
    import msgspec

    from headrace.connectors.jsonl import BadLine, JsonLines

    lines = JsonLines(path)
    lines.open()
    try:
        while events := lines.read():
            for start in range(0, len(events), BATCH):
                yield [
                    # It is no source with a cursor here: whoever repeats it gives ids.
                    msgspec.structs.replace(event, source=source, position=None)
                    for event in events[start : start + BATCH]
                ]
    except BadLine as error:
        raise BadInput(
            f"{safe(error.path)}:{error.line}: expected {error.expected}, found "
            f"{safe(error.found)}; the lines before it are stored: correct it and give the rest"
        ) from error
    finally:
        lines.close()


def state_for(way: Door) -> str:
    """Return what has become of what was written."""
    return "stored" if way.is_online else "offered"


def say_if_offline(log: Path, way: Door) -> None:
    """Say on stderr that nothing has happened yet, if no engine runs."""
    if not way.is_online:
        sys.stderr.write(
            f"headrace: no engine runs over {safe(str(log))}; the next start acts on it\n"
        )
