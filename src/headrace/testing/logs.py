"""Logs that misbehave: `FullLog`, `FailingLog` and `SlowLog`, each a `MemoryLog` otherwise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from headrace.engine.errors import DurabilityLost, LogFull
from headrace.engine.log.memory import MemoryLog

__all__ = ["FailingLog", "FullLog", "SlowLog"]


class SlowLog(MemoryLog):
    """A log whose disk is slow: each commit takes *delay_s*.

    In virtual time too.  While `hold` is set, commits wait for `release`.
    """

    def __init__(self, log_id: bytes | None = None, *, delay_s: float = 0.0) -> None:
        """Take *delay_s* seconds for a commit."""
        super().__init__(log_id)
        if not delay_s >= 0:
            raise ValueError(f"SlowLog: expected delay_s from 0, found {delay_s!r}")
        self.delay_s = delay_s
        self.hold = False
        self._is_due = False
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="headrace slow log")

    def commit(self) -> None:
        """See `MemoryLog`."""
        if self.hold:
            self._is_due = True
        elif self.delay_s:
            self._check_open()
            self._disk.submit(self._write, len(self._records))
        else:
            super().commit()

    def _write(self, upto: int) -> None:
        time.sleep(self.delay_s)
        notify = self._notify
        if notify is not None and self.failure is None and upto > self._committed:
            self._committed = upto
            self._pending_bytes = sum(map(len, self._records[upto:]))
            with suppress(RuntimeError):  # the loop is closed, and nobody is interested
                notify()

    def release(self) -> None:
        """Commit what waits, and hold nothing any more."""
        self.hold = False
        if self._is_due and self._notify is not None:
            self._is_due = False
            super().commit()

    def close(self) -> None:
        """See `MemoryLog`: a disk that is slow still writes."""
        self.hold = False
        super().close()
        self._disk.shutdown(wait=False, cancel_futures=True)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="headrace slow log")


class FailingLog(MemoryLog):
    """A log whose disk dies: from commit number *fail_at* on, nothing is durable.

    Then the engine ends with `DurabilityLost`.
    """

    def __init__(self, fail_at: int = 0) -> None:
        """Fail at commit *fail_at*, from 1; 0: when `die` is called."""
        super().__init__()
        self.fail_at = fail_at
        self.commits = 0

    def commit(self) -> None:
        """See `MemoryLog`."""
        if self._committed < len(self._records):
            self.commits += 1
            if self.commits == self.fail_at:
                self.die()
        super().commit()

    def die(self) -> None:
        """Lose the disk."""
        if self.failure is None:
            self.failure = DurabilityLost("fdatasync: the disk of the test has died")
            self._check_open()()


class FullLog(MemoryLog):
    """A log whose disk is full from commit number *full_at* on, until there is `room`.

    The engine looks for room every ``probe_s``, and goes on by itself.
    """

    def __init__(self, full_at: int = 0) -> None:
        """Be full at commit *full_at*, from 1; 0: when `fill` is called."""
        super().__init__()
        self.full_at = full_at
        self.full_at_append = False
        """Whether the next record that is appended finds no room."""
        self.commits = 0
        self.probes = 0
        """How often it was asked whether there is room again."""
        self.room = False
        """Whether there is room when that is asked."""

    def commit(self) -> None:
        """See `MemoryLog`."""
        if self._committed < len(self._records):
            self.commits += 1
            if self.commits == self.full_at:
                self.fill()
        super().commit()

    def fill(self) -> None:
        """Have no room any more."""
        if self.failure is None:
            self.failure = LogFull("the disk of the test is full")
            self._check_open()()

    def append(self, unit: Sequence[bytes]) -> None:
        """See `MemoryLog`: whoever appends may be the first to learn of it."""
        if self.full_at_append and self.failure is None:
            self.full_at_append = False
            self.failure = LogFull("the disk of the test is full")
        super().append(unit)

    def resume(self) -> bool:
        """See `MemoryLog`."""
        self.probes += 1
        return self.room and super().resume()
