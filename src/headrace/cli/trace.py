"""``headrace trace``: what led to a record, and everything that it led to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headrace.cli.errors import OK, RecordNotFound, Usage
from headrace.cli.logs import decoder, opened, plain_raw
from headrace.cli.output import write, write_document
from headrace.cli.progress import shown
from headrace.cli.run_causes import said_of
from headrace.cli.text import NS, pretty_json, rfc3339, to_json
from headrace.cli.times import sequence_upto
from headrace.cli.trace_found import Trace
from headrace.engine import record as r
from headrace.engine.errors import LogCorrupt, RunNotFound
from headrace.engine.tracing.links import cause_of, causes_of, input_before, stored
from headrace.engine.tracing.spans import Span, Wait, made_by
from headrace.engine.tracing.tree import Tree

if TYPE_CHECKING:
    from headrace.engine.log import LogReader

TraceOutput = Literal["table", "json", "jsonl", "chrome", "mermaid"]


def trace(
    log: Path,
    output: TraceOutput,
    *,
    sequence: int | None,
    run: int | None,
    until: str | None,
    limit: int,
    whole: bool,
) -> int:
    """Print the tree that the record *sequence* belongs to, or *run* and what is below it."""
    if (sequence is None) == (run is None):
        found = "neither" if sequence is None else "both"
        raise Usage(f"trace: expected a sequence or --run, found {found}; name the record")
    with opened(log) as reader:
        if run is not None:
            found_tree = _of_run(reader, log, run, until, limit)
        else:
            found_tree = _of_record(reader, log, sequence or 0, until, limit)
    write_document_of(found_tree, output, whole=whole)
    if found_tree.damage is not None:
        raise found_tree.damage
    return OK


def write_document_of(found: Trace, output: TraceOutput, *, whole: bool) -> None:
    """Write what was found in one of the formats."""
    if output == "chrome":
        from headrace.engine.tracing.chrome import trace_events

        write(to_json(trace_events(found.tree, log=found.log)))
    elif output == "mermaid":
        from headrace.cli.trace_mermaid import flowchart

        write(flowchart(found, whole=whole))
    elif output == "jsonl":
        for row in rows(found):
            write(to_json(row))
    elif output == "json":
        write(pretty_json(_document(found)))
    else:
        from headrace.cli.trace_text import lines

        write_document(None, "table", lambda: "\n".join(lines(found, whole=whole)))


def _of_record(reader: LogReader, log: Path, sequence: int, until: str | None, limit: int) -> Trace:
    record = _there(reader, sequence)
    decode = decoder(reader)
    causes = causes_of(reader, sequence, decode)
    root, first = sequence, record
    for place, cause in causes:
        if cause is None:
            break  # retention has removed it: what is left begins behind it
        root, first = place, cause
    gone = [pair for pair in causes if pair[1] is None]
    tree, damage = _grown(reader, root, first, until, limit)
    asked = sequence if sequence in tree.nodes else cause_of(record)
    return Trace(str(log), asked, tree, gone, damage)


def _of_run(reader: LogReader, log: Path, run: int, until: str | None, limit: int) -> Trace:
    last = reader.refresh()
    record = stored(reader, run, decoder(reader)) if 0 < run <= last else None
    if record is None or made_by(run, record, 1) is None:
        if record is None:
            what = f"records {reader.first_sequence} to {last}"
        else:
            what = f"{r.KIND_BY_TYPE[type(record)]!r} at that sequence"
        raise RunNotFound(
            f"{reader.path}: expected run {run}, found {what}; `headrace runs list` has the runs"
        )
    causes = causes_of(reader, run, decoder(reader))
    tree, damage = _grown(reader, run, record, until, limit)
    return Trace(str(log), run, tree, causes, damage)


def _there(reader: LogReader, sequence: int) -> r.Record:
    last = reader.refresh()
    record = stored(reader, sequence, decoder(reader)) if 0 < sequence <= last else None
    if record is None:
        there = f"a record from {reader.first_sequence} to {last}" if last else "a log with records"
        found = sequence if last else "none in it yet"
        raise RecordNotFound(
            f"{reader.path}: expected {there}, found {found}; `headrace log cat` has the records"
        )
    return record


def _grown(
    reader: LogReader, root: int, record: r.Record, until: str | None, limit: int
) -> tuple[Tree, LogCorrupt | None]:
    """Return the tree below *root*, and the damage that it ends before, if there is any."""
    decode = decoder(reader)
    upto = reader.last_sequence
    if until is not None:
        upto = min(upto, sequence_upto(reader, until, "--until"))
    at_ns: int = getattr(record, "at_ns", 0)
    if r.is_decision(record):
        at_ns = getattr(stored(reader, input_before(reader, root, decode), decode), "at_ns", 0)
    tree = Tree(nodes_max=limit)
    tree.begin(root, record, at_ns)
    if upto > root:
        with shown("reading", upto - root) as advance:
            batches = reader.read(after=root, upto=upto)
            try:
                tree.grow(batches, decode, lambda sequence: advance(sequence - root))
            except LogCorrupt as error:
                return tree, error
    return tree, None


# As data: a row for each node, the root first.


def _document(found: Trace) -> dict[str, Any]:
    return {
        "log": found.log,
        "asked": found.asked,
        "root": found.root.sequence,
        "searched_to": found.tree.last,
        "complete": not found.tree.is_cut and found.damage is None,
        "causes": [{"sequence": place, **said_of(cause)} for place, cause in found.causes],
        "records": list(rows(found)),
    }


def rows(found: Trace) -> Iterator[dict[str, Any]]:
    """Yield each node as data."""
    begin_ns = found.root.at_ns
    for node in found.tree.nodes.values():
        row: dict[str, Any] = {
            "sequence": node.sequence,
            "kind": node.kind,
            "name": node.name,
            "cause": node.cause or None,
            "recorded_at": rfc3339(node.at_ns),
            "offset_s": (node.at_ns - begin_ns) / NS,
        }
        for name in ("also", "key", "data", "outcome", "reason"):
            if (value := getattr(node, name)) not in (None, "", []):
                row[name] = value
        if node.due_ns is not None:
            row["due"] = rfc3339(node.due_ns)
        if node.span is not None:
            row.update(_span_row(node.span))
        yield row


def _span_row(span: Span) -> dict[str, Any]:
    took_ns = span.took_ns
    return {
        "step": span.kind,
        "status": span.status,
        "attempt": span.attempt,
        "ended_at": rfc3339(span.ended_ns),
        "took_s": None if took_ns is None else took_ns / NS,
        "result": plain_raw(span.result),
        "error": span.error,
        "failures": [
            {
                "sequence": failure.sequence,
                "attempt": failure.attempt,
                "began_at": rfc3339(failure.began_ns),
                "at": rfc3339(failure.at_ns),
                "retry_at": rfc3339(failure.retry_at_ns),
                "error": failure.error,
            }
            for failure in span.failures
        ],
        "waits": [_wait_row(wait) for wait in span.waits],
        **({"more_waits": span.waits_more} if span.waits_more else {}),
    }


def _wait_row(wait: Wait) -> dict[str, Any]:
    return {
        "kind": wait.kind,
        "sequence": wait.sequence,
        "name": wait.name,
        "began_at": rfc3339(wait.begin_ns),
        "ended_at": rfc3339(wait.end_ns),
        "ended_by": wait.how or None,
    }
