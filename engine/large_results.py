"""Results that are too large for a record: stored before the record that names them."""

from __future__ import annotations

from functools import partial
from typing import Final

from msgspec import Raw

from headrace.engine.backend import in_own_thread
from headrace.engine.clock import Clock, seconds_to_ns
from headrace.engine.commit import Pipeline
from headrace.engine.diagnostics import logger
from headrace.engine.errors import LogError, LogFull
from headrace.engine.log.named import named_result
from headrace.engine.restore import ReadableLog

NIL: Final = Raw(b"\xc0")
"""What a record says in place of a result that is elsewhere."""


async def store_result(
    pipeline: Pipeline, result: Raw, clock: Clock, probe_s: float
) -> bytes | None:
    """Store *result* durably and return its digest; ``None``: the log has failed.

    On a full disk it waits for room, and looks again every *probe_s*.  Nothing else has to: the
    records of others may fit, and what the log says is not ahead of the disk because of this.
    """
    store = partial(pipeline.log.blobs.put, bytes(result))
    is_told = False
    while pipeline.failure is None:
        try:
            return await in_own_thread(pipeline.backend, store)
        except LogFull as full:
            if not is_told:
                logger().warning("disk_full", error=str(full), again_in_s=probe_s)
            is_told = True
            await clock.sleep_until(clock.monotonic_ns() + seconds_to_ns(probe_s))
        except LogError as error:
            if pipeline.failure is None:
                pipeline.fail(error)
    return None


def named_blobs(log: ReadableLog) -> set[bytes]:
    """Return the digests of the results that the records of *log* name."""
    records = (record for _, batch in log.read() for record in batch)
    return {named.digest for named in map(named_result, records) if named is not None}
