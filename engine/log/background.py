"""What an open log does to its finished segments while nobody waits for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Final

from headrace.engine.clock import NS, Clock
from headrace.engine.errors import LogError
from headrace.engine.log import index_file
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.compression import compress
from headrace.engine.log.files import Files
from headrace.engine.log.manifest import Segment

LOOK_S: Final = 5.0
"""How long after `open` the work begins, and how often it is looked for more."""

REST_S_MAX: Final = 0.1
"""The longest rest between two pieces of work; else it rests as long as it worked."""


class Background:
    """A thread that writes index files that are missing or wrong, and compresses if it should.

    It never makes the log fail: what does not succeed is left as it is.  Damage that it meets
    is for whoever reads the segment to report.
    """

    def __init__(
        self,
        files: Files,
        folder: str,
        catalog: Catalog,
        *,
        compresses: bool,
        healthy: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """Start the thread.  It works only while *healthy* says so."""
        self._files = files
        self._folder = folder
        self._catalog = catalog
        self._compresses = compresses
        self._healthy = healthy
        self._clock = clock
        self._stopping = threading.Event()
        self._worked_until_ns = 0
        self._done: set[tuple[int, bytes]] = set()
        # A daemon: to be killed in the middle is what its work is made for.
        self._thread = threading.Thread(target=self._run, name="headrace-background", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it is at is given up.  Blocks for a moment."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            if self._healthy():  # if not, it may be again: once there is room on a full disk
                self.work()

    def work(self) -> None:
        """Do what there is to do now."""
        self._worked_until_ns = self._clock.monotonic_ns()
        for entry in self._catalog.manifest.segments[:-1]:
            if (entry.base, entry.file.digest) in self._done:
                continue
            with contextlib.suppress(OSError, LogError):
                self._improve(entry)
            if not self._pause():
                return  # perhaps in the middle of this one
            # Once is enough: what did not succeed would not succeed each time.
            self._done.add((entry.base, entry.file.digest))

    def _improve(self, entry: Segment) -> None:
        if self._compresses and entry.packed is None:
            packed = compress(self._files, self._folder, self._catalog, entry, pause=self._pause)
            if packed is not None:
                self._done.add((entry.base, packed.digest))
                return
        if index_file.load(self._files, self._folder, entry.base, entry.file.digest) is None:
            index_file.rebuild(self._files, self._folder, entry, pause=self._pause)

    def _pause(self) -> bool:
        """Rest for as long as was worked; say whether to go on."""
        worked_s = (self._clock.monotonic_ns() - self._worked_until_ns) / NS
        stopped = self._stopping.wait(min(worked_s, REST_S_MAX))
        self._worked_until_ns = self._clock.monotonic_ns()
        return not stopped and self._healthy()
