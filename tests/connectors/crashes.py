"""`Crashes`: a source in a process of its own, killed in turn with its server while messages come.

What was acknowledged to the publisher is counted in the log afterwards.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import msgpack

from headrace.engine.log.reader import LogReader
from headrace.engine.record import EventStored, decode

PROGRAM: Final = """
import sys
import anyio
from headrace import App
{setup}
app = App("crashes")
app.source(source)

async def main():
    async with app.open(sys.argv[1]):
        await anyio.sleep_forever()

anyio.run(main)
"""
LOAD_S: Final = 0.4
"""How long messages come before something is killed."""
SETTLED_S: Final = 30.0


class Crashes:
    """The log of a source that was killed, and what its publisher was told."""

    def __init__(
        self,
        folder: Path,
        setup: str,
        publish: Callable[[int], None],
        gone: tuple[type[Exception], ...],
    ) -> None:
        """Take code that sets ``source``, and what publishes a message or raises one of *gone*."""
        self._program = PROGRAM.format(setup=setup)
        self._log = folder / "crashes.log"
        self._publish = publish
        self._gone = gone
        self._errors = folder / "stderr.txt"
        self._stop = threading.Event()
        self.acknowledged: list[int] = []
        self._tried = 0

    def run(self, cycles: int, kill: Callable[[], None], start: Callable[[], None]) -> None:
        """Kill the process and the server in turn, *cycles* times; then wait for all messages."""
        load = threading.Thread(target=self._load)
        process = self._start()
        load.start()
        try:
            for cycle in range(cycles):
                time.sleep(LOAD_S)
                if cycle % 2 == 0:
                    process.kill()
                    process.wait()
                    process = self._start()
                else:
                    kill()
                    time.sleep(0.1)
                    start()
            time.sleep(LOAD_S)
            self._stop.set()
            load.join()
            self._settle(process)
        finally:
            self._stop.set()
            load.join()
            process.kill()
            process.wait()

    def missing(self) -> list[int]:
        """Return the messages that were acknowledged and are not in the log."""
        return sorted(set(self.acknowledged) - self._counted().keys())

    def twice(self) -> list[int]:
        """Return the messages that are in the log more than once."""
        return sorted(number for number, count in self._counted().items() if count > 1)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._errors.open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-c", self._program, str(self._log)],
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def _load(self) -> None:
        while not self._stop.is_set():
            number, self._tried = self._tried, self._tried + 1
            try:
                self._publish(number)
            except self._gone:
                # It may be there or not: nobody was told.
                time.sleep(0.02)
            else:
                self.acknowledged.append(number)

    def _settle(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + SETTLED_S
        while missing := self.missing():
            assert process.poll() is None, self._errors.read_text()
            assert time.monotonic() < deadline, (
                f"{len(missing)} of {len(self.acknowledged)} are missing, such as {missing[:5]}; "
                f"{self._errors.read_text()[-2000:]}"
            )
            time.sleep(0.1)

    def _counted(self) -> Counter[int]:
        if not (self._log / "MANIFEST").exists():  # it is only being made
            return Counter()
        with LogReader(self._log) as log:
            records = [decode(raw) for _, group in log.read() for raw in group]
        return Counter(
            msgpack.decode(record.data)["number"]
            for record in records
            if isinstance(record, EventStored) and not record.subject.startswith("source.")
        )
