"""``headrace log fork`` and ``log copy``: one log made of another, which may be in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headrace.cli.errors import OK
from headrace.cli.logs import check_there, opened
from headrace.cli.output import Output, facts, write_document
from headrace.cli.places import sequence_of


def fork(log: Path, new: Path, output: Output, *, at: str | None) -> int:
    """Make a log that has the first records of another one and goes its own way.

    Raises:
        RecordNotFound: there is no such place in the log.
    """
    from headrace.engine.log.fork import fork as make

    check_there(log)
    sequence = None
    if at is not None:
        with opened(log) as reader:
            sequence = sequence_of(reader, at)
    made = make(log, sequence, new)
    left_out = None
    if made.left_out is not None:
        left_out = {"first": made.left_out[0], "last": made.left_out[1]}
    document: dict[str, Any] = {
        "log": str(log),
        "new": str(new),
        "log_id": made.log_id.hex(),
        "parent_log_id": made.parent.log_id.hex(),
        "first_sequence": made.first_sequence,
        "asked": made.asked,
        "sequence": made.sequence,
        "left_out": left_out,
        "linked_segments": made.linked,
        "copied_bytes": made.copied_bytes,
        "snapshot": made.snapshot or None,
        "large_results": made.results,
    }
    write_document(document, output, lambda: _fork_text(document))
    return OK


def _fork_text(document: dict[str, Any]) -> str:
    lines = [
        facts(
            [
                ("new log", document["new"]),
                ("log id", document["log_id"]),
                ("records", f"{document['first_sequence']} to {document['sequence']}"),
                ("linked segments", document["linked_segments"]),
                ("copied bytes", document["copied_bytes"]),
                ("large results", document["large_results"] or None),
            ]
        )
    ]
    unit = document["left_out"]
    if unit is not None:
        lines.append(
            f"Records {unit['first']} to {unit['last']} are one input with what it led to, which "
            f"is never cut: the fork ends before them and not at {document['asked']}."
        )
    if document["first_sequence"] > 1 and document["snapshot"] is None:
        lines.append(
            "Its beginning was removed, and there is no snapshot up to its end: it can be read, "
            "and not be run."
        )
    return "\n".join(lines)


def copy(log: Path, new: Path, output: Output) -> int:
    """Copy a log, also while it is written, as far as it is committed at that moment."""
    from headrace.engine.log.copying import copy as make

    check_there(log)
    made = make(log, new)
    document: dict[str, Any] = {
        "log": str(log),
        "new": str(new),
        "log_id": made.log_id.hex(),
        "first_sequence": made.first_sequence,
        "last_sequence": made.last_sequence,
        "segments": made.segments,
        "copied_bytes": made.copied_bytes,
        "large_results": made.results,
    }
    write_document(
        document,
        output,
        lambda: facts(
            [
                ("new log", document["new"]),
                ("log id", document["log_id"]),
                ("records", f"{made.first_sequence} to {made.last_sequence}"),
                ("segments", made.segments),
                ("copied bytes", made.copied_bytes),
                ("large results", made.results or None),
            ]
        ),
    )
    return OK
