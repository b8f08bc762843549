"""Kill the demo half-way with SIGKILL, start it again, and hold the result against a quiet run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from headrace.demo.outcome import Outcome, first_difference

BUSY: Final = "busy"
"""What the child says when runs are open."""


class ChildFailed(Exception):
    """The demo's child process ended in another way than it should."""


class Crash(Struct, frozen=True):
    """What came of killing it."""

    killed_at: int
    """Last reading that the log held when the process was gone."""
    open_runs: int
    """Runs that had begun then and had not ended."""
    same: bool
    difference: str | None
    undisturbed: str
    """Digest of what the undisturbed run came to."""
    resumed: str
    """Digest of what the killed and resumed run came to."""


def run_child(
    log: Path, *, kill_from: int | None = None, progress: Callable[[int], None] | None = None
) -> None:
    """Run the demo in a child process.

    With *kill_from* it is killed as soon as it says that runs are open after that reading.

    Raises:
        ChildFailed: it ended by itself when it was to be killed, or badly when not.
    """
    command = [sys.executable, "-m", "headrace.demo", str(log)]
    if kill_from is not None:
        command.append(str(kill_from))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == BUSY:
                child.kill()
                break
            if progress is not None:
                progress(int(line))
        code = child.wait()
    if code != (0 if kill_from is None else -signal.SIGKILL):
        wanted = "to end well" if kill_from is None else "to be killed"
        raise ChildFailed(f"{' '.join(command)}: expected it {wanted}, found exit code {code}")


def judge(undisturbed: Outcome, killed: Outcome, resumed: Outcome) -> Crash:
    """Compare what both ways came to."""
    difference = first_difference(undisturbed, resumed)
    return Crash(
        killed_at=killed.events,
        open_runs=killed.open_runs,
        same=difference is None,
        difference=difference,
        undisturbed=undisturbed.digest(),
        resumed=resumed.digest(),
    )


def text_of(crash: Crash) -> str:
    """Return *crash* for people."""
    under_way = f"{crash.open_runs} run{'' if crash.open_runs == 1 else 's'} under way"
    lines = [
        (
            f"Killed with SIGKILL after reading {crash.killed_at}, with {under_way}; "
            "a new process went on from there."
        ),
        (
            "The result is the same: every firing with its events and time, every run with its "
            "status, retries, error and result."
            if crash.same
            else f"THE RESULT DIFFERS, first in {crash.difference}"
        ),
        f"  undisturbed  {crash.undisturbed}",
        f"  resumed      {crash.resumed}",
    ]
    return "\n".join(lines)
