"""The commands that look into the past of an app, with their arguments and their help.

As `headrace.cli.commands`, which has the others.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter, validators

from headrace.cli.arguments import AppName, LogFolder, Output, Rules
from headrace.cli.commands import _command, app

__all__ = ["app"]

PLACE = "a sequence, or the last one up to a time such as 2026-03-01T08:00:00Z or -15m"

StateAt = Annotated[
    str | None,
    Parameter(
        name="--at", allow_leading_hyphen=True, help=f"After which record: {PLACE}. Without: all."
    ),
]
OfRule = Annotated[str | None, Parameter(name="--rule", help="Only what belongs to this rule.")]
OfKey = Annotated[
    str | None,
    Parameter(
        name="--key",
        allow_leading_hyphen=True,
        help="Only what belongs to this key: as it is, or as JSON.",
    ),
]
OfRun = Annotated[int | None, Parameter(name="--run", help="Only this run, if it is open there.")]
StateLimit = Annotated[
    int,
    Parameter(
        name="--limit", validator=validators.Number(gte=0), help="List so many of each part."
    ),
]


@_command(app, "state")
def state_command(
    name: AppName,
    folder: LogFolder,
    /,
    *,
    at: StateAt = None,
    rule: OfRule = None,
    key: OfKey = None,
    run: OfRun = None,
    limit: StateLimit = 20,
    rules: Rules = None,
    output: Output = "table",
) -> int:
    """Print an app's state at a place of its log: what is open, armed and held back.

    Automata with their open partial matches, projections, timers, runs with their calls, limits.
    """
    from headrace.cli.apps import load
    from headrace.cli.state import state

    return state(load(name, rules), folder, output, at=at, rule=rule, key=key, run=run, limit=limit)


PlaceA = Annotated[
    str, Parameter(name="A", allow_leading_hyphen=True, help=f"After which record: {PLACE}.")
]
PlaceB = Annotated[
    str, Parameter(name="B", allow_leading_hyphen=True, help="And after which other one.")
]
DiffLimit = Annotated[
    int, Parameter(name="--limit", validator=validators.Number(gte=0), help="List so many changes.")
]


@_command(app, "diff")
def diff_command(
    name: AppName,
    folder: LogFolder,
    a: PlaceA,
    b: PlaceB,
    /,
    *,
    rule: OfRule = None,
    key: OfKey = None,
    run: OfRun = None,
    limit: DiffLimit = 200,
    rules: Rules = None,
    output: Output = "table",
) -> int:
    """Print what changed in an app's state between two places of its log, field by field.

    Exit code 3 if anything did.
    """
    from headrace.cli.apps import load
    from headrace.cli.diff import diff

    return diff(load(name, rules), folder, a, b, output, rule=rule, key=key, run=run, limit=limit)


RuleName = Annotated[str, Parameter(name="RULE", help="The rule's name, from `check`.")]
WhyAt = Annotated[
    str | None,
    Parameter(
        name="--at",
        allow_leading_hyphen=True,
        help=f"On which record: {PLACE}. Without: the last of all.",
    ),
]
WhyKey = Annotated[
    str | None,
    Parameter(
        name="--key",
        allow_leading_hyphen=True,
        help="About this key, as it is or as JSON. Without: that of the event.",
    ),
]


@_command(app, "why")
def why_command(
    name: AppName,
    folder: LogFolder,
    rule: RuleName,
    /,
    *,
    at: WhyAt = None,
    key: WhyKey = None,
    rules: Rules = None,
    output: Output = "table",
) -> int:
    """Say why a rule fired on a record, or why not, and what would have made it fire.

    Each clause with the value that it saw, open partial matches, and of what others died. It is
    derived again from the log; nothing of it is stored.
    """
    from headrace.cli.apps import load
    from headrace.cli.why import why

    return why(load(name, rules), folder, rule, output, at=at, key=key)


DebugAt = Annotated[
    str | None,
    Parameter(
        name="--at",
        allow_leading_hyphen=True,
        help=f"Begin after this record: {PLACE}. Without: at the beginning.",
    ),
]
Breaks = Annotated[
    list[str] | None,
    Parameter(
        name="--break",
        negative=(),
        help="Where `b` stops: rule=, key=, kind=, subject= or run=, with spaces between. May be "
        "given several times.",
    ),
]


@_command(app, "debug")
def debug_command(
    name: AppName,
    folder: LogFolder,
    /,
    *,
    at: DebugAt = None,
    breaks: Breaks = None,
    rules: Rules = None,
) -> int:
    """Go through a log record by record, forwards and backwards, and see what changes.

    Commands come from standard input, typed or piped: n, f, x, b, p, why, back, goto, help, quit.
    No task is called.
    """
    from headrace.cli.apps import load
    from headrace.cli.debug import debug

    return debug(load(name, rules), folder, at=at, breaks=breaks or [])
