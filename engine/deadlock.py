"""Waits that could never end: a run that waits for its own end, or for that of a parent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.engine.errors import WaitsForItself
from headrace.engine.run_state import RunState


def check_wait(
    runs: Mapping[int, RunState], hosted: Mapping[int, tuple[Any, int]], current: Any, wanted: int
) -> None:
    """Refuse to wait for the run *wanted* in the code of itself or of one of its children.

    *hosted* has the asyncio or trio task that executes each run, and how many calls it has
    made; *current* is the one that wants to wait.

    Raises:
        WaitsForItself: it would wait for ever.
    """
    todo = [wanted]
    while todo:
        run_id = todo.pop()
        run = runs.get(run_id)
        if run is None:
            continue
        host, calls = hosted.get(run_id, (None, 0))
        if host is not None and host is current:
            found = "itself" if run_id == wanted else f"run {wanted} of {runs[wanted].task!r}"
            why = "" if run_id == wanted else ", which does not end before this one"
            raise WaitsForItself(
                f"run {run_id} of {run.task!r}, after call {calls}: expected to wait for another "
                f"run, found that it waits for {found}{why}; return, and let the parent go on, or "
                f"launch a run for what is to come after"
            )
        todo += [step.sequence for step in run.steps.values() if step.status == "pending"]
