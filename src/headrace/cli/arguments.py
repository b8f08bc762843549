"""The arguments of the commands, with their help, in the order of the commands that take them.

Those of a few commands only are beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter, validators

_AT_LEAST_0: Final = validators.Number(gte=0)
_FINITE: Final = validators.Number(gte=0, lt=float("inf"))

Output = Annotated[
    Literal["table", "json", "jsonl"],
    Parameter(name=["--output", "-o"], help="For people, or for programs."),
]
AppName = Annotated[
    str,
    Parameter(
        name="APP",
        help="module:attribute or plant.py:app; its code is executed. Or headrace.toml.",
    ),
]
AppOrConfig = Annotated[
    str | None,
    Parameter(
        name="APP",
        help="module:attribute or plant.py:app. Its code is executed. May be left out with "
        "--config: then it is the app that the file names, or just what the file says.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    Parameter(
        name="--config",
        help="A TOML file such as headrace.toml with sources, sinks and what is forwarded.",
    ),
]
Rules = Annotated[Path | None, Parameter(help="A TOML file with rules that start the app's tasks.")]
SnapshotApp = Annotated[
    str | None,
    Parameter(help="The app, as `module:attribute` or `plant.py:app`, if no engine runs."),
]
LogFolder = Annotated[Path, Parameter(name="DIR", help="The log's directory.")]
NewFolder = Annotated[Path, Parameter(name="NEW", help="Directory to make.")]
LogA = Annotated[Path, Parameter(name="A", help="Directory of a log.")]
LogB = Annotated[Path, Parameter(name="B", help="Directory of the other one.")]
ForkAt = Annotated[
    str | None,
    Parameter(
        name="--at",
        allow_leading_hyphen=True,
        help="The last record to share: a sequence, or the last one up to a time such as "
        "2026-03-01T08:00:00Z or -15m. Without: the last of all.",
    ),
]
RunNumber = Annotated[int, Parameter(name="RUN", help="The run's number, from `runs list`.")]
FailedOnly = Annotated[
    bool,
    Parameter(negative=(), show_default=False, help="Only dead letters: runs that were given up."),
]
TaskName = Annotated[str | None, Parameter(help="Only runs of this task, or of this rule.")]
Since = Annotated[
    str | None,
    Parameter(
        allow_leading_hyphen=True,
        help="Only runs that ended since: RFC 3339 as 2026-03-01T08:00:00Z, or so long ago as "
        "-15m.",
    ),
]
LogOfRun = Annotated[
    Path | None,
    Parameter(
        help="Directory of the log; made if there is none. Without: the one that --config names."
    ),
]
From = Annotated[
    list[str] | None,
    Parameter(
        name="--from",
        negative=(),
        help="JSON lines with subject, data and perhaps time, id, key: a file, or - for "
        "standard input. May be given several times.",
    ),
]
ClockName = Annotated[
    Literal["system", "input"],
    Parameter(help="Where log time comes from: this machine, or the time of the events."),
]
DurabilityName = Annotated[
    Literal["fsynced", "flushed", "memory"], Parameter(help="When an event counts as stored.")
]
Grace = Annotated[
    float,
    Parameter(
        validator=_AT_LEAST_0,
        help="Seconds that active runs may go on after a signal; what has not ended by then "
        "resumes at the next start.",
    ),
]
SkipBadLines = Annotated[
    bool,
    Parameter(
        negative=(),
        show_default=False,
        help="Report lines that are no events and go on, instead of stopping.",
    ),
]
LogFormatName = Annotated[
    Literal["auto", "human", "json"],
    Parameter(help="Of the diagnostics on stderr; auto is human on a terminal, else json."),
]
DemoLog = Annotated[
    Path | None, Parameter(help="Directory of the log that it leaves; without, a new one here.")
]
DoctorLog = Annotated[
    Path | None,
    Parameter(
        help="Directory of a log that is or will be there. Without: the one that --config names."
    ),
]
Crash = Annotated[
    bool,
    Parameter(
        negative=(),
        show_default=False,
        help="Kill the run that writes this log half-way, and resume it.",
    ),
]
After = Annotated[int, Parameter(validator=_AT_LEAST_0, help="Begin behind this sequence.")]
Limit = Annotated[int, Parameter(validator=_AT_LEAST_0, help="Print at most so many.")]
Kinds = Annotated[
    list[str] | None,
    Parameter(
        negative=(),
        help="Only records of this kind, e.g. event or rule.fired. May be given several times.",
    ),
]
Subject = Annotated[
    str | None, Parameter(help="Only events on such subjects, e.g. 'plant.*.temperature'.")
]
Follow = Annotated[
    bool,
    Parameter(
        name=["--follow", "-f"],
        negative=(),
        show_default=False,
        help="Go on with those that come, also from another process, until interrupted.",
    ),
]
TailCount = Annotated[
    int,
    Parameter(name=["--count", "-n"], validator=_AT_LEAST_0, help="How many of the last to print."),
]
TailAfter = Annotated[
    int | None,
    Parameter(validator=_AT_LEAST_0, help="Print all behind this sequence, not the last ones."),
]
HoldName = Annotated[str, Parameter(name="NAME", help="What the hold is called, e.g. audit-2026.")]
HoldAt = Annotated[
    int | None, Parameter(name="--at", help="Keep the records from this sequence on.")
]
Release = Annotated[bool, Parameter(negative=(), show_default=False, help="Give the hold up.")]
KeepBytes = Annotated[
    int | None,
    Parameter(validator=_AT_LEAST_0, help="Keep the newest segments that have so many together."),
]
KeepSeconds = Annotated[
    float | None,
    Parameter(
        name="--keep-s",
        validator=_FINITE,
        help="Keep what is no more than so many seconds of log time older than the newest record.",
    ),
]
Compress = Annotated[
    bool, Parameter(negative=(), help="Compress finished segments, in the background.")
]
SnapshotEvery = Annotated[
    int,
    Parameter(validator=_AT_LEAST_0, help="Write the state down after so many records; 0: never."),
]
Before = Annotated[
    str | None,
    Parameter(
        allow_leading_hyphen=True,
        help="Keep the records from here on: a sequence, a time such as 2026-03-01T08:00:00Z, "
        "or so long ago as -15m.",
    ),
]
DryRun = Annotated[
    bool, Parameter(negative=(), show_default=False, help="Only say what would be removed.")
]
Status = Annotated[
    Literal[
        "waiting",
        "active",
        "retrying",
        "compensating",
        "completed",
        "failed",
        "dead",
        "cancelled",
    ]
    | None,
    Parameter(help="Only such runs; dead is a dead letter, failed a step that failed."),
]
Strict = Annotated[
    bool,
    Parameter(
        negative=(), show_default=False, help="Count it as a difference if a rule has changed."
    ),
]
