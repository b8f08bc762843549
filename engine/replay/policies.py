"""`Policies`: whether a run would have been tried as it was, under today's policies of tasks.

Only what can be said from the log: how often it was tried, when, and how each attempt ended.
"""

from __future__ import annotations

from typing import Any, Protocol

from headrace.engine.run_state import RunState


class Policies(Protocol):
    """See above."""

    def unlike(self, run: RunState, record: Any, *, now_ns: int) -> str | None:
        """Return why *record*, the next of *run*, would not be; ``None``: it would."""
        ...
