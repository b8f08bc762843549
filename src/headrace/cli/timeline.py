"""``headrace timeline``: a log, or a stretch of it, as one HTML file that needs nothing else."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import OK, RecordNotFound, Usage
from headrace.cli.logs import decoder, opened, time_before
from headrace.cli.output import Output, facts, write_document
from headrace.cli.progress import shown
from headrace.cli.text import rfc3339, safe, to_json
from headrace.cli.times import sequence_from, sequence_upto
from headrace.engine.errors import LogCorrupt
from headrace.engine.tracing.columns import columns_of
from headrace.engine.tracing.links import input_before, stored
from headrace.engine.tracing.report import Report
from headrace.engine.tracing.spans import Span, made_by

if TYPE_CHECKING:
    from headrace.engine.log import LogReader

PAGE: Final = "timeline_page"
SCRIPTS: Final = ("data.js", "axis.js", "lanes.js", "draw.js", "details.js", "page.js")
MARK: Final = b"<!doctype html><!-- headrace timeline -->"
"""What a report begins with: a file that does not is not overwritten."""


def timeline(
    log: Path,
    output: Output,
    *,
    out: Path | None,
    from_: str | None,
    until: str | None,
    bars_max: int,
) -> int:
    """Write the report of the records from *from_* to *until*; to stdout if *out* is ``-``."""
    target = out if out is not None else Path(f"{log.resolve().name}.timeline.html")
    to_stdout = str(target) == "-"
    if not to_stdout:
        _check_free(target)
    damage: LogCorrupt | None = None
    with opened(log) as reader:
        reader.refresh()
        first, last = _range(reader, from_, until)
        report = Report(bars_max=bars_max)
        try:
            _read(reader, report, first, last)
        except LogCorrupt as error:
            if not report.last:
                raise
            damage = error
        document = _document(log, report, damage)
        columns = columns_of(report, reader, decoder(reader))
    page = page_of({**document, "events_total": document["events"], **columns})
    if to_stdout:
        sys.stdout.flush()
        sys.stdout.buffer.write(page)
    else:
        _write(target, page)
        told = {**document, "report": str(target), "size_bytes": len(page)}
        write_document(told, output, lambda: _text(told))
    if damage is not None:
        raise damage
    return OK


def _range(reader: LogReader, from_: str | None, until: str | None) -> tuple[int, int]:
    """Return the first and the last record of the stretch."""
    first, last = reader.first_sequence, reader.last_sequence
    if not last:
        raise RecordNotFound(
            f"{safe(str(reader.path))}: expected a log with records, found none in it yet"
        )
    if from_ is not None:
        first = max(first, sequence_from(reader, from_, "--from"))
    if until is not None:
        last = min(last, sequence_upto(reader, until, "--until"))
    if first > last:
        asked = f"--from {from_ or 'the first'} --until {until or 'the last'}"
        raise Usage(
            f"{safe(asked)}: expected records of the log, found none there: it has "
            f"{reader.first_sequence} to {reader.last_sequence}"
        )
    return first, last


def _read(reader: LogReader, report: Report, first: int, last: int) -> None:
    decode = decoder(reader)

    def begun_before(run: int) -> Span | None:
        record = stored(reader, run, decode)
        if record is None:
            return None
        at_ns = getattr(record, "at_ns", 0)
        if not at_ns:
            cause = stored(reader, input_before(reader, run, decode), decode)
            at_ns = getattr(cause, "at_ns", 0)
        return made_by(run, record, at_ns)

    at_ns = time_before(reader, first) or 0
    with shown("reading", last - first + 1) as advance:
        report.read(
            reader.read(after=first - 1, upto=last),
            decode,
            at_ns=at_ns,
            begun_before=begun_before,
            advance=lambda sequence: advance(sequence - first + 1),
        )


def _document(log: Path, report: Report, damage: LogCorrupt | None) -> dict[str, Any]:
    families = report.families
    shown_runs = len(families.spans.by_run)
    return {
        "log": str(log),
        "first": report.first,
        "last": report.last,
        "began_at": rfc3339(report.begin_ns),
        "ended_at": rfc3339(report.end_ns),
        "events": report.counts["events"],
        "firings": report.counts["firings"],
        "failures": report.counts["failures"],
        "runs_shown": shown_runs,
        "runs_total": families.runs,
        "thinned": _thinned(report),
        "damage": None if damage is None else str(damage),
    }


def _thinned(report: Report) -> str | None:
    """Say what was left out; ``None``: nothing."""
    families = report.families
    parts: list[str] = []
    if families.one_of > 1:
        parts.append(f"of the runs that went well 1 of {families.one_of} with those below it")
    if families.one_failed_of > 1:
        parts.append(f"of those that failed, or have not ended, 1 of {families.one_failed_of}")
    if report.points.one_of > 1:
        parts.append(f"of the firings that started no run 1 of {report.points.one_of}")
    if families.cut:
        parts.append(f"all but {families.cut} runs below others that have very many")
    if not parts:
        return None
    return f"shown are {', '.join(parts)}; a stretch (--from, --until) or --bars shows more"


def page_of(document: dict[str, Any]) -> bytes:
    """Return the page that shows *document*."""
    folder = files("headrace") / PAGE
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    page = (folder / "page.html").read_text(encoding="utf-8")
    style = (folder / "page.css").read_text(encoding="utf-8")
    head, _, rest = page.partition("/*STYLE*/")
    middle, _, rest = rest.partition("/*DATA*/")
    between, _, tail = rest.partition("/*SCRIPT*/")
    parts = (head, style, middle, _embedded(document), between, script, tail)
    return MARK + "".join(parts).encode()


def _embedded(document: dict[str, Any]) -> str:
    """Return *document* as JSON that cannot end the script that it stands in."""
    text = to_json(document)
    for character in "<>&":
        # These can be in strings only, where JSON has another way to write them.
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _check_free(target: Path) -> None:
    """Refuse a path that holds something else than a report."""
    if target.is_dir():
        found = "a directory"
    elif target.exists() and not target.is_file():
        found = "no file"  # a pipe would be waited for, and put out of its place
    elif target.exists():
        with target.open("rb") as file:
            if file.read(len(MARK)) == MARK:
                return
        found = "another file"
    elif not target.resolve().parent.is_dir():
        found = "no such directory"
    else:
        return
    raise Usage(
        f"{safe(str(target))}: expected a place for a report, or an older one, found {found}; "
        "name another with --out"
    )


def _write(target: Path, page: bytes) -> None:
    """Put *page* in place as a whole, so that a browser never sees half of it."""
    partly = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        partly.write_bytes(page)
        partly.replace(target)
    finally:
        partly.unlink(missing_ok=True)


def _text(told: dict[str, Any]) -> str:
    runs = f"{told['runs_shown']} of {told['runs_total']}"
    return facts(
        [
            ("report", f"{told['report']} ({told['size_bytes']} bytes); open it in a browser"),
            ("records", f"{told['first']} to {told['last']}"),
            ("time", f"{told['began_at']} to {told['ended_at']}"),
            ("events", told["events"]),
            ("firings", told["firings"]),
            ("runs", runs if told["thinned"] else told["runs_total"]),
            ("failures", f"{told['failures']} attempts"),
            ("thinned", told["thinned"]),
        ]
    )
