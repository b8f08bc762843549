"""``headrace runs list``: the runs of a log, from a fold of it without the app."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import OK
from headrace.cli.logs import folded, opened
from headrace.cli.output import Output, write_rows
from headrace.cli.text import rfc3339

if TYPE_CHECKING:
    from headrace.engine.runs import RunView

COLUMNS: Final = (
    "run",
    "task",
    "version",
    "key",
    "status",
    "attempt",
    "parent",
    "created_at",
    "error",
)


def list_runs(
    log: Path,
    output: Output,
    *,
    status: str | None,
    task: str | None = None,
    since: str | None = None,
    limit: int,
) -> int:
    """Print the newest *limit* runs, newest first; only such as are asked for.

    Raises:
        LogCorrupt: it is damaged; what can be told of it all the same is printed.
    """
    from headrace.cli.redrive import is_wanted, since_ns
    from headrace.engine.errors import LogCorrupt
    from headrace.engine.runs import view_of

    after_ns = since_ns(since)
    newest: dict[int, RunView] = {}

    def take(views: Iterable[RunView]) -> None:
        for view in views:
            # By id: one that was redriven has ended before, too.
            newest.pop(view.id, None)
            if status in (None, view.status) and is_wanted(view, task=task, since_ns=after_ns):
                newest[view.id] = view
        if len(newest) > 2 * limit:
            kept = _newest(newest.values(), limit)
            newest.clear()
            newest.update((view.id, view) for view in kept)

    damage: LogCorrupt | None = None
    with opened(log) as reader:
        try:
            kernel = folded(reader, on_ended=take)
        except LogCorrupt as error:
            # What an engine knows of it: those that ended before its snapshot may be missing.
            damage, kernel = error, folded(reader, on_ended=take, shortcut=True)
        take(kernel.state.dead.views())  # also those that retention has removed from the log
        # Some of them are read from the log only now.
        take(view_of(run) for run in kernel.state.runs.active.values())
    rows = [_row(view) for view in _newest(newest.values(), limit)]
    has_versions = any(row["version"] for row in rows)
    columns = [name for name in COLUMNS if has_versions or name != "version"]
    write_rows(rows, output, columns, empty="no runs" if status is None else f"no {status} runs")
    if damage is not None:
        raise damage
    return OK


def _newest(views: Iterable[RunView], limit: int) -> list[RunView]:
    return sorted(views, key=lambda view: -view.id)[:limit]


def _row(view: RunView) -> dict[str, Any]:
    return {
        "run": view.id,
        "task": view.task,
        "version": view.version or None,
        "rule": view.rule or None,
        "key": view.key,
        "status": view.status,
        "attempt": view.attempt,
        "parent": view.parent or None,
        "created_at": rfc3339(view.created_at_ns),
        "ended_at": rfc3339(view.ended_at_ns),
        "events": view.events,
        "error": view.error,
    }
