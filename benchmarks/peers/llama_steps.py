"""The workflows of `with_llama_index.py`: steps are found by the types of their module."""

from __future__ import annotations

import time

from workflows import Workflow, step
from workflows.events import Event, StartEvent, StopEvent


class Middle(Event):
    """What the first of two steps gives to the second."""

    device: str


class Update(Workflow):
    """One step that updates a dict."""

    @step
    async def update(self, ev: StartEvent) -> StopEvent:
        """Update it."""
        ev.seen[ev.device] = ev.temp
        return StopEvent(result=None)


class Chained(Workflow):
    """Two steps."""

    @step
    async def first(self, ev: StartEvent) -> Middle:
        """Hand on."""
        return Middle(device=ev.device)

    @step
    async def second(self, ev: Middle) -> StopEvent:
        """End."""
        return StopEvent(result=len(ev.device))


class React(Workflow):
    """One step that notes when it began."""

    @step
    async def react(self, ev: StartEvent) -> StopEvent:
        """Note it."""
        ev.took.append((time.perf_counter() - ev.sent) * 1e3)
        return StopEvent(result=None)
