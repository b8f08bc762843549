"""The writer: one thread that makes durable what the event loop appended.

Nothing waits for a group to fill: the thread takes whatever is queued when it is free, and
what comes meanwhile is its next batch.  So a lone record costs one sync, and under load the
groups grow by themselves.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from headrace.engine.clock import NS, Clock
from headrace.engine.errors import DurabilityLost, LogClosed, LogError
from headrace.engine.log.group import Group, merged
from headrace.engine.log.protocol import Durability
from headrace.engine.log.store import Store

BATCH_BYTES: Final = 4 * 1024 * 1024
"""No further groups are taken into a batch once it has this size."""

IDLE_S: Final = 1.0
"""How often an idle writer looks whether the program has ended without closing the log."""


class Writer:
    """Takes groups from the event loop's thread and writes them in one of its own.

    Each attribute is set by one thread only and read by the others, so there is no lock but
    that of those who wait for a sync.
    """

    def __init__(
        self,
        store: Store,
        *,
        durability: Durability,
        sync_interval_s: float,
        clock: Clock,
        notify: Callable[[], None],
    ) -> None:
        """Start the thread, which calls *notify* when something has changed."""
        self._store = store
        self._durability = durability
        self._sync_interval_ns = round(sync_interval_s * NS)
        self._clock = clock
        self.notify = notify
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self._sync_due_ns = 0
        self._synced = threading.Condition()
        self._wanted_sequence = 0
        self._has_ended = False
        self.queue: deque[Group] = deque()
        """Groups that are not written yet, for those who want to read them."""
        self.written_bytes = 0
        self.failure: LogError | None = None
        # Not a daemon: those are killed at exit in the middle of a write.
        self._thread = threading.Thread(target=self._run, name="headrace-log", daemon=False)
        self._thread.start()

    def submit(self, group: Group) -> None:
        """Have *group* written, after those before it.  Never blocks."""
        self.queue.append(group)
        self._wake.put(None)

    def sync(self, sequence: int) -> None:
        """Return once the record at *sequence*, which was submitted, is durable.  Blocks.

        Raises:
            LogClosed, DurabilityLost, LogFull: the thread has ended before.
        """
        store = self._store
        with self._synced:
            self._wanted_sequence = max(self._wanted_sequence, sequence)
            self._wake.put(None)
            self._synced.wait_for(lambda: store.durable_sequence >= sequence or self._has_ended)
        if store.durable_sequence < sequence:
            raise self.failure or LogClosed(
                f"{store.active.path}: expected record {sequence} to be made durable, found the "
                "log closed; open it again"
            )

    def stop(self) -> None:
        """Write what was submitted, unless the log has failed, and end the thread.  Blocks."""
        self._stopping = True
        self._wake.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        try:
            self._write_until_stopped()
            ended = True
        except LogError as error:
            self.failure = error
        finally:
            if self.failure is None and not ended:
                # A bug, or no memory: whoever waits must not wait for ever.
                self.failure = DurabilityLost(
                    f"{self._store.active.path}: expected the writer to go on, found it ended "
                    f"after record {self._store.durable_sequence}; open the log again"
                )
            if self.failure is not None:
                self.notify()
            self._has_ended = True
            self._tell_synced()

    def _tell_synced(self) -> None:
        with self._synced:
            self._synced.notify_all()

    def _write_until_stopped(self) -> None:
        main_thread = threading.main_thread()
        while True:
            self._wait()
            if self.queue:
                self._write_batch()
                # Now that nobody waits for it.
                self._store.write_index()
            elif self._stopping or not main_thread.is_alive():
                return
            if self._sync_is_due():
                self._sync()
            self._tell_synced()

    def _sync_is_due(self) -> bool:
        store = self._store
        if store.durable_sequence < self._wanted_sequence <= store.written_sequence:
            return True
        return bool(self._sync_due_ns) and self._clock.monotonic_ns() >= self._sync_due_ns

    def _wait(self) -> None:
        """Return when there may be something to do."""
        timeout_s = IDLE_S
        if self._sync_due_ns:
            left_ns = self._sync_due_ns - self._clock.monotonic_ns()
            timeout_s = min(IDLE_S, max(0.0, left_ns / NS))
        try:
            if not self.queue and not self._stopping:
                self._wake.get(timeout=timeout_s)
            # One waking serves all that came before it.
            while True:
                self._wake.get_nowait()
        except Empty:
            return

    def _write_batch(self) -> None:
        taken, size_bytes = 1, self.queue[0].size_bytes
        while taken < len(self.queue) and size_bytes < BATCH_BYTES:
            size_bytes += self.queue[taken].size_bytes
            taken += 1
        # One by one: a deque that grows, as this one may at any time, cannot be iterated over.
        groups = [self.queue[place] for place in range(taken)]
        self._store.write(merged(groups) if taken > 1 else groups)
        if self._durability == "fsynced":
            self._store.sync()
        elif not self._sync_due_ns:
            self._sync_due_ns = self._clock.monotonic_ns() + self._sync_interval_ns
        # Only now, so that a reader finds a record in the file or here, never in neither.
        for _ in range(taken):
            self.queue.popleft()
        self.written_bytes += size_bytes
        self.notify()

    def _sync(self) -> None:
        self._sync_due_ns = 0
        self._store.sync()
        self.notify()
