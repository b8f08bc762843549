"""The workflows and activities of `with_temporal.py`: they cannot be declared in a function."""

from __future__ import annotations

import time
from datetime import timedelta

from temporalio import activity, workflow

SEEN: dict[str, float] = {}
TOOK: list[float] = []
LIMIT = timedelta(seconds=30)


@activity.defn
async def update(device: str, temp: float) -> None:
    """Update the dict."""
    SEEN[device] = temp


@activity.defn
async def first(device: str) -> str:
    """Hand on."""
    return device


@activity.defn
async def second(device: str) -> int:
    """End."""
    return len(device)


@workflow.defn
class Update:
    """One step."""

    @workflow.run
    async def run(self, device: str, temp: float) -> None:
        """Do it."""
        await workflow.execute_local_activity(
            update, args=[device, temp], start_to_close_timeout=LIMIT
        )


@workflow.defn
class Chained:
    """Two chained steps."""

    @workflow.run
    async def run(self, device: str, local: bool) -> int:  # noqa: FBT001 (Temporal passes it)
        """Do them."""
        execute = workflow.execute_local_activity if local else workflow.execute_activity
        device = await execute(first, device, start_to_close_timeout=LIMIT)
        return await execute(second, device, start_to_close_timeout=LIMIT)


@workflow.defn
class React:
    """Nothing but a first line."""

    @workflow.run
    async def run(self, sent: float) -> None:
        """Note when it began."""
        TOOK.append((time.perf_counter() - sent) * 1e3)
