"""The commands that show what led to what in a log, with their arguments and their help.

As `headrace.cli.commands`, which has the others.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter, validators

from headrace.cli.arguments import LogFolder
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
