"""`Snapshotter`: takes snapshots of a kernel at work, without holding it up.

The state is encoded in slices of half a millisecond, in turns with everything else that the
event loop does; compressing, writing and syncing happen in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import anyio

from headrace.engine.backend import in_own_thread
from headrace.engine.clock import NS, SystemClock, seconds_to_ns
from headrace.engine.commit import Pipeline
from headrace.engine.diagnostics import logger
from headrace.engine.errors import LogError
from headrace.engine.large_results import named_blobs
from headrace.engine.log.protocol import EventLog, SnapshotWriter
from headrace.engine.signal import Signal
from headrace.engine.snapshot import Snapshot, check_rules

R = TypeVar("R")

SLICE_NS: Final = 500_000
"""How long the event loop is held in one go."""
PAUSE_S: Final = 0.002
"""How long others have it then."""
PAUSE_S_MAX: Final = 0.1
STEP_ENTRIES: Final = 64
SETTLE_ENTRIES: Final = 256
BLOCK_BYTES: Final = 1024 * 1024
"""How much is given to the thread at once."""


class Snapshotter:
    """Takes a snapshot whenever *every* records have come since the last one.

    With a large state less often: not before as many records have come as it has entries, so
    that writing it out costs a fraction of what made it.
    """

    def __init__(self, pipeline: Pipeline, log: EventLog, *, every: int) -> None:
        """Begin to count; *every* 0: never by itself."""
        self._pipeline = pipeline
        self._log = log
        self._every = every
        self._clock = SystemClock()  # what is measured is this machine's work
        self._due = Signal()
        self._lock = anyio.Lock()
        self._unsettled: Snapshot | None = None
        self._next = pipeline.kernel.sequence + every
        last = pipeline.kernel.sequence
        # Not one of another log, say, that is ahead of this one: it was of no use.
        self.last_sequence = max((s for s in log.snapshots.sequences() if s <= last), default=0)
        """Sequence of the newest snapshot; 0: there is none."""

    @property
    def is_settled(self) -> bool:
        """Whether the kernel's tables are whole, so that another `Snapshotter` can begin."""
        return self._unsettled is None

    def note_commit(self) -> None:
        """Look whether one is due; costs next to nothing."""
        if self._every and self._pipeline.kernel.sequence >= self._next:
            self._due.send()

    async def run(self) -> None:
        """Take snapshots when they are due, until cancelled or the log fails."""
        while self._pipeline.failure is None:
            if not self._every or self._pipeline.kernel.sequence < self._next:
                await self._due.wait()
                continue
            try:
                await self.take()
            except (OSError, LogError) as error:
                # It is only a shortcut: the log is whole, and the next one may succeed.
                if self._pipeline.failure is None:
                    logger().warning("snapshot_failed", reason=str(error))

    async def take(self) -> int:
        """Take a snapshot of the state as it is now; return its sequence once it is durable.

        Then the log may remove what nobody needs any more.

        Raises:
            SnapshotUnusable: the log has records that are not understood here, or was run with
                other rules.
            OSError: the disk failed; older snapshots are as they were.
            DurabilityLost, LogFull: the log failed.
        """
        async with self._lock:
            kernel = self._pipeline.kernel
            self._next = kernel.sequence + self._every
            if self._unsettled is not None:
                await self._settle(self._unsettled)
            if self.last_sequence < kernel.sequence:
                check_rules(kernel)
                # Until it has settled the kernel's tables are in two parts; whatever happens
                # here, the next snapshot can begin only then.
                snapshot = self._unsettled = Snapshot(kernel)
                await self._save(snapshot)
                self.last_sequence = snapshot.sequence
                self._next = max(self._next, snapshot.sequence + snapshot.entries)
                await self._settle(snapshot)
            return self.last_sequence

    async def _save(self, snapshot: Snapshot) -> None:
        log, pipeline, sequence = self._log, self._pipeline, snapshot.sequence
        begun: list[SnapshotWriter] = []
        try:
            # asyncio's own cancellation may come while the thread has begun it.
            await self._in_thread(lambda: begun.append(log.snapshots.begin(sequence)))
            (file,) = begun
            await self._write(snapshot, file)
            await pipeline.committed(sequence)
            record = log.fetch([sequence])[sequence]
            # A snapshot lets older records go, so it must not be ahead of what survives.
            await self._in_thread(partial(log.sync, sequence))
            await self._in_thread(
                partial(file.finish, oldest_sequence=snapshot.oldest_sequence, record=record)
            )
        except BaseException:
            for file in begun:
                await self._in_thread(file.abort)
            raise
        kernel = pipeline.kernel
        held, upto = kernel.state.held_blobs(), kernel.sequence
        # What is not needed any more would be again, were the record lost that says so.
        await pipeline.committed(upto)
        await self._in_thread(partial(log.sync, upto))
        needed = kernel.state.runs.oldest_needed()
        await self._in_thread(partial(tidy_up, log, held, needed))

    async def _in_thread(self, call: Callable[[], R]) -> R:
        return await in_own_thread(self._pipeline.backend, call)

    async def _write(self, snapshot: Snapshot, file: SnapshotWriter) -> None:
        parts: list[bytes] = []
        size_bytes = 0
        is_last = False
        while not is_last:
            until_ns = self._clock.monotonic_ns() + SLICE_NS
            while size_bytes < BLOCK_BYTES and self._clock.monotonic_ns() < until_ns:
                part = snapshot.step(STEP_ENTRIES)
                if part is None:
                    is_last = True
                    break
                parts.append(part)
                size_bytes += len(part)
            if size_bytes >= BLOCK_BYTES or (is_last and parts):
                await self._in_thread(partial(file.write, parts))
                parts, size_bytes = [], 0
            elif not is_last:
                await self._pause()

    async def _settle(self, snapshot: Snapshot) -> None:
        snapshot.give_up()  # if it is not complete
        while self._unsettled is not None:
            until_ns = self._clock.monotonic_ns() + SLICE_NS
            while self._clock.monotonic_ns() < until_ns:
                if snapshot.settle(SETTLE_ENTRIES):
                    self._unsettled = None
                    return
            await self._pause()

    async def _pause(self) -> None:
        """Let others work; for longer where they have so much to do that they wait in a line."""
        until_ns = self._clock.monotonic_ns() + seconds_to_ns(PAUSE_S)
        await anyio.sleep(PAUSE_S)
        late_s = (self._clock.monotonic_ns() - until_ns) / NS
        if late_s > PAUSE_S:
            await anyio.sleep(min(PAUSE_S_MAX, late_s * 4))


def tidy_up(log: EventLog, held: set[bytes], needed: int | None) -> None:
    """Remove what is of no use any more: old snapshots, and what the log needs not keep.

    What is *needed* from a record on since the last snapshot was begun stays.  With old records
    go the results in files of their own that no other record names, but for those that are
    *held* by the state.
    """
    log.snapshots.prune()
    needs = [*log.snapshots.needs().values()]
    # Not below the only one: were it damaged, nothing would be left to start from.
    if len(needs) > 1:
        removed = log.retain(min(needs if needed is None else [*needs, needed]))
        if getattr(removed, "segments", 0):
            log.blobs.sweep(lambda: held | named_blobs(log))
