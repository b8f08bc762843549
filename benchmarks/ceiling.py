"""The bare hot loops: the work of W1 and W2 without an engine, and so what there is to reach.

They encode, look a rule up, ask its predicate, sync groups of records in a thread, and let
resident workers do what follows.  They check nothing and recover nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from pathlib import Path

import msgspec
from common import SUBJECT, Sample, is_hot

ENCODE = msgspec.msgpack.Encoder().encode


class Committer:
    """Writes and syncs what was put meanwhile, group by group; one future for each group."""

    def __init__(self, path: Path) -> None:
        self.loop, self.parts = asyncio.get_running_loop(), list[bytes]()
        self.file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self.done = self.loop.create_future()
        self.at_work: asyncio.Task[None] | None = None

    def commit(self) -> asyncio.Future[None]:
        """Return what is done once all that was put is synced."""
        self.at_work = self.at_work or self.loop.create_task(self._work())
        return self.done

    async def _work(self) -> None:
        while self.at_work:
            parts, done = self.parts, self.done
            self.parts, self.done = [], self.loop.create_future()
            await self.loop.run_in_executor(None, self._write, parts)
            done.set_result(None)
            self.at_work = self.at_work if self.parts else None

    def _write(self, parts: list[bytes]) -> None:
        os.write(self.file, b"".join(parts))
        os.fdatasync(self.file)


async def w1(events: list[Sample], path: Path, *, group: int = 1000, emitters: int = 2) -> float:
    """Emit *events* in groups; return how many a second were stored, with all that follows."""
    committer, rules, sequence = Committer(path), {SUBJECT: ("hot", is_hot)}, 0
    seen, ready, wake = dict[str, float](), deque[tuple[int, Sample]](), asyncio.Event()

    async def update(event: Sample) -> None:
        seen[event.device] = event.temp

    async def work() -> None:
        while await wake.wait():
            while ready:
                cause, event = ready.popleft()
                await update(event)
                committer.parts.append(ENCODE((3, time.time_ns(), cause, None)))
            wake.clear()

    async def emit(mine: list[Sample]) -> None:
        nonlocal sequence
        for first in range(0, len(mine), group):
            put, fired = committer.parts.append, list[tuple[int, Sample]]()
            for event in mine[first : first + group]:
                sequence += 1
                put(ENCODE((1, time.time_ns(), SUBJECT, event, None, None, None, None)))
                rule, predicate = rules[SUBJECT]
                if predicate(event):
                    put(ENCODE((64, rule, sequence, sequence)))
                    fired.append((sequence, event))
            await committer.commit()
            ready.extend(fired)
            wake.set()

    workers = [asyncio.create_task(work()) for _ in range(8)]
    start = time.perf_counter()
    await asyncio.gather(*(emit(events[n::emitters]) for n in range(emitters)))
    await asyncio.sleep(0)  # the workers' turn
    await committer.commit()
    assert len(workers) > len(ready)
    return len(events) / (time.perf_counter() - start)


async def w2(count: int, path: Path, *, in_flight: int = 1000) -> float:
    """Do *count* workflows of three awaited group commits each; return how many a second."""
    committer, left = Committer(path), iter(range(count))

    async def work() -> None:
        for number in left:
            for step in range(3):
                committer.parts.append(ENCODE((3, time.time_ns(), number, step, "d1", None)))
                await committer.commit()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return count / (time.perf_counter() - start)
