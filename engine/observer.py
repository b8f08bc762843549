"""`Observer`: who wants to know how runs execute, such as to make a trace of it.

Nothing that an observer does changes what happens, and a fold or a replay knows of none.  An
engine has none unless it is opened with one, and pays one test for that where it is.
"""

from __future__ import annotations

from typing import Protocol

from headrace.engine.commit import Pipeline
from headrace.engine.emission import Checked
from headrace.engine.record import AttemptFailed, RunCancelled, RunCompleted, RunFailed
from headrace.engine.run_state import RunState

RunEnd = RunCompleted | RunFailed | RunCancelled | AttemptFailed


class Observer(Protocol):
    """Implemented by `headrace.connectors.telemetry.RunSpans`.

    All methods belong to the event loop's thread, and raise nothing.
    """

    def take_in(self, events: list[Checked]) -> list[Checked]:
        """Return *events*, which a program emits, with the headers that they get here."""
        ...

    def headers(self, own: dict[str, str] | None = None) -> dict[str, str] | None:
        """Return the headers of what the code that executes now emits or launches.

        Those are *own*, and perhaps others; ``None``: there are none.
        """
        ...

    def begin(self, state: RunState, pipeline: Pipeline) -> None:
        """Note that an attempt of a run is executed from now on, in the task that calls this."""
        ...

    def wait(self, run_id: int) -> None:
        """Note that the code of a run waits: for a time, a signal or a pattern."""
        ...

    def go_on(self, run_id: int) -> None:
        """Note that the code of a run goes on after `wait`."""
        ...

    def met(self, run_id: int, events: list[int], pipeline: Pipeline) -> None:
        """Note by which events the pattern was met that the code of a run has waited for."""
        ...

    def end(self, record: RunEnd) -> None:
        """Note what an attempt or a run has come to."""
        ...

    def leave(self, run_id: int) -> None:
        """Note that no attempt of a run is executed any more; in the task that called `begin`."""
        ...
