"""Every command with its arguments and its help.

What they do is in the other modules, which are imported when a command is called and not
for ``--help``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from cyclopts import App

from headrace.cli.arguments import (
    After,
    AppOrConfig,
    Before,
    ClockName,
    Compress,
    ConfigFile,
    Crash,
    DemoLog,
    DoctorLog,
    DryRun,
    DurabilityName,
    FailedOnly,
    Follow,
    ForkAt,
    From,
    Grace,
    HoldAt,
    HoldName,
    KeepBytes,
    KeepSeconds,
    Kinds,
    Limit,
    LogA,
    LogB,
    LogFolder,
    LogFormatName,
    LogOfRun,
    NewFolder,
    Output,
    Release,
    Rules,
    RunNumber,
    Since,
    SkipBadLines,
    SnapshotApp,
    SnapshotEvery,
    Status,
    Subject,
    TailAfter,
    TailCount,
    TaskName,
)
from headrace.engine.defaults import SNAPSHOT_EVERY
from headrace.version import __version__

F = TypeVar("F", bound=Callable[..., Any])

EPILOGUE: Final = (
    "Every command takes --debug, which shows where an error comes from. Exit codes: 0 ok, "
    "1 failure, 2 usage, 3 difference found, 4 not found, 5 unreachable, 6 corrupt log, "
    "74 durability lost, 130 interrupted."
)

app: Final = App(
    name="headrace",
    help="Events in, work out: rules over events start tasks, and one log records it all.",
    help_epilogue=EPILOGUE,
    help_format="plaintext",
    version=f"headrace {__version__}",
    result_action="return_value",
)
log_app: Final = App(name="log", help="Look into a log.")
events_app: Final = App(name="events", help="Look at the events of a log.")
runs_app: Final = App(name="runs", help="Look at the runs of a log.")
app.command(log_app)
app.command(events_app)
app.command(runs_app)


def _command(to: App, name: str) -> Callable[[F], F]:
    """Add the decorated function to *to*; its docstring's paragraphs become the help."""

    def add(function: F) -> F:
        paragraphs = (function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        to.command(function, name=name, help=text)
        return function

    return add


@_command(app, "run")
def run_command(
    name: AppOrConfig = None,
    /,
    *,
    log: LogOfRun = None,
    config: ConfigFile = None,
    rules: Rules = None,
    from_: From = None,
    clock: ClockName = "system",
    durability: DurabilityName = "fsynced",
    grace: Grace = 10.0,
    keep_bytes: KeepBytes = None,
    keep_s: KeepSeconds = None,
    compress: Compress = False,
    snapshot_every: SnapshotEvery = SNAPSHOT_EVERY,
    skip_bad_lines: SkipBadLines = False,
    log_format: LogFormatName = "auto",
    output: Output = "table",
) -> int:
    """Run an app over a log: take events, fire rules, carry out tasks.

    It takes events from the sources of the app and of --config. It ends when they and --from
    have ended and nothing is left to do; a file that was read in part goes on behind its last
    stored line. With a source that does not end, or without any, it runs until a signal.

    What changes in the file of --rules is put into force while it runs.
    """
    from headrace.cli.apps import load_with
    from headrace.cli.run import RunOptions, log_of, rules_of, run

    app, configured = load_with("run", name, rules, config)
    options = RunOptions(
        log=log_of(log, configured),
        rules=rules_of(rules, configured),
        paths=from_ or [],
        clock=clock,
        durability=durability,
        grace_s=grace,
        keep_bytes=keep_bytes,
        keep_s=keep_s,
        compress=compress,
        snapshot_every=snapshot_every,
        output=output,
        log_format=log_format,
        skip_bad_lines=skip_bad_lines,
    )
    return run(app, options)


@_command(app, "check")
def check_command(
    name: AppOrConfig = None,
    /,
    *,
    config: ConfigFile = None,
    rules: Rules = None,
    output: Output = "table",
) -> int:
    """Load an app and print its rules, tasks, subjects, sources and sinks."""
    from headrace.cli.apps import load_with
    from headrace.cli.check import check

    app, _ = load_with("check", name, rules, config)
    return check(app, output)


@_command(app, "doctor")
def doctor_command(
    name: AppOrConfig = None,
    /,
    *,
    config: ConfigFile = None,
    rules: Rules = None,
    log: DoctorLog = None,
    output: Output = "table",
) -> int:
    """Check this machine, the log's disk and the servers, and say what to mend.

    It connects to the sources and sinks of the app and of --config, and takes nothing from
    them. Exit code 1 if something does not work, 5 if that is only about sources and sinks.
    """
    from headrace.cli.doctor import doctor

    return doctor(name, log=log, config=config, rules=rules, output=output)


@_command(app, "demo")
def demo_command(*, log: DemoLog = None, crash: Crash = False, output: Output = "table") -> int:
    """Play real sensor readings through an example plant, with a crash on the way."""
    from headrace.demo import demo

    return demo(log, crash=crash, output=output)


@_command(log_app, "info")
def log_info_command(folder: LogFolder, /, *, output: Output = "table") -> int:
    """Print size, time span and state of a log without reading it all."""
    from headrace.cli.log import info

    return info(folder, output)


@_command(log_app, "cat")
def log_cat_command(
    folder: LogFolder,
    /,
    *,
    after: After = 0,
    limit: Limit | None = None,
    kind: Kinds = None,
    subject: Subject = None,
    output: Output = "table",
) -> int:
    """Print the records of a log."""
    from headrace.cli.log import cat

    return cat(folder, output, after=after, limit=limit, kinds=kind or [], subject=subject)


@_command(log_app, "verify")
def log_verify_command(folder: LogFolder, /, *, output: Output = "table") -> int:
    """Check every byte of a log, and of the large results that it names.

    Exit code 6 if something acknowledged is damaged or missing.
    """
    from headrace.cli.log import verify

    return verify(folder, output)


@_command(log_app, "salvage")
def log_salvage_command(folder: LogFolder, new: NewFolder, /, *, output: Output = "table") -> int:
    """Copy what is intact of a damaged log into a new one, and say what is missing.

    Large results too. Exit code 6 if something is missing. The damaged log is only read.
    """
    from headrace.cli.log import salvage

    return salvage(folder, new, output)


@_command(log_app, "fork")
def log_fork_command(
    folder: LogFolder, new: NewFolder, /, *, at: ForkAt = None, output: Output = "table"
) -> int:
    """Make a new log that shares the first records of another and goes its own way.

    The other log may be in use, and is only read. Finished segments and large results are
    shared on the disk.
    """
    from headrace.cli.log_fork import fork

    return fork(folder, new, output, at=at)


@_command(log_app, "copy")
def log_copy_command(folder: LogFolder, new: NewFolder, /, *, output: Output = "table") -> int:
    """Copy a log as far as it is stored at this moment; it may be in use.

    Every byte is checked on the way, also of large results.
    """
    from headrace.cli.log_fork import copy

    return copy(folder, new, output)


@_command(log_app, "diff")
def log_diff_command(a: LogA, b: LogB, /, *, output: Output = "table") -> int:
    """Print the first record at which two logs part, and count the rest.

    Exit code 3 if they do.
    """
    from headrace.cli.log_diff import diff

    return diff(a, b, output)


@_command(log_app, "hold")
def log_hold_command(
    folder: LogFolder,
    name: HoldName,
    /,
    *,
    at: HoldAt = None,
    release: Release = False,
    output: Output = "table",
) -> int:
    """Keep the records of a log from a sequence on, until the hold is released.

    The log may be in use.
    """
    from headrace.cli.log_keep import hold

    return hold(folder, name, output, at=at, release=release)


@_command(log_app, "compact")
def log_compact_command(
    folder: LogFolder,
    /,
    *,
    keep_bytes: KeepBytes = None,
    keep_s: KeepSeconds = None,
    before: Before = None,
    dry_run: DryRun = False,
    output: Output = "table",
) -> int:
    """Remove the oldest segments of a log that no engine holds.

    What a snapshot, a hold or a reader needs stays. Without a limit all that is left goes.
    Large results that nothing needs any more go too.
    """
    from headrace.cli.log_keep import compact

    return compact(
        folder, output, keep_bytes=keep_bytes, keep_s=keep_s, before=before, dry_run=dry_run
    )


@_command(log_app, "index")
def log_index_command(folder: LogFolder, /, *, output: Output = "table") -> int:
    """Make the index files of a log anew.

    They only save time, and an engine makes missing ones by itself. The log may be in use.
    """
    from headrace.cli.log_index import index

    return index(folder, output)


@_command(log_app, "snapshot")
def log_snapshot_command(
    folder: LogFolder, /, *, app: SnapshotApp = None, rules: Rules = None, output: Output = "table"
) -> int:
    """Write the state that a log leads to, so that the next start has little to fold.

    The engine that runs over it does it. If none runs, the app is needed: its rules give it.
    """
    from headrace.cli.apps import load
    from headrace.cli.log_snapshot import snapshot

    return snapshot(folder, None if app is None else load(app, rules), output)


@_command(events_app, "tail")
def events_tail_command(
    folder: LogFolder,
    /,
    *,
    follow: Follow = False,
    count: TailCount = 10,
    after: TailAfter = None,
    subject: Subject = None,
    output: Output = "table",
) -> int:
    """Print the last events of a log, or all after a sequence.

    While it runs, retention keeps what it has not printed yet.
    """
    from headrace.cli.events import tail

    return tail(folder, output, after=after, count=count, follow=follow, subject=subject)


@_command(runs_app, "list")
def runs_list_command(
    folder: LogFolder,
    /,
    *,
    status: Status = None,
    failed: FailedOnly = False,
    task: TaskName = None,
    since: Since = None,
    limit: Limit = 50,
    output: Output = "table",
) -> int:
    """Print the newest runs, newest first."""
    from headrace.cli.errors import Usage
    from headrace.cli.runs import list_runs

    if failed and status is not None:
        raise Usage("runs list: expected --failed or --status, found both; --failed shows the dead")
    wanted = "dead" if failed else status
    return list_runs(folder, output, status=wanted, task=task, since=since, limit=limit)


@_command(runs_app, "show")
def runs_show_command(folder: LogFolder, run: RunNumber, /, *, output: Output = "table") -> int:
    """Print one run: its causes, input, attempts, tracebacks, and all steps below it."""
    from headrace.cli.run_story import show

    return show(folder, run, output)


@_command(app, "version")
def version_command(*, output: Output = "table") -> int:
    """Print the versions of headrace and Python."""
    import platform

    from headrace.cli.output import write_document

    python = platform.python_version()
    document = {"headrace": __version__, "python": python}
    write_document(document, output, lambda: f"headrace {__version__} (Python {python})")
    return 0
