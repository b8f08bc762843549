"""Fixtures for pytest, which finds them by itself: `engine`, `timeline` and `virtual_time`.

Nothing of headrace is loaded before a test asks for one of them.  Async ones are run by
anyio's plugin, on the backends that `anyio_backend` names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.engine import Engine
    from headrace.engine.log import EventLog
    from headrace.testing import Timeline, VirtualTime


@pytest.fixture
def timeline() -> Timeline:
    """Return a `headrace.testing.Timeline` with nothing on it."""
    from headrace.testing import Timeline

    return Timeline()


@pytest.fixture
def headrace_app() -> App:
    """Return the app that `engine` runs: to be defined where tests use that."""
    raise pytest.UsageError(
        "engine: expected a fixture `headrace_app` that returns your headrace.App, found none; "
        "define it beside the test or in conftest.py"
    )


@pytest.fixture
def headrace_log() -> EventLog:
    """Return the log that `engine` runs over: a `MemoryLog`, unless it is defined otherwise."""
    from headrace.engine.log import MemoryLog

    return MemoryLog()


@pytest.fixture
async def virtual_time(
    anyio_backend: Any,  # noqa: ARG001 (so that anyio's plugin runs it, and the test)
) -> AsyncGenerator[VirtualTime]:
    """Let the test live in virtual time; see `headrace.testing.virtual_time`."""
    from headrace.testing import virtual_time

    async with virtual_time() as clock:
        yield clock


@pytest.fixture
async def engine(
    headrace_app: App, headrace_log: EventLog, virtual_time: VirtualTime
) -> AsyncGenerator[Engine]:
    """Return the engine of `headrace_app`, which is open, in virtual time."""
    from headrace.app import App

    if not isinstance(headrace_app, App):
        raise pytest.UsageError(
            f"engine: expected a fixture `headrace_app` that returns a headrace.App, found "
            f"{headrace_app!r}"
        )
    async with headrace_app.open(headrace_log, clock=virtual_time) as engine:
        yield engine
