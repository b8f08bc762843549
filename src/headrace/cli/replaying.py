"""The commands that let a log run through rules again, with their arguments and their help.

As `headrace.cli.commands`, which has the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from headrace.cli.arguments import AppName, LogFolder, Output, Rules, Strict
from headrace.cli.commands import _command
from headrace.cli.tracing import app

__all__ = ["app"]

PLACE = "a sequence, or the last one up to a time such as 2026-03-01T08:00:00Z or -15m"

From = Annotated[
    str | None,
    Parameter(
        name="--from",
        allow_leading_hyphen=True,
        help=f"Begin at the newest snapshot up to here: {PLACE}. If there is none that can be "
        "used, at the beginning.",
    ),
]
Until = Annotated[
    str | None, Parameter(allow_leading_hyphen=True, help=f"The last record: {PLACE}.")
]
Speed = Annotated[
    float | None,
    Parameter(
        validator=validators.Number(gt=0, lt=float("inf")),
        help="Print each record when its time has come, so many times as fast as it was: for "
        "demonstrations.",
    ),
]
Runs = Annotated[
    bool,
    Parameter(
        negative=(),
        show_default=False,
        help="Also execute the code of tasks that are declared replayable=True, and compare its "
        "calls with those that are recorded. What it calls is answered from the log.",
    ),
]
AppOrLog = Annotated[
    str, Parameter(name="A", help="An app, as module:attribute or plant.py:app; or a log.")
]
OtherAppOrLog = Annotated[str, Parameter(name="B", help="The other app, or the other log.")]
BisectedLog = Annotated[
    Path | None, Parameter(name="DIR", help="The log's directory, if A and B are apps.")
]
DifferencesMax = Annotated[
    int,
    Parameter(
        name="--limit",
        validator=validators.Number(gte=0),
        help="List at most so many differences; all are counted.",
    ),
]


@_command(app, "replay")
def replay_command(
    name: AppName,
    folder: LogFolder,
    /,
    *,
    rules: Rules = None,
    strict: Strict = False,
    from_: From = None,
    until: Until = None,
    speed: Speed = None,
    runs: Runs = False,
    output: Output = "table",
) -> int:
    """Derive every decision again with today's rules and compare; without --runs no task is called.

    Exit code 3 if there is a difference. Of a damaged log what is intact is compared.
    """
    from headrace.cli.apps import load
    from headrace.cli.replay import replay

    return replay(
        load(name, rules),
        folder,
        output,
        strict=strict,
        from_=from_,
        until=until,
        speed=speed,
        runs=runs,
    )


@_command(app, "whatif")
def whatif_command(
    name: AppName,
    folder: LogFolder,
    /,
    *,
    rules: Rules = None,
    from_: From = None,
    until: Until = None,
    limit: DifferencesMax = 100,
    output: Output = "table",
) -> int:
    """Let today's rules see a log from its beginning, and say what would be another.

    Firings that appear, vanish, move or change, and what is known of the runs that would
    follow: the recorded ones stand in, no task is called. Exit code 3 if anything differs.
    """
    from headrace.cli.apps import load
    from headrace.cli.whatif import whatif

    return whatif(load(name, rules), folder, output, from_=from_, until=until, limit=limit)


@_command(app, "bisect")
def bisect_command(
    a: AppOrLog,
    b: OtherAppOrLog,
    folder: BisectedLog = None,
    /,
    *,
    from_: From = None,
    until: Until = None,
    output: Output = "table",
) -> int:
    """Find the first record at which two apps part that see the same log, or two logs.

    Two versions of an app are two apps: name a file of each. No task is called. Exit code 3 if
    they part.
    """
    from headrace.cli.bisect import bisect, load_both
    from headrace.cli.errors import Usage

    if folder is not None:
        return bisect(*load_both(a, b), folder, output, from_=from_, until=until)
    if from_ is not None or until is not None:
        raise Usage(
            "bisect: expected two apps and a log with --from or --until, found two logs; leave "
            "them out, or name the log"
        )
    from headrace.cli.log_diff import diff

    return diff(Path(a), Path(b), output)
