"""Reading a part of a log and stopping in the middle, while it is written."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress

from headrace.engine.log.protocol import EventLog


@contextmanager
def reading(log: EventLog, *, after: int) -> Generator[Iterator[tuple[int, list[bytes]]]]:
    """Give what `EventLog.read` gives; its files are closed at the end of the block.

    A disk that fails when they are closed is no loss: what was wanted has been read.
    """
    batches = log.read(after=after)
    try:
        yield batches
    finally:
        if isinstance(batches, Generator):
            with suppress(OSError):
                batches.close()
