"""Replay, what-if, bisect and projections as functions, for tests and notebooks.

    replayed = replay("plant.log", app)          # assert not replayed.diverged
    found = whatif("plant.log", changed_app)     # found.total.appeared, found.differences
    parted = bisect("plant.log", old, new)       # parted.at, parted.rules
    peaks = project("plant.log", app, peak, at=9000)    # peaks["t1"], as it was then

Nothing is executed and nothing is written; the log may be in use.  What they return is
described in `headrace.engine.replay`; docs/replay.md shows them at work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from headrace.engine.log import LogReader
from headrace.engine.projected import View
from headrace.engine.replay.bisect import Parted
from headrace.engine.replay.bisect import bisect as _bisect
from headrace.engine.replay.policies import Retries
from headrace.engine.replay.replay import Replayed
from headrace.engine.replay.replay import replay as _replay
from headrace.engine.replay.stretch import Stretch
from headrace.engine.replay.tally import Supposed
from headrace.engine.replay.whatif import SHOWN_MAX
from headrace.engine.replay.whatif import whatif as _whatif
from headrace.engine.restore import ReadableLog

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.replay.code import CodeReplayed

__all__ = ["Parted", "Replayed", "Supposed", "bisect", "project", "replay", "replay_runs", "whatif"]

S = TypeVar("S")

Log = str | os.PathLike[str] | ReadableLog


def replay(
    log: Log, app: App, *, begin_at: int | None = None, until: int | None = None
) -> Replayed:
    """Derive every firing and timer of *log* again with the rules of *app*, and compare.

    *log* is a directory, or a log such as a `MemoryLog`.  *begin_at* and *until* are
    sequences: it begins at the newest snapshot up to the one, and ends with the other.

    Raises:
        LogUnusable, LogVersion: there is no log, or it cannot be read.
        LogMismatch: records are missing that the state follows from.
    """
    with _readable(log) as readable:
        return _replay(Stretch(log=readable, begin_at=begin_at, until=until), app.decider())


def whatif(
    log: Log,
    app: App,
    *,
    begin_at: int | None = None,
    until: int | None = None,
    shown_max: int = SHOWN_MAX,
) -> Supposed:
    """Say what would be another in *log* with the rules and policies of *app*.

    As `replay`; at most *shown_max* differences are in full, and all are counted.
    """
    with _readable(log) as readable:
        stretch = Stretch(log=readable, begin_at=begin_at, until=until)
        return supposed(app, stretch, shown_max=shown_max)


def bisect(
    log: Log, a: App, b: App, *, begin_at: int | None = None, until: int | None = None
) -> Parted:
    """Find the first record of *log* of which the rules of *a* and *b* make different things.

    As `replay`.
    """
    with _readable(log) as readable:
        stretch = Stretch(log=readable, begin_at=begin_at, until=until)
        return _bisect(stretch, a.decider, b.decider)


@overload
def project(log: Log, app: App, projection: str, *, at: int | None = None) -> View[Any]: ...
@overload
def project(
    log: Log, app: App, projection: Callable[[Any, Any], S | None], *, at: int | None = None
) -> View[S]: ...
def project(log: Log, app: App, projection: Any, *, at: int | None = None) -> View[Any]:
    """Return the state of a projection of *app* after the record *at*, or at the end of *log*.

    Also of one that *log* was never run with: it is folded then, of all records that are kept.
    If it was, it begins at the nearest snapshot.

    Raises:
        TypeError, RuleNotFound: *app* has no such projection; says which it has.
        ValueError: *log* has no such record.
        LogUnusable, LogVersion, LogCorrupt: *log* cannot be read so far.
    """
    from headrace.engine.inspect.project import project as _project

    with _readable(log) as readable:
        return _project(readable, app.decider(), projection, at=at)


def replay_runs(
    log: Log, app: App, *, begin_at: int | None = None, until: int | None = None
) -> CodeReplayed:
    """Execute the code of tasks that are ``replayable=True``, against what their runs recorded.

    What they call is not executed: it is answered from *log*.  As `replay`.
    """
    with _readable(log) as readable:
        return code_of(app, Stretch(log=readable, begin_at=begin_at, until=until))


def code_of(app: App, stretch: Stretch) -> CodeReplayed:
    """As `replay_runs`, over a stretch of a log that is open."""
    from headrace.engine.replay.code import replay_runs as executed

    return executed(stretch, app.decider(), {**app.older, **app.tasks})


def supposed(app: App, stretch: Stretch, *, shown_max: int) -> Supposed:
    """As `whatif`, over a stretch of a log that is open."""
    blind = {name for name, spec in app.tasks.items() if spec.firing_name is None}
    retries = Retries({**app.older, **app.tasks}, getattr(stretch.log, "log_id", None))
    return _whatif(stretch, app.decider(), shown_max=shown_max, blind=blind, policies=retries)


@contextmanager
def _readable(log: Log) -> Generator[ReadableLog]:
    if isinstance(log, (str, os.PathLike)):
        with LogReader(log) as reader:
            yield reader
    else:
        yield log
