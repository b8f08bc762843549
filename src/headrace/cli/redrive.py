"""``headrace runs redrive`` and ``runs cancel`` of many: one after the other, at a bounded rate."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.door import Door, door
from headrace.cli.emit import say_if_offline, state_for
from headrace.cli.errors import OK, Usage, code_of
from headrace.cli.logs import folded, opened
from headrace.cli.output import Output, write_document, write_rows
from headrace.cli.progress import shown
from headrace.cli.text import safe
from headrace.engine.errors import RedriveRefused, RunNotFound

if TYPE_CHECKING:
    from headrace.engine.runs import RunView

_RATE: Final = re.compile(r"(\d{1,6})(?:/([smh]))?")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
COLUMNS: Final = ("run", "sequence", "state")


def pause_of(rate: str) -> float:
    """Return the seconds between two at a *rate* such as ``10/s`` or ``100/m``.

    Raises:
        Usage: it says none.
    """
    found = _RATE.fullmatch(rate)
    if found is None or not int(found[1]):
        raise Usage(
            f"--rate {safe(rate)!r}: expected how many in which time, such as 10/s or 100/m; found "
            "neither"
        )
    return _SECONDS[found[2] or "s"] / int(found[1])


def since_ns(since: str | None) -> int:
    """Return the time that *since* says, 0 for none.

    Raises:
        Usage: it says no time.
    """
    from headrace.cli.times import time_ns

    if since is None:
        return 0
    try:
        return time_ns(since)
    except ValueError as error:
        raise Usage(
            f"--since {safe(since)!r}: expected a time such as 2026-03-01T08:00:00Z, or so long "
            "ago as -15m; found neither"
        ) from error


def is_wanted(view: RunView, *, task: str | None, since_ns: int) -> bool:
    """Say whether a run is of *task*, if that is given, and ended at or after *since_ns*."""
    return task in (None, view.task) and (view.ended_at_ns or view.created_at_ns) >= since_ns


def redrive(
    log: Path,
    runs: Sequence[int],
    output: Output,
    *,
    task: str | None,
    since: str | None,
    from_start: bool,
    rate: str,
) -> int:
    """Let dead letters go on, and print the sequences of the requests.

    Raises:
        Usage: it is not said which.
    """
    pause_s, after_ns = pause_of(rate), since_ns(since)
    if bool(runs) == (task is not None or since is not None):
        raise Usage(
            "runs redrive: expected either runs, or --task or --since for all dead letters of "
            "them; `headrace runs list --failed` has the dead letters"
        )
    if not runs:
        with opened(log) as reader:
            letters = folded(reader, shortcut=True).state.dead.views()
        runs = sorted(v.id for v in letters if is_wanted(v, task=task, since_ns=after_ns))
    with told(output, empty="no runs redriven") as rows, door(log) as way:

        def ask(run: int) -> dict[str, Any]:
            sequence = way.redrive(run, from_start=from_start)
            return {"run": run, "sequence": sequence, "state": state_for(way)}

        code = one_by_one("redriving", list(dict.fromkeys(runs)), ask, rows, pause_s=pause_s)
        if rows:
            say_if_offline(log, way)
    return code


def cancel_many(log: Path, runs: Sequence[int], output: Output, *, reason: str) -> int:
    """Ask for runs to be cancelled, and print the sequences of the requests."""

    def ask(way: Door, run: int) -> dict[str, Any]:
        sequence = way.cancel(run, reason)
        return {"log": str(log), "run": run, "sequence": sequence, "state": state_for(way)}

    if len(runs) == 1:
        with door(log) as way:
            document = ask(way, runs[0])
            say_if_offline(log, way)
            write_document(document, output, lambda: str(document["sequence"]))
            return OK
    with told(output, empty="no runs cancelled") as rows, door(log) as way:
        each = list(dict.fromkeys(runs))
        code = one_by_one("cancelling", each, partial(ask, way), rows, pause_s=0)
        if rows:
            say_if_offline(log, way)
    return code


@contextmanager
def told(output: Output, *, empty: str) -> Generator[list[dict[str, Any]]]:
    """Print the rows that are put in; also if an error or Ctrl-C comes: they are done by then."""
    rows: list[dict[str, Any]] = []
    try:
        yield rows
    except BaseException:
        if rows:
            write_rows(rows, output, COLUMNS, empty=empty)
        raise
    write_rows(rows, output, COLUMNS, empty=empty)


def one_by_one(
    what: str,
    runs: Sequence[int],
    ask: Callable[[int], dict[str, Any]],
    rows: list[dict[str, Any]],
    *,
    pause_s: float,
) -> int:
    """Add to *rows* what *ask* says of each run; return the exit code.

    One that is refused does not keep the others from their turn: it is told on stderr.
    """
    code, due_s = OK, time.monotonic()
    with shown(what, len(runs)) as advance:
        for number, run in enumerate(runs):
            time.sleep(max(0.0, due_s + number * pause_s - time.monotonic()))
            try:
                rows.append(ask(run))
            except (RunNotFound, RedriveRefused) as error:
                if len(runs) == 1:
                    raise
                sys.stderr.write(f"headrace: {safe(str(error))}\n")
                code = code or code_of(error)
            advance(number + 1)
    return code
