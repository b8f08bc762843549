"""``headrace log``: what a log holds, and whether it is intact."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import CORRUPT, OK, Usage
from headrace.cli.logs import check_there, opened, records, size_bytes, time_before
from headrace.cli.output import Output, Stream, facts, write_document
from headrace.cli.progress import shown
from headrace.cli.records import KINDS, View
from headrace.cli.text import rfc3339, safe, to_json
from headrace.engine import record as r
from headrace.engine.errors import LogCorrupt, SnapshotUnusable

if TYPE_CHECKING:
    from headrace.engine.log import LogReader
    from headrace.engine.log.manifest import Manifest
    from headrace.engine.log.segment import Gap
    from headrace.engine.log.verify import Report

CAT_COLUMNS: Final = {"sequence": 8, "recorded_at": 30, "kind": 15, "what": 0}
_NOT_IN_WHAT: Final = ("sequence", "kind", "recorded_at", "traceback")
STARTS_WITHIN: Final = 1000
"""The first start of an engine is among this many first records, as a rule the first."""


def info(log: Path, output: Output) -> int:
    """Print what can be said of a log without reading it all."""
    from headrace.cli.log_results import stored
    from headrace.engine.log.files import SystemFiles
    from headrace.engine.log.lease import living

    with opened(log) as reader:
        leases = living(SystemFiles(), reader.path, os.listdir(log))  # noqa: PTH208 (names)
        last = reader.refresh()
        config = reader.manifest.config
        parent = reader.manifest.parent
        starts = (
            record
            for _, record in islice(records(reader), STARTS_WITHIN)
            if type(record) is r.EngineStarted
        )
        start = next(starts, None)
        first_at_ns = start.at_ns if start is not None else reader.manifest.segments[0].first_at_ns
        size = size_bytes(log)
        results, result_bytes = stored(log)
        count = last - reader.first_sequence + 1
        document: dict[str, Any] = {
            "log": str(log),
            "log_id": reader.log_id.hex(),
            "parent_log_id": parent.log_id.hex() if parent is not None else None,
            "forked_after": parent.sequence if parent is not None else None,
            "format": reader.manifest.format,
            "created_at": rfc3339(reader.manifest.created_ns),
            "created_by": start.version if start is not None else None,
            "clock": start.clock if start is not None else None,
            "durability": config.get("durability"),
            "records": count,
            "first_sequence": reader.first_sequence,
            "last_sequence": last,
            "durable_sequence": reader.durable_sequence,
            "first_recorded_at": rfc3339(first_at_ns),
            "last_recorded_at": rfc3339(time_before(reader, last)),
            "segments": len(reader.manifest.segments),
            "size_bytes": size,
            "bytes_per_record": round(size / count, 1) if count else None,
            "compression": _compression(reader.manifest),
            "large_results": {"count": results, "size_bytes": result_bytes} if results else {},
            "snapshots": _snapshots(reader, last),
            "holds": reader.manifest.holds,
            "leases": [{"pid": lease.pid, "sequence": lease.sequence} for lease in leases],
            "closed_cleanly": reader.closed_cleanly,
        }
    write_document(document, output, lambda: _info_text(document))
    return OK


def _compression(manifest: Manifest) -> dict[str, float]:
    """Return how many segments are compressed, and what the bytes of one were before."""
    packed = [entry for entry in manifest.segments if entry.packed is not None]
    if not packed:
        return {}
    plain_bytes = sum(entry.size_bytes for entry in packed)
    ratio = plain_bytes / sum(entry.file.size_bytes for entry in packed)
    return {"segments": len(packed), "ratio": round(ratio, 2)}


def _snapshots(reader: LogReader, last: int) -> list[dict[str, Any]]:
    """Return what is known of each snapshot, newest first, by its name and its end."""
    from headrace.engine.log.snapshots import name_of

    found: list[dict[str, Any]] = []
    for sequence in reader.snapshots.sequences():
        path = Path(reader.path, name_of(sequence))
        problem: str | None = None
        at_ns: int | None = None
        size = 0
        try:
            size = path.stat().st_size
            reader.snapshots.end(sequence)
            at_ns = time_before(reader, sequence)
        except FileNotFoundError:
            continue  # an engine has written a newer one just now
        except (SnapshotUnusable, LogCorrupt) as error:
            problem = str(error)
        found.append(
            {
                "sequence": sequence,
                "recorded_at": rfc3339(at_ns),
                "records_since": max(0, last - sequence),
                "size_bytes": size,
                "problem": problem,
            }
        )
    return found


def _info_text(document: dict[str, Any]) -> str:
    open_note = " (it is being written, or its writer was killed)"
    packed, results = document["compression"], document["large_results"]
    shown: dict[str, Any] = {
        "compression": f"{packed['segments']} segments, {packed['ratio']} to 1" if packed else None,
        "large_results": f"{results['count']} in {results['size_bytes']} bytes" if results else "",
        "snapshots": ", ".join(map(_snapshot_text, document["snapshots"])) or "none",
        "holds": ", ".join(f"{name} from record {at} on" for name, at in document["holds"].items()),
        "leases": ", ".join(
            f"process {lease['pid']} from record {lease['sequence']} on"
            for lease in document["leases"]
        ),
        "closed_cleanly": "yes" if document["closed_cleanly"] else f"no{open_note}",
    }
    return facts(
        (name.replace("_", " "), shown.get(name, value))
        for name, value in document.items()
        if shown.get(name) != ""
    )


def _snapshot_text(row: dict[str, Any]) -> str:
    if row["problem"]:
        return f"at {row['sequence']} (cannot be used: {row['problem']})"
    at, since = row["recorded_at"], row["records_since"]
    return f"at {row['sequence']} ({at}, {row['size_bytes']} bytes, {since} records since)"


def cat(
    log: Path,
    output: Output,
    *,
    after: int,
    limit: int | None,
    kinds: Sequence[str],
    subject: str | None,
) -> int:
    """Print the records of a log."""
    wanted = selection(kinds, subject)
    with opened(log) as reader, Stream(output, CAT_COLUMNS) as stream:
        view = View(reader)
        found = (
            (sequence, record, at_ns)
            for sequence, record, at_ns in view.rows(reader.read(after=after))
            if wanted(record)
        )
        for sequence, record, at_ns in islice(found, limit):
            row = view.row_of(sequence, record, at_ns)
            stream.add({**row, "what": _what(row)} if output == "table" else row)
    return OK


def selection(kinds: Sequence[str], subject: str | None) -> Selection:
    """Return what says of a record whether it was asked for.

    Raises:
        Usage: there is no such kind, or *subject* is no pattern.
    """
    from headrace.engine.subject import check_pattern

    for kind in kinds:
        if kind not in KINDS:
            raise Usage(
                f"--kind {safe(kind)!r}: expected a kind of record, found none of that name; "
                f"the kinds are {', '.join(KINDS)}"
            )
    if subject is not None:
        try:
            check_pattern(subject)
        except ValueError as error:
            raise Usage(f"--subject: {safe(str(error))}") from error
    return Selection(kinds, subject)


class Selection:
    """Which records were asked for."""

    def __init__(self, kinds: Sequence[str], subject: str | None) -> None:
        from headrace.engine.subject import matches

        self._kinds = kinds
        self._subject = subject
        self._matches = matches

    def __call__(self, record: r.Record) -> bool:
        """Say whether *record* was."""
        if self._kinds and r.KIND_BY_TYPE[type(record)] not in self._kinds:
            return False
        if self._subject is None:
            return True
        if not isinstance(record, r.EventStored | r.EventOffered):
            return False
        return self._matches(self._subject, record.subject)


def _what(row: dict[str, Any]) -> str:
    """Return the part of a row that depends on its kind, as one cell."""
    rest = {name: value for name, value in row.items() if name not in _NOT_IN_WHAT}
    if row["kind"] == "event":
        more = {name: value for name, value in rest.items() if name not in ("subject", "data")}
        tail = f"  {_fields(more)}" if more else ""
        return f"{rest['subject']} {to_json(rest['data'])}{tail}"
    return _fields(rest)


def _fields(row: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={value if isinstance(value, str) else to_json(value)}"
        for name, value in row.items()
    )


def verify(log: Path, output: Output) -> int:
    """Check every byte of a log."""
    from headrace.cli.log_results import held, stored
    from headrace.engine.log.verify import verify as check

    check_there(log)
    total = size_bytes(log) + stored(log)[1]
    needed = held(log)
    with shown("verifying", total, in_bytes=True) as advance:
        report = check(log, held=needed, progress=lambda done, _total: advance(done))
    problems = _snapshot_problems(log) if report.ok else []
    document: dict[str, Any] = {"log": str(log), **_plain(report), "snapshot_problems": problems}
    write_document(document, output, lambda: "\n".join([_verify_text(log, report), *problems]))
    return OK if report.ok else CORRUPT


def _snapshot_problems(log: Path) -> list[str]:
    """Return which snapshots cannot be used, and why: no damage, since they are shortcuts."""
    problems: list[str] = []
    with opened(log) as reader:
        sequences = reader.snapshots.sequences()
        reader.refresh()
        for sequence in sequences:
            try:
                record = reader.fetch([sequence]).get(sequence)
                for _ in reader.snapshots.read(sequence, record):
                    pass  # it is checked on the way
            except SnapshotUnusable as error:
                # An engine that has written a newer one removes this one.
                if sequence in reader.snapshots.sequences():
                    problems.append(f"A snapshot cannot be used: {safe(str(error))}")
    return problems


def _plain(report: Report) -> dict[str, Any]:
    import msgspec

    built: dict[str, Any] = msgspec.to_builtins(report)
    return built


def _verify_text(log: Path, report: Report) -> str:
    count = len(report.errors) + report.errors_unlisted
    verdict = "intact" if report.ok else f"damaged in {count} place{'s' * (count > 1)}"
    results = f"{report.results} in {report.result_bytes} bytes" if report.results else None
    lines = [
        facts(
            [
                ("log", str(log)),
                ("verdict", verdict),
                ("records", report.records),
                ("sequences", f"{report.first_sequence} to {report.last_sequence}"),
                ("durable up to", report.durable_sequence),
                ("segments", report.segments),
                ("checked bytes", report.size_bytes),
                ("large results", results),
            ]
        )
    ]
    if report.torn_bytes:
        lines.append(
            f"The last write was not finished: {report.torn_bytes} bytes that nobody was told "
            f"of; the next start cuts them."
        )
    if report.unnamed_results:
        lines.append(
            f"Large results that no record names: {report.unnamed_results}. That is no damage: "
            "a crash or a fork leaves them, and they go with old records."
        )
    for fault in report.errors:
        name = os.path.relpath(fault.file, os.path.abspath(log))  # noqa: PTH100 (it is text)
        since = f", from record {fault.sequence}" if fault.sequence else ""
        lines.append(f"{name} byte {fault.offset}{since}: {safe(fault.reason)}")
    if report.errors_unlisted:
        lines.append(f"… and {report.errors_unlisted} more records whose large results are lost.")
    if not report.ok:
        lines.append(f"Restore a copy, or `headrace log salvage {log} NEW` copies what is intact.")
    return "\n".join(lines)


def salvage(log: Path, new: Path, output: Output) -> int:
    """Copy what is intact of a damaged log into a new one."""
    from headrace.engine.log.salvage import salvage as copy

    check_there(log)
    found = copy(log, new)
    document = {
        "log": str(log),
        "new": str(new),
        "records": found.records,
        "complete": found.complete,
        "startable": found.obstacle is None,
        "first_sequence": found.first_sequence,
        "gaps": [
            {"first": gap.first, "last": gap.last, "reason": gap.reason} for gap in found.gaps
        ],
        "snapshots": found.snapshots,
        "left_out": found.left_out,
        "doubts": found.doubts,
        "large_results": found.results,
        "lost_results": [
            {"sequence": lost.sequence or None, "run": lost.run or None, "reason": lost.reason}
            for lost in found.lost
        ],
        "lost_results_unlisted": found.lost_unlisted,
    }
    lines = [f"{found.records} records copied to {new}"]
    if found.results:
        lines.append(f"large results copied: {found.results}")
    if found.snapshots:
        lines.append(f"snapshots copied: {', '.join(f'at {at}' for at in found.snapshots)}")
    lines += [f"missing: {gap.first} to {gap.last}: {safe(gap.reason)}" for gap in found.gaps]
    for lost in found.lost:
        whose = f"run {lost.run} (record {lost.sequence})" if lost.run else "an unknown run"
        lines.append(f"missing: the result of {whose}: {safe(lost.reason)}")
    if found.lost_unlisted:
        lines.append(f"missing: about {found.lost_unlisted} more large results")
    lines += [f"snapshot left out: {safe(reason)}" for reason in found.left_out]
    lines += [safe(doubt) for doubt in found.doubts]
    if found.obstacle is not None:
        lines.append(_unstartable(found.obstacle, new))
    write_document(document, output, lambda: "\n".join(lines))
    return OK if found.complete else CORRUPT


def _unstartable(obstacle: Gap, new: Path) -> str:
    """Return what can be done with a log from which no engine can start."""
    before = obstacle.first - 1
    way_out = (
        f"`headrace log fork {new} OTHER --at {before}` makes a log of what is before that, from "
        "which one can"
        if before
        else f"read it with `headrace log cat {new}`"
    )
    return (
        f"No engine can start from it: its state needs the records {obstacle.first} to "
        f"{obstacle.last}, or a snapshot behind them; {way_out}."
    )
