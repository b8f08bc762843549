"""``headrace log hold`` and ``headrace log compact``: what of a log stays, and what goes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.errors import OK, HoldNotFound, SnapshotMissing, Usage
from headrace.cli.logs import check_there, folded, opened
from headrace.cli.output import Output, write_document
from headrace.cli.text import safe
from headrace.cli.times import sequence_from

if TYPE_CHECKING:
    from headrace.engine.log import LogReader
    from headrace.engine.log.retention import Need, Retention


def hold(log: Path, name: str, output: Output, *, at: int | None, release: bool) -> int:
    """Keep the records from *at* on under *name*, or give that up.

    Raises:
        HoldNotFound: there is none to give up.
        SegmentGone, CommandRefused: the record *at* is gone already.
        EngineUnreachable: somebody holds the log who does not answer.
    """
    from headrace.engine.errors import LogLocked

    if release == (at is not None):
        raise Usage("log hold: expected either --at SEQUENCE or --release; give one of them")
    check_there(log)
    try:
        found = _hold(log, name, at)
    except LogLocked:
        found = _ask_engine(log, name, at)
    if not found:
        raise HoldNotFound(
            f"{safe(str(log))}: expected a hold {safe(repr(name))}, found none; "
            "`headrace log info` names those that there are"
        )
    document = {"log": str(log), "hold": name, "sequence": at}
    said = "released" if at is None else f"keeps the records from {at} on"
    write_document(document, output, lambda: f"hold {safe(repr(name))} {said}")
    return OK


def _hold(log: Path, name: str, at: int | None) -> bool:
    """Change a log that no engine holds; say whether there was a hold to release."""
    from headrace.engine.log import FileLog

    if at is None:
        return FileLog(log).release(name)
    try:
        FileLog(log).hold(name, at)
    except ValueError as error:
        raise Usage(f"log hold: {safe(str(error))}") from error
    return True


def _ask_engine(log: Path, name: str, at: int | None) -> bool:
    """Have the engine that holds the log do it; say whether there was a hold to release."""
    from headrace.engine.control_client import ControlClient

    with ControlClient(log) as client:
        if at is None:
            released: bool = client.ask("release", {"name": name})["released"]
            return released
        client.ask("hold", {"name": name, "sequence": at})
    return True


def compact(
    log: Path,
    output: Output,
    *,
    keep_bytes: int | None,
    keep_s: float | None,
    before: str | None,
    dry_run: bool,
) -> int:
    """Remove the oldest segments of a log, as far as something lets them go.

    Raises:
        SnapshotMissing: without the oldest records the log could not be started from.
        LogLocked: an engine holds it.
    """
    from headrace.cli.log_results import remove_unneeded
    from headrace.engine.log.retention import Policy
    from headrace.engine.log.retention import compact as remove

    with opened(log) as reader:
        _check_snapshots(log, reader)
        limit = sequence_from(reader, before, "--before") if before is not None else None
        folder = reader.path
    if keep_bytes is None and keep_s is None:
        keep_bytes = 0
    needs = partial(_needs_of_runs, log)
    policy = Policy(keep_bytes, keep_s)
    done = remove(folder, policy, before=limit, dry_run=dry_run, needs=needs)
    results = remove_unneeded(log) if done.segments and not dry_run else None
    document: dict[str, Any] = {
        "log": str(log),
        "dry_run": dry_run,
        "first_sequence": done.first_sequence,
        "segments": done.segments,
        "records": done.records,
        "size_bytes": done.size_bytes,
        "large_results": results,
        "kept_by": [{"sequence": need.sequence, "reason": need.reason} for need in done.kept_by],
    }
    write_document(document, output, lambda: _compact_text(done, results, dry_run=dry_run))
    return OK


def _check_snapshots(log: Path, reader: LogReader) -> None:
    """See to it that one snapshot, at least, is whole: the records before it are about to go."""
    from headrace.engine.errors import SnapshotUnusable

    found = "none"
    for sequence in reader.snapshots.sequences():
        record = reader.fetch([sequence]).get(sequence)
        try:
            for _ in reader.snapshots.read(sequence, record):
                pass
        except SnapshotUnusable as error:
            found = str(error)
        else:
            return
    raise SnapshotMissing(
        f"{safe(str(log))}: expected a snapshot, without which no record can be spared, found "
        f"{safe(found)}; `headrace log snapshot` makes one"
    )


def _needs_of_runs(log: Path) -> list[Need]:
    """Return what open runs need that the snapshots do not know of."""
    from headrace.engine.log.retention import Need

    with opened(log) as reader:
        oldest = folded(reader, shortcut=True).state.runs.oldest_needed()
    return [] if oldest is None else [Need(oldest, "runs that are open")]


def _compact_text(done: Retention, results: int | None, *, dry_run: bool) -> str:
    verb = "would be removed" if dry_run else "removed"
    lines = [
        f"{done.segments} segments {verb}, with {done.records} records in {done.size_bytes} bytes"
    ]
    if results:
        lines.append(f"{results} large results removed, which nothing needs any more")
    lines.append(f"first record  {done.first_sequence}")
    lines += [
        f"kept from {need.sequence} on by {safe(need.reason)}"
        if need.sequence
        else f"kept by {safe(need.reason)}"
        for need in done.kept_by
    ]
    return "\n".join(lines)
