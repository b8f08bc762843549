"""Every command that writes into a log, or out of one, with its arguments and its help.

As `headrace.cli.commands`, which has the others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from headrace.cli.arguments import (
    After,
    AppName,
    ClockName,
    LogFolder,
    Output,
    Rules,
    RunNumber,
    Since,
    SkipBadLines,
    Subject,
    TaskName,
)
from headrace.cli.commands import _command, log_app, runs_app
from headrace.cli.inspecting import app

__all__ = ["app"]

EventSubject = Annotated[
    str | None,
    Parameter(
        name="SUBJECT",
        allow_leading_hyphen=True,
        help="The event's subject; - reads many as JSON lines, as --from - does.",
    ),
]
EventData = Annotated[
    str | None,
    Parameter(name="DATA", allow_leading_hyphen=True, help="JSON; without: null."),
]
SignalName = Annotated[
    str, Parameter(name="NAME", help="The signal's name, which the run asks for.")
]
EventId = Annotated[
    str | None,
    Parameter(help="An id: what is stored already under it, of this source, is not stored again."),
]
EventSource = Annotated[str, Parameter(help="Name of the source that the event comes from.")]
EventTime = Annotated[
    str | None,
    Parameter(
        allow_leading_hyphen=True,
        help="The event's own time: RFC 3339 as 2026-03-01T08:00:00Z, or so long ago as -15m.",
    ),
]
EventKey = Annotated[str | None, Parameter(help="The event's own key.")]
EventsFrom = Annotated[
    str | None,
    Parameter(
        name=["--from", "--jsonl"],
        help="JSON lines with subject, data and perhaps time, id, key: a file, or - for "
        "standard input.",
    ),
]
HistoryFrom = Annotated[
    Path,
    Parameter(
        name="--from",
        help="JSON lines, each with a time, oldest first; or an older log's directory.",
    ),
]
FromStart = Annotated[
    bool,
    Parameter(negative=(), show_default=False, help="Execute all steps again, also what is done."),
]
Rate = Annotated[str, Parameter(help="At most so many in which time: 10/s, 100/m, 1000/h.")]
Reason = Annotated[str, Parameter(help="Why, for the record.")]
ExportFile = Annotated[
    str,
    Parameter(name="FILE", allow_leading_hyphen=True, help="A new file, or - for standard output."),
]
ImportFile = Annotated[
    str,
    Parameter(name="FILE", allow_leading_hyphen=True, help="The file, or - for standard input."),
]
IntoLog = Annotated[Path, Parameter(name="DIR", help="The log's directory; made if there is none.")]
ExportFormat = Annotated[
    Literal["jsonl", "cloudevents"],
    Parameter(name=["--format", "-o"], help="JSON lines of our own, or CloudEvents 1.0 JSON."),
]
ImportFormat = Annotated[
    Literal["auto", "jsonl", "cloudevents"],
    Parameter(help="JSON lines of our own, or CloudEvents 1.0 JSON, one a line or one array."),
]
ExportKinds = Annotated[
    Literal["events", "all"],
    Parameter(help="The events, or all records for `log import --recorded`."),
]
Until = Annotated[
    str | None,
    Parameter(
        allow_leading_hyphen=True,
        help="End with this record: a sequence, or the last up to a time as "
        "2026-03-01T08:00:00Z or -15m.",
    ),
]
CopyTo = Annotated[
    Path | None,
    Parameter(
        name="--copy", help="Instead of text: copy the log to this new directory, as `log copy`."
    ),
]
Recorded = Annotated[
    bool,
    Parameter(
        negative=(),
        show_default=False,
        help="Make a new log with the very records of an export of all, under their sequences.",
    ),
]
WithEmitted = Annotated[
    bool,
    Parameter(
        negative=(),
        show_default=False,
        help="Also import events that runs emitted; else they are left to the rules.",
    ),
]


@_command(app, "emit")
def emit_command(
    folder: LogFolder,
    subject: EventSubject = None,
    data: EventData = None,
    /,
    *,
    id: EventId = None,
    source: EventSource = "",
    time: EventTime = None,
    key: EventKey = None,
    from_: EventsFrom = None,
    output: Output = "table",
) -> int:
    """Put an event, or many, into a log and print their sequences.

    A running engine stores it at once and acts on it. Without one it is offered: the next
    start stores it.
    """
    from headrace.cli.emit import emit_many, emit_one
    from headrace.cli.errors import Usage

    path = "-" if subject == "-" else from_
    if (path is None) == (subject in (None, "-")):
        raise Usage("emit: expected a SUBJECT, or many events with --from FILE; give one of them")
    if path is None:
        assert subject is not None
        return emit_one(folder, subject, data, output, id=id, source=source, time=time, key=key)
    if (data, id, time, key) != (None, None, None, None):
        raise Usage("emit: expected DATA, --id, --time and --key in the lines, found them here")
    return emit_many(folder, path, output, source=source)


@_command(app, "backfill")
def backfill_command(
    name: AppName,
    folder: IntoLog,
    /,
    *,
    from_: HistoryFrom,
    rules: Rules = None,
    clock: ClockName = "system",
    output: Output = "table",
) -> int:
    """Fold events of the past into the app's rules, without effects, before it goes live.

    They are stored at their own times, and no firing starts a run. Interrupted, it goes on
    where it was with the same command; afterwards `headrace run` goes live.
    """
    from headrace.cli.apps import load
    from headrace.cli.backfill import backfill

    return backfill(load(name, rules), from_, folder, output, clock=clock)


@_command(runs_app, "cancel")
def runs_cancel_command(
    folder: LogFolder,
    run: RunNumber,
    /,
    *more: RunNumber,
    reason: Reason = "cancelled on request",
    output: Output = "table",
) -> int:
    """Ask for runs to be cancelled and print the sequences of the requests.

    Without a running engine the next start acts on it.
    """
    from headrace.cli.redrive import cancel_many

    return cancel_many(folder, [run, *more], output, reason=reason)


@_command(runs_app, "redrive")
def runs_redrive_command(
    folder: LogFolder,
    /,
    *runs: RunNumber,
    task: TaskName = None,
    since: Since = None,
    from_start: FromStart = False,
    rate: Rate = "10/s",
    output: Output = "table",
) -> int:
    """Let dead letters go on, each under its old number, and print the sequences of the requests.

    Steps that succeeded are not executed again, unless with --from-start. Without a running
    engine the next start acts on it.
    """
    from headrace.cli.redrive import redrive

    return redrive(folder, runs, output, task=task, since=since, from_start=from_start, rate=rate)


@_command(runs_app, "signal")
def runs_signal_command(
    folder: LogFolder,
    run: RunNumber,
    name: SignalName,
    data: EventData = None,
    /,
    *,
    output: Output = "table",
) -> int:
    """Send a signal to an open run, which gets it from run.receive, and print its sequence.

    Without a running engine the next start acts on it.
    """
    from headrace.cli.signal import send

    return send(folder, run, name, data, output)


@_command(log_app, "export")
def log_export_command(
    folder: LogFolder,
    file: ExportFile = "-",
    /,
    *,
    format: ExportFormat = "jsonl",
    kinds: ExportKinds = "events",
    subject: Subject = None,
    after: After = 0,
    until: Until = None,
    copy: CopyTo = None,
) -> int:
    """Write the events of a log, or all its records, as text; it may be in use.

    An event without an id gets one of the log's id and its sequence, so that importing it
    again does no harm. Large results go with all records; exit code 6 if one is missing.
    """
    from headrace.cli.errors import Usage
    from headrace.cli.log_export import export

    if copy is not None:
        from headrace.cli.log_fork import copy as copy_log

        if (file, kinds, subject, after, until) != ("-", "events", None, 0, None):
            raise Usage("log export: expected --copy NEW alone, found other arguments")
        return copy_log(folder, copy, "table")
    return export(folder, file, form=format, kinds=kinds, subject=subject, after=after, until=until)


@_command(log_app, "import")
def log_import_command(
    file: ImportFile,
    folder: IntoLog,
    /,
    *,
    format: ImportFormat = "auto",
    recorded: Recorded = False,
    emitted: WithEmitted = False,
    skip_bad_lines: SkipBadLines = False,
    output: Output = "table",
) -> int:
    """Put the events of a file into a log, or make a log of an export of all records.

    A running engine stores events at once; without one they are offered, and the next start
    stores them. What the log has already, by source and id, is passed over.
    """
    from headrace.cli.errors import Usage
    from headrace.cli.log_import import import_events, import_recorded

    if recorded:
        if format != "auto" or emitted or skip_bad_lines:
            raise Usage("log import: expected --recorded alone, found other options")
        return import_recorded(file, folder, output)
    return import_events(
        file,
        folder,
        output,
        form=format,
        with_emitted=emitted,
        skip_bad_lines=skip_bad_lines,
    )
