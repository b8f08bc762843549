"""`in_force`: lets the event loop that is running go by a `VirtualTime`.

Neither loop can be given another clock while it runs, and a test framework starts it before a
test has its say.  So this reaches into them: into the selector of an asyncio loop, and for the
clock of trio's runner.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from headrace.engine.clock import NS
from headrace.testing.virtual import VirtualTime

if TYPE_CHECKING:
    import trio

FOREVER_S: Final = 999_999_999.0


@contextmanager
def in_force(virtual: VirtualTime) -> Generator[None]:
    """Let the running loop go by *virtual*.

    Raises:
        RuntimeError: it cannot.
    """
    if is_trio_running():
        with _in_trio(virtual):
            yield
    else:
        with _in_asyncio(virtual, asyncio.get_running_loop()):
            yield


def is_trio_running() -> bool:
    """Say whether it is trio's loop that is running."""
    trio: Any = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


@contextmanager
def _in_asyncio(virtual: VirtualTime, loop: asyncio.AbstractEventLoop) -> Generator[None]:
    selector: Any = getattr(loop, "_selector", None)
    if selector is None or not inspect.ismethod(getattr(selector, "select", None)):
        found = f"{type(loop).__module__}.{type(loop).__qualname__}"
        raise RuntimeError(
            f"virtual_time: expected an event loop of asyncio's own, or trio, in real time, found "
            f"{found}; run the test on another loop, and only one virtual_time at a time"
        )
    select = selector.select

    def select_in_virtual_time(timeout: float | None = None) -> Any:
        is_alone = virtual.is_alone
        events = select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        return select(0 if is_alone and virtual.idle(timeout) else None)

    place: Any = loop
    selector.select = select_in_virtual_time
    place.time = lambda: virtual.monotonic_ns() / NS
    virtual.wake = lambda: loop.call_soon_threadsafe(bool)
    try:
        yield
    finally:
        del selector.select
        del place.time


@contextmanager
def _in_trio(virtual: VirtualTime) -> Generator[None]:
    import trio
    import trio.testing
    from trio._core import _run

    context: Any = _run.GLOBAL_RUN_CONTEXT
    runner = context.runner
    before = runner.clock
    if isinstance(before, trio.testing.MockClock) or type(before).__name__ == "TrioClock":
        raise RuntimeError(
            f"virtual_time: expected trio in real time, found the clock {before!r}; leave it out, "
            f"and use only one virtual_time at a time"
        )
    token = trio.lowlevel.current_trio_token()
    clock, steps = _trio_clock(virtual, runner)
    virtual.wake = lambda: token.run_sync_soon(bool)
    trio.lowlevel.add_instrument(steps)
    runner.clock = clock
    try:
        yield
    finally:
        runner.clock = before
        trio.lowlevel.remove_instrument(steps)


def _trio_clock(virtual: VirtualTime, runner: Any) -> tuple[trio.abc.Clock, trio.abc.Instrument]:
    """Return the clock, and what tells it that a task has taken a step."""
    import trio

    class TrioClock(trio.abc.Clock):
        is_alone = has_looked = False
        """Whether nothing has happened since it was looked whether there is anything to read."""

        def start_clock(self) -> None:
            pass

        def current_time(self) -> float:
            return virtual.monotonic_ns() / NS

        def deadline_to_sleep_time(self, deadline: float) -> float:
            # trio asks when no task can run.
            left_s = deadline - self.current_time()
            if left_s <= 0:
                return 0.0
            if runner.waiting_for_idle:
                return FOREVER_S  # trio wakes those first that wait for this moment
            if not self.has_looked:
                self.has_looked, self.is_alone = True, virtual.is_alone
                return 0.0
            if self.is_alone and virtual.idle(None if deadline == float("inf") else left_s):
                self.has_looked = False
                return 0.0
            return FOREVER_S

    clock = TrioClock()

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            clock.has_looked = False

    return clock, Steps()
