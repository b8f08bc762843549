"""`Crashes`: how often the process died while the code of a run may have been executing.

Part of the kernel's state, so it changes by records only.  The count of a run is in its
`RunState`; whatever the run gets done (a call that is recorded, an attempt that ends) puts it
back to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headrace.engine.run_state import RunState
from headrace.engine.runs import RunTable

TRIAL_OVER: Final = -1
"""Said instead of a run whose trial begins, if the last one ended with nothing done."""


class Crashes:
    """What is known beyond the counts."""

    def __init__(self) -> None:
        self.is_running = False
        """Whether an engine has started and not stopped since: if it is found so, it died."""
        self.trial = 0
        """The run that executes alone among those that are suspected; 0: none."""
        self.on_cleared: Callable[[], None] = lambda: None
        """Called when that has got something done.  No part of the state."""

    def count(self, runs: RunTable) -> None:
        """Count the death of the process against each run that may have caused it."""
        known = suspects(runs)
        runs.count_crash()
        for run in known:
            touched = runs.touch(run.id)
            assert touched is not None
            touched.crashes += 1

    def note_progress(self, run: RunState) -> None:
        """Clear *run*, which may be changed: it got something done."""
        run.crashes = 0
        if self.trial == run.id:
            self.trial = 0
            self.on_cleared()

    def dump(self) -> list[int]:
        """Return the whole state as data that msgspec encodes."""
        return [int(self.is_running), self.trial]

    def load(self, dumped: list[int]) -> None:
        """Take in what `dump` returned."""
        running, self.trial = dumped
        self.is_running = bool(running)


def suspects(runs: RunTable) -> list[RunState]:
    """Return the runs whose code may have been executing, as far as the log says.

    All that are `RunTable.fresh` are so too.
    """
    return [run for run in runs.known if run.status == "active" and not _is_parked(run)]


def _is_parked(run: RunState) -> bool:
    """Say whether the code of *run* stands at a wait; one that spawned may be anywhere."""
    return any(step.status == "pending" and step.kind != "spawn" for step in run.steps.values())
