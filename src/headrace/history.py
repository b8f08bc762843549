"""`App.backfill`: where the past comes from: an older log, a file of JSON lines, or events."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

import msgspec

from headrace.engine.backfill import Backfilled, Past, backfill, past_of_log
from headrace.engine.clock import SystemClock, seconds_to_ns
from headrace.engine.decider import Decider
from headrace.engine.emission import Emission, time_ns_of
from headrace.engine.errors import HistoryUnusable
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.protocol import Durability, EventLog
from headrace.engine.offline import OfflineLog
from headrace.version import __version__


def fold_history(
    decider: Decider,
    log: str | os.PathLike[str] | EventLog,
    history: str | os.PathLike[str] | Iterable[Emission],
    *,
    name: str | None,
    clock: Literal["system", "input"],
    durability: Durability,
    dedupe_window: float | timedelta,
) -> Backfilled:
    """See `App.backfill`."""
    into = FileLog(log, durability=durability) if isinstance(log, (str, os.PathLike)) else log
    window = dedupe_window
    window_s = window.total_seconds() if isinstance(window, timedelta) else window

    def folded(past: Iterable[Past], own_name: str) -> Backfilled:
        with OfflineLog(into) as offline:
            return backfill(
                offline,
                decider,
                past,
                name=name or own_name,
                version=__version__,
                clock=clock,
                dedupe_window_ns=seconds_to_ns(window_s),
                now_ns=SystemClock().wall_ns,
            )

    if not isinstance(history, (str, os.PathLike)):
        return folded(_timed(history), "history")
    path = Path(history)
    if path.is_dir():
        if isinstance(log, (str, os.PathLike)) and Path(log).exists() and path.samefile(log):
            raise HistoryUnusable(f"{path}: expected another log as history, found the log itself")
        with LogReader(path) as reader:
            return folded(past_of_log(reader), f"log:{reader.log_id.hex()}")
    return _of_file(path, folded)


def _of_file(path: Path, folded: Callable[[Iterable[Past], str], Backfilled]) -> Backfilled:
    from headrace.connectors.jsonl import JsonLines

    lines = JsonLines(path)
    lines.open()
    try:

        def past() -> Iterator[Past]:
            while events := lines.read():
                yield from _timed(
                    msgspec.structs.replace(event, source=lines.name) for event in events
                )

        return folded(past(), lines.name)
    finally:
        lines.close()


def _timed(events: Iterable[Emission]) -> Iterator[Past]:
    """Give each event its time.

    Raises:
        HistoryUnusable: one has none.
    """
    for number, event in enumerate(events, 1):
        time_ns = time_ns_of(event)
        if time_ns is None:
            raise HistoryUnusable(
                f"event {number} ({event.subject}): expected a time, found none; an event of the "
                f"past has to say when it was"
            )
        yield Past(time_ns, event, event.position or 0)
