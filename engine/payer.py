"""`Payer`: stores what was offered while no engine ran, before anything newer.

By the system clock an offer is stored at the log time of that moment; its own time says
when it happened.  By input its own time moves log time on, as if it were emitted now.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from typing import Final

from anyio.lowlevel import checkpoint

from headrace.engine.commit import Pipeline
from headrace.engine.errors import EngineClosed, LogError
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import EventOffered, EventStored, decode
from headrace.engine.signal import Signal

BATCH: Final = 200
"""Offers that are read from the log at once, and stored before other tasks get their turn."""


class Payer:
    """Pays the offers of one life of the kernel.  All methods belong to the event loop."""

    def __init__(
        self,
        pipeline: Pipeline,
        log: EventLog,
        *,
        changed: Signal,
        let_time_come: Callable[[int | None], Awaitable[int]],
    ) -> None:
        """*let_time_come* takes an offer's own time and returns the time of its record.

        *changed* is sent whenever records were committed or the log has failed.
        """
        self._pipeline = pipeline
        self._log = log
        self._changed = changed
        self._let_time_come = let_time_come
        self._offers = pipeline.kernel.state.offers
        self._is_stopped = False

    def stop(self) -> None:
        """Pay nothing more: the next start does."""
        self._is_stopped = True
        self._changed.send()

    async def paid(self) -> None:
        """Return once nothing is owed.

        Raises:
            EngineClosed: the engine stops, and something is.
            DurabilityLost, LogFull: the log has failed, and something is.
        """
        while self._offers.owed:
            if self._pipeline.failure is not None:
                raise self._pipeline.failure
            if self._is_stopped:
                raise EngineClosed(
                    "the engine is stopping, and what was offered before is not stored yet"
                )
            await self._changed.wait()

    async def run(self) -> None:
        """Pay what is owed, oldest first; whoever stores anything newer waits for `paid`."""
        with suppress(LogError):  # the log has failed, and whoever waits knows it
            while self._offers.owed and not self._is_stopped:
                batch = list(islice(self._offers.owed, BATCH))
                found = self._log.fetch(batch)
                for sequence in batch:
                    offered = decode(found[sequence])
                    assert isinstance(offered, EventOffered), offered
                    at_ns = await self._let_time_come(offered.time_ns)
                    if self._is_stopped:
                        return
                    self._pay(sequence, offered, at_ns)
                await checkpoint()

    def _pay(self, sequence: int, offered: EventOffered, at_ns: int) -> None:
        source = self._pipeline.source(offered.source, at_ns) if offered.source else 0
        self._pipeline.put(
            EventStored(
                at_ns,
                offered.subject,
                offered.data,
                source,
                id=offered.id,
                time_ns=offered.time_ns,
                key=offered.key,
                offer=sequence,
                headers=offered.headers,
            )
        )
