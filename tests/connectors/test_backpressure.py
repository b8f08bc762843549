"""An engine that is slow slows its sources, whatever it is that is slow; nothing piles up in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from tests.conformance.line_queue import LineQueue
from tests.conformance.test_write_your_own import page

from headrace import App, Engine, Firing, MemoryLog, Run, on
from headrace.connectors.feeder import Feeder
from headrace.connectors.intake import SourceStatus
from headrace.connectors.memory import Memory, Message, Topic
from headrace.testing import SlowLog
from headrace.testing.lives import until

pytestmark = pytest.mark.slow

__all__ = ["page"]

WITHIN_S = 20.0
STILL_S = 0.3
"""For so long nothing more is taken."""
PENDING_MAX = 50
KILOBYTES = 10
MESSAGES = 3000
CHUNK_MAX = 4096


def status_of(engine: Engine) -> SourceStatus:
    (feeder,) = engine.companions
    assert isinstance(feeder, Feeder)
    return feeder.status


@pytest.fixture
def queue() -> Iterator[LineQueue]:
    made = LineQueue()
    made.start()
    yield made
    made.kill()


@pytest.mark.slow
async def test_slow_disk_slows_the_server_through_the_network(
    page: dict[str, Any], queue: LineQueue
) -> None:
    """Of 30 MB hardly more than a message is in flight; the rest waits there, and comes."""
    app, log = App("slow"), SlowLog()
    app.source(page["lines"].Lines("127.0.0.1", queue.port))
    async with app.open(log) as engine:
        status = status_of(engine)
        await until(lambda: status.state == "connected", "a connection", within_s=WITHIN_S)
        log.hold = True
        for number in range(MESSAGES):
            queue.publish(f"m{number}", b'"%s"' % (b"x" * KILOBYTES * 1000))
        await until(lambda: status.in_flight > 0, "an event", within_s=WITHIN_S)
        most = 0
        with anyio.move_on_after(STILL_S):
            while True:
                most = max(most, status.in_flight)
                await anyio.sleep(0.001)
        assert most <= CHUNK_MAX / (KILOBYTES * 1000) + 1
        assert len(queue) == MESSAGES
        log.release()
        await until(lambda: not len(queue), "all of them", within_s=WITHIN_S)
        assert (status.stored, status.duplicates) == (MESSAGES, 0)


async def test_slow_tasks_slow_the_source() -> None:
    """While too many runs are pending the source takes nothing more, and then goes on."""
    topic, go, started = Topic(), anyio.Event(), 0
    app = App("slow")
    app.source(Memory(topic))

    @app.rule(on("a.b"))
    async def work(run: Run, firing: Firing[Any]) -> None:
        nonlocal started
        started += 1
        await go.wait()

    async with app.open(MemoryLog(), pending_runs_max=PENDING_MAX) as engine:
        status = status_of(engine)
        for number in range(10):
            for _ in range(PENDING_MAX):
                topic.publish(Message("a.b", number))
            await until_still(engine)
        # The first that comes when there are too many waits; so do all behind it.
        assert started <= 2 * PENDING_MAX
        assert len(topic) >= 8 * PENDING_MAX
        assert status.in_flight <= 9 * PENDING_MAX
        go.set()
        await until(lambda: not len(topic), "all of them", within_s=WITHIN_S)
        await engine.drain()
    assert (started, status.stored) == (10 * PENDING_MAX, 10 * PENDING_MAX)


async def until_still(engine: Engine) -> None:
    """Return once nothing more is stored."""
    last = -1
    while last != engine.kernel.sequence:
        last = engine.kernel.sequence
        await anyio.wait_all_tasks_blocked()
