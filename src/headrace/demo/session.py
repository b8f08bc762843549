"""The demo as a person sees it: run, report, kill, compare.  Called by ``headrace demo``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
import msgspec

from headrace.demo import crash as crashes
from headrace.demo import report as reports
from headrace.demo.feed import SOURCE, samples, windows
from headrace.demo.outcome import Outcome, read_outcome
from headrace.demo.progress import shown
from headrace.demo.run import run_demo

OK: Final = 0
USAGE: Final = 2
DIFFERENT: Final = 3

INTRO: Final = """\
Two real thermometers (Numenta Anomaly Benchmark): a machine, every 5 minutes, and the air
of an office, every hour; 2013-07-04 to 2014-05-28.  The rules and tasks that watch them are
headrace/demo/plant.py, the same file as examples/plant.py.  Log time is the readings' own.
"""


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ``-o json`` prints."""

    report: reports.Report | None = None
    crash: crashes.Crash | None = None


def run_session(log: Path | None, *, crash: bool, output: str) -> int:
    """See `headrace.demo.demo`."""
    log = _fresh_path() if log is None else log
    feed_events = len(samples())
    before = read_outcome(log, source=SOURCE)
    if before is not None and (refusal := _refusal(before, log, feed_events, crash=crash)):
        sys.stderr.write(refusal + "\n")
        return USAGE
    if output == "table":
        sys.stdout.write(INTRO + "\n")
    if crash:
        return _crash_in(log, output)
    return _demo_in(log, before, output)


def _demo_in(log: Path, before: Outcome | None, output: str) -> int:
    """Run undisturbed into *log*, then killed into a log that is thrown away."""
    total = len(samples())
    speed = None
    if before is None or before.events < total or before.open_runs:
        if before is not None and before.events:
            sys.stderr.write(f"{log} holds {before.events} readings; going on behind them\n")
        with shown("readings", total) as advance:
            speed = anyio.run(lambda: run_demo(log, progress=advance))
    else:
        sys.stderr.write(
            f"{log} holds a finished demo: this is what it came to; "
            f"for another one name another --log, or delete it\n"
        )
    undisturbed = _outcome(log)
    report = _report(log, undisturbed, speed)
    if output == "table":
        sys.stdout.write(reports.text_of(report) + "\n\n" + reports.next_commands(str(log)) + "\n")
        sys.stdout.flush()
    if speed is None:
        _write_document(Session(report=report), output)
        return OK
    with TemporaryDirectory(prefix="headrace-demo-") as scratch:
        killed = Path(scratch) / "killed"
        crash = _killed_and_resumed(killed, undisturbed)
        _keep_if_different(crash, killed, log)
    if output == "table":
        sys.stdout.write("\nThe same once more in a child process, killed half-way.\n")
        sys.stdout.write(crashes.text_of(crash) + "\n")
    _write_document(Session(report=report, crash=crash), output)
    return OK if crash.same else DIFFERENT


def _crash_in(log: Path, output: str) -> int:
    """Run undisturbed into a log that is thrown away, then killed into *log*."""
    with TemporaryDirectory(prefix="headrace-demo-") as scratch:
        quiet = Path(scratch) / "undisturbed"
        with shown("undisturbed", len(samples())) as advance:
            anyio.run(lambda: run_demo(quiet, progress=advance))
        undisturbed = _outcome(quiet)
        crash = _killed_and_resumed(log, undisturbed)
        _keep_if_different(crash, quiet, log)
    report = _report(log, _outcome(log), None)
    if output == "table":
        sys.stdout.write(crashes.text_of(crash) + "\n\n")
        sys.stdout.write(reports.text_of(report) + "\n\n" + reports.next_commands(str(log)) + "\n")
    _write_document(Session(report=report, crash=crash), output)
    return OK if crash.same else DIFFERENT


def _killed_and_resumed(log: Path, undisturbed: Outcome) -> crashes.Crash:
    """Run the demo into *log* in two processes, the first of which is killed half-way."""
    total = len(samples())
    with shown("killed half-way, resumed", total) as advance:
        crashes.run_child(log, kill_from=total // 2, progress=advance)
        killed = _outcome(log)
        crashes.run_child(log, progress=advance)
    return crashes.judge(undisturbed, killed, _outcome(log))


def _keep_if_different(crash: crashes.Crash, scratch: Path, log: Path) -> None:
    """Save the log that was to be thrown away next to the other: it is the evidence."""
    if not crash.same:
        kept = log.with_name(f"{log.name}-{scratch.name}")
        shutil.copytree(scratch, kept, dirs_exist_ok=True)
        sys.stderr.write(f"the other log is kept in {kept}\n")


def _refusal(before: Outcome, log: Path, feed_events: int, *, crash: bool) -> str | None:
    """Say why the demo must not write to *log*, or return ``None``."""
    if before.events == 0 and before.starts == 0:
        return None
    if before.foreign:
        return (
            f"{log}: expected a log of the demo, found one with events of something else; "
            f"name another --log"
        )
    if crash:
        return (
            f"{log}: expected no log, since --crash begins one, found {before.events} of "
            f"{feed_events} readings; name another --log"
        )
    return None


def _report(log: Path, outcome: Outcome, speed: reports.Speed | None) -> reports.Report:
    # The segments: the room that the log keeps in reserve does not grow with the events.
    log_bytes = sum(path.stat().st_size for path in log.glob("*.hrl"))
    return reports.report_of(outcome, windows(), log=str(log), log_bytes=log_bytes, speed=speed)


def _outcome(log: Path) -> Outcome:
    outcome = read_outcome(log, source=SOURCE)
    assert outcome is not None, log
    return outcome


def _write_document(session: Session, output: str) -> None:
    if output == "table":
        return
    document = msgspec.json.encode(session)
    if output == "json":
        document = msgspec.json.format(document)
    sys.stdout.write(document.decode() + "\n")


def _fresh_path() -> Path:
    """Return the first ``headrace-demo-N`` in the current folder that does not exist."""
    number = 1
    while (path := Path(f"headrace-demo-{number}")).exists():
        number += 1
    return path
