"""Results that are too large for a record: stored before the record that names them."""

from __future__ import annotations

from functools import partial
from typing import Final

from msgspec import Raw

from headrace.engine.backend import in_own_thread
from headrace.engine.commit import Pipeline
from headrace.engine.errors import LogError
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import RunCompleted, decode, encode

NIL: Final = Raw(b"\xc0")
"""What a record says in place of a result that is elsewhere."""
_BEGINNING: Final = encode(RunCompleted(0, 0, NIL, b""))[:2]
"""How the records begin that name one."""


async def store_result(pipeline: Pipeline, result: Raw) -> bytes | None:
    """Store *result* durably and return its digest; ``None``: the log has failed of it."""
    store = partial(pipeline.log.blobs.put, bytes(result))
    try:
        return await in_own_thread(pipeline.backend, store)
    except LogError as error:
        if pipeline.failure is None:
            pipeline.fail(error)
        return None


def named_blobs(log: EventLog) -> set[bytes]:
    """Return the digests of the results that the records of *log* name."""
    found: set[bytes] = set()
    for _, records in log.read():
        for raw in records:
            if raw[:2] == _BEGINNING:
                record = decode(raw)
                if isinstance(record, RunCompleted) and record.blob is not None:
                    found.add(record.blob)
    return found
