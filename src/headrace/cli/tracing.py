"""The commands that show what led to what in a log, with their arguments and their help.

As `headrace.cli.commands`, which has the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from headrace.cli.arguments import LogFolder, Output
from headrace.cli.commands import _command
from headrace.cli.writing import app

__all__ = ["app"]

TracedSequence = Annotated[
    int | None, Parameter(name="SEQ", help="The record's sequence, from `log cat`.")
]
TracedRun = Annotated[
    int | None,
    Parameter(name="--run", help="A run, from `runs list`, instead of a sequence."),
]
TraceUntil = Annotated[
    str | None,
    Parameter(
        name="--until",
        allow_leading_hyphen=True,
        help="Look for effects up to here only: a sequence, a time such as 2026-03-01T08:00:00Z, "
        "or so long ago as -15m. Without: to the end of the log.",
    ),
]
TraceLimit = Annotated[
    int,
    Parameter(
        name="--limit", validator=validators.Number(gte=1), help="Stop at so many records found."
    ),
]
Whole = Annotated[
    bool,
    Parameter(name="--all", negative=(), show_default=False, help="Fold nothing and cut no data."),
]
TraceOutput = Annotated[
    Literal["table", "json", "jsonl", "chrome", "mermaid"],
    Parameter(
        name=["--output", "-o"],
        help="For people, or for programs; chrome is for ui.perfetto.dev, mermaid a flowchart.",
    ),
]
ReportOut = Annotated[
    Path | None,
    Parameter(
        name="--out",
        allow_leading_hyphen=True,
        help="The file to write, or - for standard output. Without: DIR.timeline.html, here.",
    ),
]
ReportFrom = Annotated[
    str | None,
    Parameter(
        name="--from",
        allow_leading_hyphen=True,
        help="Begin at a sequence, a time such as 2026-03-01T08:00:00Z, or so long ago as -15m.",
    ),
]
ReportUntil = Annotated[
    str | None,
    Parameter(name="--until", allow_leading_hyphen=True, help="End there, as --from."),
]
Bars = Annotated[
    int,
    Parameter(
        validator=validators.Number(gte=100, lte=1_000_000),
        help="Runs, waits, failed attempts and emitted events that are shown at most.",
    ),
]


@_command(app, "trace")
def trace_command(
    folder: LogFolder,
    sequence: TracedSequence = None,
    /,
    *,
    run: TracedRun = None,
    until: TraceUntil = None,
    limit: TraceLimit = 100_000,
    whole: Whole = False,
    output: TraceOutput = "table",
) -> int:
    """Print what led to a record, up to the event from outside, and all that came of that.

    With --run only the run and what it led to, below its causes. Of many alike some are
    shown, and all that failed are looked at first.
    """
    from headrace.cli.trace import trace

    return trace(folder, output, sequence=sequence, run=run, until=until, limit=limit, whole=whole)


@_command(app, "timeline")
def timeline_command(
    folder: LogFolder,
    /,
    *,
    out: ReportOut = None,
    from_: ReportFrom = None,
    until: ReportUntil = None,
    bars: Bars = 100_000,
    output: Output = "table",
) -> int:
    """Write a log, or a stretch of it, as one HTML file to look at in a browser.

    It needs neither a server nor the network. If there is more than can be shown, runs that
    went well are thinned out, and it says how far.
    """
    from headrace.cli.timeline import timeline

    return timeline(folder, output, out=out, from_=from_, until=until, bars_max=bars)
